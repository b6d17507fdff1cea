"""Requests made from the OpenAPI documents, right and wrong ones: no API ever answers 500."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode

from coe.registry.schema import Registry
from coe.service.service import build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.live import TEXT, live_world
from tests.support.serving import serving, serving_app

pytestmark = pytest.mark.slow

REGISTRY = Registry.model_validate(
    {
        "pool": {"hosts": [{"id": "slot"}]},
        "experts": [{"id": name, "host": "slot", "model": name} for name in ("sums", "words")],
        "routers": {"default": "random"},
    }
)


TOKEN = "t" * 32
ADMIN = "service: {port: 0, admin: {port: 0, token_env: T}}\n"


@contextmanager
def on_a_thread(app: Callable[[], AbstractAsyncContextManager[str]]) -> Iterator[str]:
    """A service on a thread of its own: the requests come from outside any event loop."""
    started, end = threading.Event(), threading.Event()
    found: list[str] = []

    async def run() -> None:
        async with app() as address:
            found.append(address)
            started.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    started.wait()
    yield found[0]
    end.set()
    thread.join()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    @asynccontextmanager
    async def public() -> AsyncIterator[str]:
        service = build_service(REGISTRY, Path(), lambda *_: FakeEngine("slot", Script(text="four")))
        async with serving(service) as address:
            yield address

    with on_a_thread(public) as address:
        yield address


@pytest.fixture(scope="module")
def admin_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("admin")

    @asynccontextmanager
    async def admin() -> AsyncIterator[str]:
        async with (
            live_world(folder, text=TEXT + ADMIN) as world,
            serving_app(world.service.admin_gateway(TOKEN).app()) as address,
        ):
            yield address

    with on_a_thread(admin) as address:
        yield address


def test_no_request_makes_the_service_fail(url: str) -> None:
    operations = [
        found.ok() for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()
    ]
    assert len(operations) >= 8
    for operation in operations:
        _ask_much(operation.as_strategy())
        if operation.body:
            _ask_much(operation.as_strategy(GenerationMode.NEGATIVE))


def test_no_request_makes_the_admin_api_fail(admin_url: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    document = schemathesis.openapi.from_url(f"{admin_url}/admin/openapi.json", headers=headers)
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 9
    for operation in operations:
        _ask_much(operation.as_strategy(), headers)
        if operation.body:
            _ask_much(operation.as_strategy(GenerationMode.NEGATIVE), headers)


@pytest.mark.parametrize(
    "path", ["status", "experts", "experts/sums", "registry/history", "registry/history?compare=1"]
)
def test_the_admin_api_answers_as_its_document_says(admin_url: str, path: str) -> None:
    with httpx.Client(base_url=admin_url, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        document = http.get("/admin/openapi.json").json()
        answer = http.get(f"/admin/{path}").json()
    described = document["paths"]["/admin/" + path.partition("?")[0].replace("sums", "{id}")]["get"]
    schema = described["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(answer, {**schema, "components": document["components"]})


def test_the_admin_document_needs_the_token(admin_url: str) -> None:
    assert httpx.get(f"{admin_url}/admin/openapi.json").status_code == 401


def _ask_much(strategy: SearchStrategy[schemathesis.Case], headers: Mapping[str, str] | None = None) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def ask(case: schemathesis.Case) -> None:
        response = case.call(timeout=30, headers=dict(headers or {}))
        code = response.status_code
        assert code < 500, f"{case.as_curl_command()}: {code} {response.text[:500]}"

    ask()
