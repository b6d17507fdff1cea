"""/openapi.json, made from the models that also check requests."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

import coe
from coe.core.types import DeadlineClass, WakeFrom
from coe.gateway.schemas import ChatBody, CompletionBody, FeedbackBody, RouteBody


class ErrorDetail(BaseModel):
    message: str
    type: str
    code: str
    param: str | None
    hint: str | None
    source: Literal["router", "expert"]


class ErrorBody(BaseModel):
    """Every error. ``source`` says who failed; ``hint`` what to do."""

    error: ErrorDetail


class FeedbackTaken(BaseModel):
    """A mark was counted for ``expert``."""

    object: Literal["coe.feedback"]
    id: str
    expert: str


class LegBody(BaseModel):
    expert: str
    role: Literal["answer", "proposer", "aggregator", "router"]
    queue_ms: float
    swap_ms: float
    wake_from: WakeFrom
    run_ms: float | None
    tokens: int | None
    outcome: str = Field(description="ok, failed: <code>, late, not needed or cancelled.")


class LegUsage(BaseModel):
    """Tokens of one leg; the answer's usage is the sum of all of them."""

    expert: str
    role: Literal["answer", "proposer", "aggregator", "router"]
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class ReceiptBody(BaseModel):
    """How the answer came about."""

    request_id: str
    generation: int
    router: str
    expert: str | None = Field(description="Who answered; null while several are asked.")
    aggregator: str | None = Field(description="What combined several answers; null for one expert.")
    confidence: float | None
    runner_up: str | None
    margin: float | None
    reason: str
    legs: list[LegBody]
    usage_by_leg: list[LegUsage] | None = Field(None, description="Where several experts were asked.")
    queue_ms: float
    swap_ms: float


class Completion(BaseModel):
    """OpenAI's completion object as the expert made it, with ``model`` naming the expert, and the receipt."""

    id: str
    object: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | None = None
    coe: ReceiptBody


class ModelBody(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    description: str
    skills: list[str] | None = Field(None, description="Of experts.")
    state: str | None = Field(None, description="Of experts: awake, sleeping, cold, or on the way.")
    shadow: bool | None = Field(None, description="Of experts: true where no router chooses it.")


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelBody]


class RankedBody(BaseModel):
    expert: str
    probability: float
    expected_wait_s: float | None = Field(
        description="Wait for this expert if asked now, in seconds; null: it would be refused."
    )


class RouteAnswer(BaseModel):
    object: Literal["coe.route"]
    generation: int
    router: str
    expert: str
    confidence: float
    margin: float | None
    reason: str
    experts: list[RankedBody] = Field(description="All experts, best first.")


class Alive(BaseModel):
    status: Literal["ok"]


class Ready(BaseModel):
    status: Literal["ready", "not_ready"]
    reasons: list[str]


class ExpertHealth(BaseModel):
    state: str | None
    can_answer: bool = Field(description="Whether a request for it would be tried now.")


class ExpertsHealth(BaseModel):
    status: Literal["ok", "degraded", "failed"] = Field(
        description="degraded: some cannot; failed: none can."
    )
    experts: dict[str, ExpertHealth]


class DeadlineHeader(BaseModel):
    deadline_class: DeadlineClass


_ASKED = (ChatBody, CompletionBody, RouteBody, FeedbackBody)
_ANSWERED = (Completion, RouteAnswer, ModelBody, ModelList, FeedbackTaken)
_OTHERS = (ErrorBody, Alive, Ready, ExpertsHealth)
_REF = "#/components/schemas/"


@functools.cache
def openapi_document() -> dict[str, Any]:
    """The document as a JSON object. Do not change it: it is made once."""
    paths = {
        "/v1/chat/completions": {"post": _completion("Answer a chat", ChatBody)},
        "/v1/completions": {"post": _completion("Complete a text", CompletionBody)},
        "/v1/route": {"post": operation("Route without asking", RouteAnswer, asked=RouteBody)},
        "/v1/feedback": {"post": operation("Mark an answer", FeedbackTaken, asked=FeedbackBody)},
        "/v1/models": {"get": operation("List the models", ModelList)},
        "/v1/models/{id}": {"get": operation("Show a model", ModelBody, parameters=[_model_id()])},
        "/healthz": {"get": operation("Is the process alive?", Alive)},
        "/healthz/experts": {"get": _unless_503("Can the experts answer?", ExpertsHealth, "None can.")},
        "/readyz": {"get": _unless_503("Can it answer?", Ready, "It cannot; the reasons say why.")},
        "/metrics": {"get": _metrics()},
    }
    return document("CoE", paths, _ASKED, (*_ANSWERED, *_OTHERS))


def document(
    title: str,
    paths: Mapping[str, Any],
    asked: Iterable[type[BaseModel]],
    answered: Iterable[type[BaseModel]],
) -> dict[str, Any]:
    """An OpenAPI document with the schemas of the models."""
    _, schemas = models_json_schema(
        [
            *((model, "validation") for model in asked),
            *((model, "serialization") for model in answered),
        ],
        ref_template=_REF + "{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": coe.__version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def operation(
    summary: str,
    answered: type[BaseModel],
    asked: type[BaseModel] | None = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": _json("The answer.", answered), "default": _json("An error.", ErrorBody)},
    }
    if asked is not None:
        described["requestBody"] = {"required": True, "content": _content(asked)}
    if parameters:
        described["parameters"] = parameters
    return described


def _completion(summary: str, asked: type[BaseModel]) -> dict[str, Any]:
    described = operation(summary, Completion, asked, [_deadline_header()])
    events = (
        "With stream: chunks, then one with an empty delta and the receipt as coe, then [DONE]."
        " While several experts are asked, comments tell of each (': coe proposer sql done')."
    )
    described["responses"]["200"]["content"]["text/event-stream"] = {
        "schema": {"type": "string", "description": events}
    }
    described["responses"]["200"]["headers"] = {
        name: {"schema": {"type": kind}}
        for name, kind in (
            ("x-coe-request-id", "string"),
            ("x-coe-expert", "string"),
            ("x-coe-router", "string"),
            ("x-coe-generation", "integer"),
            ("x-coe-queue-ms", "number"),
            ("x-coe-swap-ms", "number"),
        )
    }
    return described


def _unless_503(summary: str, answered: type[BaseModel], otherwise: str) -> dict[str, Any]:
    described = operation(summary, answered)
    described["responses"]["503"] = _json(otherwise, answered)
    return described


def _metrics() -> dict[str, Any]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "summary": "Metrics for Prometheus",
        "responses": {"200": {"description": "The text format.", "content": text}},
    }


def _deadline_header() -> dict[str, Any]:
    schema = DeadlineHeader.model_json_schema()["properties"]["deadline_class"]
    return {"name": "x-coe-deadline-class", "in": "header", "required": False, "schema": schema}


def _model_id() -> dict[str, Any]:
    return {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}


def _json(description: str, model: type[BaseModel]) -> dict[str, Any]:
    return {"description": description, "content": _content(model)}


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF + model.__name__}}}
