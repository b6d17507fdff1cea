"""The admin API on HTTP: a separate app for a separate port, closed to everyone without the token."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.routing import Router

from coe.core.errors import BadHttp, BadRequest
from coe.gateway.http import ANY_METHOD, Endpoint, Exchange, Handler
from coe.gateway.metrics import Metrics
from coe.gateway.requests import parse_json, parsed, read_body, validate
from coe.gateway.routes import Operation, Parameter, build_document, build_router
from coe.gateway.schemas import Document
from coe.registry.edit import Entry, read_entries
from coe.service import admin_schemas as schemas
from coe.service.admin import Admin

MAX_BODY_BYTES = 1_000_000
COMPARE = Parameter("compare", "query", {"type": "integer", "minimum": 1})

Body = TypeVar("Body", bound=BaseModel)
_Act = Callable[[Exchange], Awaitable[dict[str, Any]]]


class AdminGateway:
    """The handlers; ``token`` is never logged or shown."""

    def __init__(self, admin: Admin, metrics: Metrics, token: str) -> None:
        self._admin, self._metrics = admin, metrics
        self._token = token.encode()

    def app(self) -> Router:
        other = Endpoint("admin/other", {ANY_METHOD: self._guarded(self._nothing)}, self._metrics)
        return build_router(self.operations, other, self._metrics)

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """Everything that can be asked of this API. A path that another one begins with stands behind it."""

        def one(
            method: str,
            path: str,
            act: _Act,
            summary: str,
            answers: type[BaseModel] = schemas.Done,
            asks: type[BaseModel] | None = None,
            *parameters: Parameter,
        ) -> Operation:
            return Operation(method, path, self._guarded(act), summary, answers, asks, parameters)

        profile, expert = "/admin/experts/{id}/profile", "/admin/experts/{id}"
        history, rollback = "/admin/registry/history", "/admin/registry/rollback"
        return (
            one("GET", "/admin/status", self._status, "What runs, and what was refused", schemas.AdminStatus),
            one("GET", "/admin/experts", self._experts, "List the experts", schemas.Experts),
            one("POST", "/admin/experts", self._add, "Add experts, all or none", asks=schemas.AddBody),
            one("POST", profile, self._profile, "Ask an expert the probe questions"),
            one("GET", expert, self._expert, "Show an expert", schemas.ExpertDetail),
            one("DELETE", expert, self._remove, "Remove an expert once its work is done"),
            one("GET", history, self._history, "Accepted generations", schemas.HistoryBody, None, COMPARE),
            one(
                "POST",
                rollback,
                self._rollback,
                "Make an earlier generation the next one",
                asks=schemas.RollbackBody,
            ),
            one("POST", "/admin/reload", self._reload, "Read experts.yaml again"),
            one("GET", "/admin/openapi.json", self._openapi, "This document", Document),
        )

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document, for those who have the token."""
        return build_document("CoE admin", self.operations, secured=True)

    def _guarded(self, act: _Act) -> Handler:
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

    async def _nothing(self, exchange: Exchange) -> dict[str, Any]:
        raise BadHttp(
            404,
            f"there is nothing at {exchange.scope['path'][:200]}",
            code="not_found",
            hint="This is the admin API; GET /admin/openapi.json lists its paths.",
        )

    async def _status(self, exchange: Exchange) -> dict[str, Any]:  # noqa: ARG002
        return self._admin.status()

    async def _experts(self, exchange: Exchange) -> dict[str, Any]:  # noqa: ARG002
        return {"experts": self._admin.experts()}

    async def _expert(self, exchange: Exchange) -> dict[str, Any]:
        return self._admin.expert(exchange.scope["path_params"]["id"])

    async def _add(self, exchange: Exchange) -> dict[str, Any]:
        body = await _body(exchange, schemas.AddBody)
        # YAML is slow to parse.
        entries = await asyncio.to_thread(_entries, body)
        try:
            return await self._admin.add(entries, body.shadow, body.profile)
        except RecursionError:
            raise BadRequest(
                "the entries are nested too deeply", param="experts", hint="Nest less."
            ) from None

    async def _remove(self, exchange: Exchange) -> dict[str, Any]:
        return await self._admin.remove(exchange.scope["path_params"]["id"])

    async def _profile(self, exchange: Exchange) -> dict[str, Any]:
        return await self._admin.profile(exchange.scope["path_params"]["id"])

    async def _history(self, exchange: Exchange) -> dict[str, Any]:
        return await self._admin.history(_compare(exchange.scope["query_string"]))

    async def _rollback(self, exchange: Exchange) -> dict[str, Any]:
        body = await _body(exchange, schemas.RollbackBody)
        return await self._admin.rollback(body.generation)

    async def _reload(self, exchange: Exchange) -> dict[str, Any]:  # noqa: ARG002
        return await self._admin.reload()

    async def _openapi(self, exchange: Exchange) -> dict[str, Any]:  # noqa: ARG002
        return self.document


async def _body(exchange: Exchange, model: type[Body]) -> Body:
    raw = await read_body(exchange.receive, exchange.headers, MAX_BODY_BYTES)
    return await parsed(raw, lambda: validate(model, parse_json(raw)))


def _entries(body: schemas.AddBody) -> list[Entry]:
    if (body.experts is None) == (body.yaml is None):
        raise BadRequest(
            "the body needs either experts or yaml", param="experts", hint='{"experts": [{"id": ...}]}'
        )
    if body.yaml is not None:
        return read_entries(body.yaml, "yaml")
    entries = body.experts or []
    if not entries or not all(isinstance(entry.get("id"), str) for entry in entries):
        raise BadRequest(
            "experts must be a list of entries, each with an id", param="experts", hint='[{"id": ...}]'
        )
    return list(entries)


def _compare(query: bytes) -> int | None:
    name, _, value = query.decode("latin-1").partition("=")
    if not query:
        return None
    if name != "compare" or not value.isdigit():
        raise BadRequest("the only query parameter is compare=NUMBER", param="compare", hint="?compare=3")
    return int(value)
