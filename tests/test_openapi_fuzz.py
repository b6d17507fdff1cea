"""Requests made from the OpenAPI document, right and wrong ones: the service never answers 500."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode

from coe.local import build_service
from coe.registry.models import Registry
from coe.testing.engines import FakeEngine, Script
from coe.testing.serving import serving

REGISTRY = Registry.model_validate(
    {
        "pool": {"hosts": [{"id": "slot"}]},
        "experts": [{"id": name, "host": "slot", "model": name} for name in ("sums", "words")],
        "routers": {"default": "random"},
    }
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A service on a thread of its own: the requests come from outside any event loop."""
    started, end = threading.Event(), threading.Event()
    found: list[str] = []

    async def run() -> None:
        service = build_service(REGISTRY, Path(), lambda *_: FakeEngine("slot", Script(text="four")))
        async with serving(service) as address:
            found.append(address)
            started.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    started.wait()
    yield found[0]
    end.set()
    thread.join()


def test_no_request_makes_the_service_fail(url: str) -> None:
    operations = [
        found.ok() for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()
    ]
    assert len(operations) >= 8
    for operation in operations:
        _ask_much(operation.as_strategy())
        if operation.body:
            _ask_much(operation.as_strategy(GenerationMode.NEGATIVE))


def _ask_much(strategy: SearchStrategy[schemathesis.Case]) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def ask(case: schemathesis.Case) -> None:
        response = case.call(timeout=30)
        code = response.status_code
        assert code < 500, f"{case.as_curl_command()}: {code} {response.text[:500]}"

    ask()
