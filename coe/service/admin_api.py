"""The admin API on HTTP: a separate app for a separate port, closed to everyone without the token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from coe.core.errors import BadHttp, BadRequest
from coe.gateway.faults import validate
from coe.gateway.http import Endpoint, Exchange
from coe.gateway.metrics import Metrics
from coe.gateway.requests import parse_json, read_body
from coe.gateway.schemas import AddBody, RollbackBody
from coe.registry.edit import Entry, read_entries
from coe.service.admin import Admin
from coe.service.admin_openapi import admin_document

MAX_BODY_BYTES = 1_000_000

Body = TypeVar("Body", bound=BaseModel)
_Act = Callable[[Exchange], Awaitable[dict[str, Any]]]


class AdminGateway:
    """The handlers; ``token`` is never logged or shown."""

    def __init__(self, admin: Admin, metrics: Metrics, token: str) -> None:
        self._admin, self._metrics = admin, metrics
        self._token = token.encode()

    def app(self) -> Router:
        return Router(
            routes=[
                self._route("/admin/status", GET=self._status),
                self._route("/admin/experts", GET=self._experts, POST=self._add),
                self._route("/admin/experts/{id:path}/profile", POST=self._profile),
                self._route("/admin/experts/{id:path}", GET=self._expert, DELETE=self._remove),
                self._route("/admin/registry/history", GET=self._history),
                self._route("/admin/registry/rollback", POST=self._rollback),
                self._route("/admin/reload", POST=self._reload),
                self._route("/admin/openapi.json", GET=self._openapi),
            ],
            default=Endpoint("admin/other", "GET", self._nothing, self._metrics),
            redirect_slashes=False,
        )

    def _route(self, path: str, **acts: _Act) -> Route:
        endpoints = {
            method: Endpoint(path, method, self._guarded(act), self._metrics) for method, act in acts.items()
        }
        return Route(path, _Methods(endpoints), methods=None)

    def _guarded(self, act: _Act) -> Callable[[Exchange], Awaitable[None]]:
        async def handler(exchange: Exchange) -> None:
            self._require_token(exchange)
            await exchange.send_json(await act(exchange))

        return handler

    def _require_token(self, exchange: Exchange) -> None:
        scheme, _, given = exchange.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
            raise BadHttp(
                401,
                "the admin token is missing or wrong",
                code="unauthorized",
                hint="Send it as Authorization: Bearer TOKEN.",
            )

    async def _nothing(self, exchange: Exchange) -> None:
        self._require_token(exchange)
        raise BadHttp(
            404,
            f"there is nothing at {exchange.scope['path'][:200]}",
            code="not_found",
            hint="This is the admin API; docs/reference/api.md lists its paths.",
        )

    async def _status(self, exchange: Exchange) -> dict[str, Any]:  # noqa: ARG002
        return self._admin.status()

    async def _experts(self, exchange: Exchange) -> dict[str, Any]:  # noqa: ARG002
        return {"experts": self._admin.experts()}

    async def _expert(self, exchange: Exchange) -> dict[str, Any]:
        return self._admin.expert(exchange.scope["path_params"]["id"])

    async def _add(self, exchange: Exchange) -> dict[str, Any]:
        body = await _body(exchange, AddBody)
        return await self._admin.add(_entries(body), body.shadow, body.profile)

    async def _remove(self, exchange: Exchange) -> dict[str, Any]:
        return await self._admin.remove(exchange.scope["path_params"]["id"])

    async def _profile(self, exchange: Exchange) -> dict[str, Any]:
        return await self._admin.profile(exchange.scope["path_params"]["id"])

    async def _history(self, exchange: Exchange) -> dict[str, Any]:
        return await self._admin.history(_compare(exchange.scope["query_string"]))

    async def _rollback(self, exchange: Exchange) -> dict[str, Any]:
        body = await _body(exchange, RollbackBody)
        return await self._admin.rollback(body.generation)

    async def _reload(self, exchange: Exchange) -> dict[str, Any]:  # noqa: ARG002
        return await self._admin.reload()

    async def _openapi(self, exchange: Exchange) -> dict[str, Any]:  # noqa: ARG002
        return admin_document()


class _Methods:
    """Several methods on one path."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        first = next(iter(self._endpoints.values()))
        await self._endpoints.get(scope.get("method", ""), first)(scope, receive, send)


async def _body(exchange: Exchange, model: type[Body]) -> Body:
    return validate(model, parse_json(await read_body(exchange.receive, exchange.headers, MAX_BODY_BYTES)))


def _entries(body: AddBody) -> list[Entry]:
    if (body.experts is None) == (body.yaml is None):
        raise BadRequest("give one of experts and yaml", param="experts", hint='{"experts": [{"id": ...}]}')
    if body.yaml is not None:
        return read_entries(body.yaml, "yaml")
    entries = body.experts or []
    if not entries or not all(isinstance(entry.get("id"), str) for entry in entries):
        raise BadRequest("experts must be entries with an id", param="experts", hint='[{"id": ...}]')
    return list(entries)


def _compare(query: bytes) -> int | None:
    name, _, value = query.decode("latin-1").partition("=")
    if not query:
        return None
    if name != "compare" or not value.isdigit():
        raise BadRequest("the query may be compare=NUMBER only", param="compare", hint="?compare=3")
    return int(value)
