"""The route table: what is served is described, and what is described is served."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route, Router

from coe.gateway.http import ANY_METHOD, Endpoint, Exchange
from coe.gateway.metrics import Metrics
from coe.gateway.routes import Operation, build_document, build_router
from coe.gateway.schemas import Alive
from tests.support.gateway import World, world
from tests.support.live import TEXT, live_world
from tests.support.serving import serving_app

ADMIN = "service: {port: 0, admin: {port: 0, token_env: T}}\n"


async def answer(exchange: Exchange) -> None:
    await exchange.send_json({"status": "ok", "method": exchange.scope["method"]})


def served(app: Router) -> set[str]:
    """Paths that the app answers, spelt as in a document."""
    return {route.path.replace(":path}", "}") for route in app.routes if isinstance(route, Route)}


def undescribed(app: Router, operations: Sequence[Operation]) -> list[str]:
    """What a reader of the document would miss."""
    document = build_document("test", operations)
    missing = sorted(served(app) ^ set(document["paths"]))
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            whole = described["summary"] and described["responses"]["200"]["content"]
            missing += [] if whole and described["responses"]["default"] else [f"{method} {path}"]
    return missing


async def test_every_endpoint_of_the_api_is_described() -> None:
    async with world() as w:
        assert undescribed(w.service.gateway.app(), w.service.gateway.operations) == []
        assert set((await w.http.get("/openapi.json")).json()["paths"]) == served(w.service.gateway.app())


async def test_every_endpoint_of_the_admin_api_is_described_and_on_its_page(tmp_path: Path) -> None:
    async with live_world(tmp_path, text=TEXT + ADMIN) as w:
        gateway = w.service.admin_gateway("t" * 32)
    assert undescribed(gateway.app(), gateway.operations) == []
    page = (Path(__file__).parents[1] / "docs" / "reference" / "api.md").read_text()
    assert [each.path for each in gateway.operations if f"{each.method} {each.path}" not in page] == []


def test_an_endpoint_without_a_description_is_refused() -> None:
    with pytest.raises(ValueError, match="GET /v1/new has no summary"):
        Operation("GET", "/v1/new", answer, " ", Alive)


@asynccontextmanager
async def two_methods(w: World) -> AsyncIterator[httpx.AsyncClient]:
    operations = [Operation(name, "/x/{id}", answer, "Try it", Alive) for name in ("GET", "POST")]
    metrics = Metrics(w.service)
    app = build_router(operations, Endpoint("other", {ANY_METHOD: answer}, metrics), metrics)
    async with serving_app(app) as url, httpx.AsyncClient(base_url=url) as http:
        yield http


async def test_each_method_of_a_path_has_its_handler_and_others_are_refused() -> None:
    async with world() as w, two_methods(w) as http:
        for method in ("GET", "POST"):
            assert (await http.request(method, "/x/a/b")).json()["method"] == method
        assert (await http.head("/x/1")).status_code == 200
        refused = await http.put("/x/1")
        elsewhere = await http.delete("/y")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST")
    assert "GET and POST only" in refused.json()["error"]["message"]
    assert elsewhere.json()["method"] == "DELETE"
