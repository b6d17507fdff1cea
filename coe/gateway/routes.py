"""The route table. Router and OpenAPI document are made from it, so that no path is in one of them alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema
from starlette.routing import Route, Router

import coe
from coe.core.types import DeadlineClass
from coe.gateway.http import Endpoint, Handler
from coe.gateway.metrics import Metrics
from coe.gateway.schemas import ErrorBody
from coe.observe.otel import RequestTracer

_REF = "#/components/schemas/"
_PARAMETER = re.compile(r"\{(\w+)\}")

Json = dict[str, Any]


@dataclass(frozen=True)
class Parameter:
    name: str
    location: str
    schema: Json

    def describe(self) -> Json:
        required = self.location == "path"
        return {"name": self.name, "in": self.location, "required": required, "schema": self.schema}


DEADLINE_CLASS = Parameter("x-coe-deadline-class", "header", TypeAdapter(DeadlineClass).json_schema())


@dataclass(frozen=True)
class Operation:
    """One method of one path. ``{id}`` in the path stands for a parameter, which may contain slashes.

    ``asks`` and ``answers`` are the models of the bodies; an answer that is not JSON is given by its media
    type. ``events`` describes what is sent instead where the client asks for a stream, ``headers`` those of
    an answer by type, ``unavailable`` what the same body means with status 503.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: type[BaseModel] | str
    asks: type[BaseModel] | None = None
    parameters: tuple[Parameter, ...] = ()
    events: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    unavailable: str = ""

    def __post_init__(self) -> None:
        if not self.summary.strip():
            raise ValueError(f"{self.method} {self.path} has no summary for the OpenAPI document")

    def describe(self) -> Json:
        """Its part of the OpenAPI document."""
        answer = _response("The answer.", self.answers)
        if self.headers:
            answer["headers"] = {name: {"schema": {"type": kind}} for name, kind in self.headers.items()}
        if self.events:
            stream = {"type": "string", "description": self.events}
            answer["content"]["text/event-stream"] = {"schema": stream}
        described: Json = {
            "summary": self.summary,
            "responses": {"200": answer, "default": _response("An error.", ErrorBody)},
        }
        if self.unavailable:
            described["responses"]["503"] = _response(self.unavailable, self.answers)
        if self.asks is not None:
            described["requestBody"] = {"required": True, "content": _content(self.asks)}
        in_path = [Parameter(name, "path", {"type": "string"}) for name in _PARAMETER.findall(self.path)]
        if parameters := [each.describe() for each in (*in_path, *self.parameters)]:
            described["parameters"] = parameters
        return described


def build_router(
    operations: Sequence[Operation], other: Endpoint, metrics: Metrics, tracer: RequestTracer | None = None
) -> Router:
    """The ASGI app; the first path that fits counts, ``other`` answers where none does. A bare router:
    middleware would cost every chunk of every stream."""
    handlers: dict[str, dict[str, Handler]] = {}
    for each in operations:
        handlers.setdefault(each.path, {})[each.method] = each.handler
    # Endpoint checks the method itself: Starlette's own refusal is not in OpenAI's envelope.
    routes = [
        Route(_PARAMETER.sub(r"{\1:path}", path), Endpoint(path, methods, metrics, tracer), methods=None)
        for path, methods in handlers.items()
    ]
    return Router(routes=routes, default=other, redirect_slashes=False)


def build_document(title: str, operations: Sequence[Operation], secured: bool = False) -> Json:
    """The OpenAPI document of ``operations``. ``secured``: all of them need a bearer token."""
    paths: dict[str, Json] = {}
    asked: dict[type[BaseModel], None] = {}
    answered: dict[type[BaseModel], None] = {ErrorBody: None}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = each.describe()
        if each.asks is not None:
            asked[each.asks] = None
        if not isinstance(each.answers, str):
            answered[each.answers] = None
    modes = [(model, "validation") for model in asked] + [(model, "serialization") for model in answered]
    _, schemas = models_json_schema(modes, ref_template=_REF + "{model}")  # type: ignore[arg-type]
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": coe.__version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }
    if secured:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _response(description: str, body: type[BaseModel] | str) -> Json:
    return {"description": description, "content": _content(body)}


def _content(body: type[BaseModel] | str) -> Json:
    if isinstance(body, str):
        return {body: {"schema": {"type": "string"}}}
    return {"application/json": {"schema": {"$ref": _REF + body.__name__}}}
