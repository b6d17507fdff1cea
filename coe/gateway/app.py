"""The API of the gateway: its route table, and the endpoints beside the completions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

from starlette.routing import Router

from coe.core.errors import BadHttp, UnknownModel
from coe.core.status import Status, can_answer
from coe.core.suggest import suggest
from coe.gateway import schemas
from coe.gateway.completions import Completions
from coe.gateway.http import ANY_METHOD, Endpoint, Exchange
from coe.gateway.metrics import CONTENT_TYPE, Metrics
from coe.gateway.middlewares import Middlewares, without_access
from coe.gateway.requests import parse_json, parse_route, parsed, read_body, validate
from coe.gateway.route_schemas import RouteAnswer
from coe.gateway.routes import DEADLINE_CLASS, Operation, build_document, build_router
from coe.pipeline import Pipeline
from coe.pipeline.generation import Generation, Generations

STREAM = (
    "With stream: chunks, then one with an empty delta and the receipt as coe, then [DONE]."
    " While several experts are asked, comments report each (': coe proposer sql done')."
)
RECEIPT_HEADERS = {
    "x-coe-request-id": "string",
    "x-coe-expert": "string",
    "x-coe-router": "string",
    "x-coe-generation": "integer",
    "x-coe-queue-ms": "number",
    "x-coe-swap-ms": "number",
}


class Gateway:
    """The handlers. State lives in what it is given."""

    def __init__(
        self,
        pipeline: Pipeline,
        generations: Generations,
        metrics: Metrics,
        status: Status,
        middlewares: Middlewares | None = None,
    ) -> None:
        self._middlewares = given = middlewares or without_access()
        self._pipeline = pipeline
        self._generations = generations
        self._metrics = metrics
        self._status = status
        self._completions = Completions(
            pipeline, generations, metrics, given.access, given.cache, given.observers
        )
        given.show_in(metrics)
        counts = pipeline.writer_calls.counts
        metrics.watch(
            "writer_calls", "Texts that routers have experts write, by result.", "result", lambda: counts
        )

    def app(self) -> Router:
        """The ASGI app."""
        other = Endpoint("other", {ANY_METHOD: _no_such_path}, self._metrics)
        return build_router(self.operations, other, self._metrics, self._middlewares.tracer)

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """Everything that can be asked of this API."""
        get, post, s = partial(Operation, "GET"), partial(Operation, "POST"), schemas
        completion = partial(
            post, answers=s.Completion, parameters=(DEADLINE_CLASS,), events=STREAM, headers=RECEIPT_HEADERS
        )
        chat = partial(self._completions.complete, endpoint="chat/completions")
        text = partial(self._completions.complete, endpoint="completions")
        experts, no_expert = self._experts_health, "None can, or the scheduler is stuck."
        not_ready = "It cannot; the reasons say why."
        return (
            completion("/v1/chat/completions", chat, "Answer a chat", asks=s.ChatBody),
            completion("/v1/completions", text, "Complete a text", asks=s.CompletionBody),
            post("/v1/route", self._preview, "Route without asking", RouteAnswer, s.RouteBody),
            post("/v1/feedback", self._feedback, "Rate an answer", s.FeedbackTaken, s.FeedbackBody),
            get("/v1/models", self._models, "List the models", s.ModelList),
            get("/v1/models/{id}", self._model, "Show a model", s.ModelBody),
            get("/healthz", self._alive, "Is the process alive?", s.Alive),
            get(
                "/healthz/experts", experts, "Can the experts answer?", s.ExpertsHealth, unavailable=no_expert
            ),
            get("/readyz", self._ready, "Can it answer?", s.Ready, unavailable=not_ready),
            get("/metrics", self._prometheus, "Metrics for Prometheus", "text/plain"),
            get("/openapi.json", self._openapi, "This document", s.Document),
        )

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return build_document("CoE", self.operations)

    async def _preview(self, exchange: Exchange) -> None:
        registry = self._generations.current.registry
        await self._middlewares.access.admit(exchange.headers)
        raw = await self._body(exchange)
        model = registry.service.model_name
        request = await parsed(raw, partial(parse_route, raw, registry.limits, exchange.request_id, model))
        await exchange.send_json((await self._pipeline.preview(request)).as_json())

    async def _feedback(self, exchange: Exchange) -> None:
        given = validate(schemas.FeedbackBody, parse_json(await self._body(exchange)))
        rating = self._middlewares.feedback.take(given.id, given.score)
        await exchange.send_json({"object": "coe.feedback", "id": given.id, "expert": rating.expert})

    async def _body(self, exchange: Exchange) -> bytes:
        """Of a request by somebody who may come."""
        self._middlewares.access.identify(exchange.headers)
        limits = self._generations.current.registry.limits
        return await read_body(exchange.receive, exchange.headers, limits.max_body_bytes)

    async def _models(self, exchange: Exchange) -> None:
        self._middlewares.access.identify(exchange.headers)
        models = _model_objects(self._generations.current, self._status)
        await exchange.send_json({"object": "list", "data": list(models.values())})

    async def _model(self, exchange: Exchange) -> None:
        self._middlewares.access.identify(exchange.headers)
        models = _model_objects(self._generations.current, self._status)
        name = exchange.scope["path_params"]["id"]
        if name not in models:
            raise UnknownModel(
                f'the model "{name}" does not exist; {suggest(name, models)}',
                param="model",
                hint="GET /v1/models lists all models.",
            )
        await exchange.send_json(models[name])

    async def _alive(self, exchange: Exchange) -> None:
        await exchange.send_json({"status": "ok"})

    async def _experts_health(self, exchange: Exchange) -> None:
        live, engines = self._status.experts(), self._status.engines()
        experts = {
            expert.id: {
                "state": live[expert.id].state if expert.id in live else None,
                "can_answer": can_answer(expert.id, expert.host, live, engines),
            }
            for expert in self._generations.current.registry.routed
        }
        stuck = {name: each.stuck for name, each in live.items() if each.stuck}
        able = 0 if stuck else sum(bool(each["can_answer"]) for each in experts.values())
        word = "failed" if not able else "ok" if able == len(experts) else "degraded"
        body = {"status": word, "experts": experts, **({"stuck": stuck} if stuck else {})}
        await exchange.send_json(body, status=200 if able else 503)

    async def _ready(self, exchange: Exchange) -> None:
        state = self._status.readiness()
        payload = {"status": "ready" if state.ready else "not_ready", "reasons": list(state.reasons)}
        await exchange.send_json(payload, status=200 if state.ready else 503)

    async def _prometheus(self, exchange: Exchange) -> None:
        await exchange.send_bytes(self._metrics.render(), content_type=CONTENT_TYPE)

    async def _openapi(self, exchange: Exchange) -> None:
        await exchange.send_json(self.document)


async def _no_such_path(exchange: Exchange) -> None:
    raise BadHttp(
        404,
        f"there is nothing at {exchange.scope['path'][:200]}",
        code="not_found",
        hint="The API is under /v1; GET /openapi.json lists its paths.",
    )


def _model_objects(generation: Generation, status: Status) -> Mapping[str, dict[str, Any]]:
    """OpenAI's model objects by id: the routed names first, then every expert."""
    routed = generation.registry.service.model_name
    common = {"object": "model", "created": generation.created, "owned_by": "coe"}
    models: dict[str, dict[str, Any]] = {
        routed: {"id": routed, **common, "description": "Chooses the expert for each request."}
    }
    for route in generation.registry.routes:
        models[route.model] = {"id": route.model, **common, "description": route.description}
    live = status.experts()
    for expert in generation.registry.experts:
        state = live[expert.id].state if expert.id in live else None
        models[expert.id] = {
            "id": expert.id,
            **common,
            "description": expert.card,
            "skills": list(expert.skills),
            "state": state,
            "shadow": expert.shadow,
        }
    return models
