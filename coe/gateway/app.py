"""The ASGI application: paths, and what each of them answers."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any

from starlette.routing import Route, Router

from coe.access.api_keys import Holder
from coe.access.limits import Used, used
from coe.access.response_cache import cache_key
from coe.core.errors import BadHttp, EngineError, ExpertTimeout, UnknownModel
from coe.core.status import Status, can_answer
from coe.core.suggest import suggest
from coe.core.types import Endpoint as CompletionEndpoint
from coe.core.types import Request
from coe.gateway.faults import validate
from coe.gateway.http import Endpoint, Exchange, Handler, HangUp
from coe.gateway.metrics import CONTENT_TYPE, Metrics
from coe.gateway.middlewares import Middlewares, without_access
from coe.gateway.openapi import openapi_document
from coe.gateway.requests import ClientGone, parse_completion, parse_json, parse_route, read_body
from coe.gateway.responses import (
    DONE_EVENT,
    UntilDone,
    body_given_again,
    body_with_receipt,
    completion_id,
    receipt_event,
    receipt_headers,
)
from coe.gateway.schemas import FeedbackBody
from coe.observe.capture import MAX_ANSWER_BYTES, CapturedExchange
from coe.observe.tracing import SPAN, code_of, of_request
from coe.pipeline import Answer, Pipeline, Preview
from coe.pipeline.generation import Generation, Generations
from coe.registry.schema import Registry


class Gateway:
    """The handlers. State lives in what it is given; its own are only the answers that are being settled."""

    def __init__(
        self,
        pipeline: Pipeline,
        generations: Generations,
        metrics: Metrics,
        status: Status,
        reception: Middlewares | None = None,
    ) -> None:
        self._reception = reception or without_access()
        self._pipeline = pipeline
        self._generations = generations
        self._metrics = metrics
        self._status = status
        self._settling: set[asyncio.Task[None]] = set()

    def app(self) -> Router:
        """The ASGI app. A bare router: middleware would cost every chunk of every stream."""
        return Router(
            routes=[
                self._route("POST", "/v1/chat/completions", self._chat),
                self._route("POST", "/v1/completions", self._completions),
                self._route("POST", "/v1/route", self._preview),
                self._route("POST", "/v1/feedback", self._feedback),
                self._route("GET", "/v1/models", self._models),
                self._route("GET", "/v1/models/{id:path}", self._model),
                self._route("GET", "/healthz", self._alive),
                self._route("GET", "/healthz/experts", self._experts_health),
                self._route("GET", "/readyz", self._ready),
                self._route("GET", "/metrics", self._prometheus),
                self._route("GET", "/openapi.json", self._openapi),
            ],
            default=_NotFound(self._metrics),
            redirect_slashes=False,
        )

    def _route(self, method: str, path: str, handler: Handler) -> Route:
        # Endpoint checks the method itself: Starlette's own refusal is not in OpenAI's envelope.
        tracer = self._reception.tracer if method == "POST" else None  # the others ask nobody anything
        return Route(path, Endpoint(path, method, handler, self._metrics, tracer), methods=None)

    async def _chat(self, exchange: Exchange) -> None:
        await self._complete(exchange, "chat/completions")

    async def _completions(self, exchange: Exchange) -> None:
        await self._complete(exchange, "completions")

    async def _complete(self, exchange: Exchange, endpoint: CompletionEndpoint) -> None:
        limits = self._generations.current.registry.limits
        holder = await self._reception.access_control.admit(exchange.headers)
        hang_up = HangUp(exchange)
        try:
            async with asyncio.timeout(limits.request_timeout_s) as deadline:
                raw = await read_body(exchange.receive, exchange.headers, limits.max_body_bytes)
                request = parse_completion(endpoint, raw, exchange.headers, limits, exchange.request_id)
                if (span := SPAN.get()) is not None:
                    span.note(of_request(request))
                with hang_up.expires(deadline):
                    await self._answer_once(exchange, request, holder)
        except TimeoutError:
            if not deadline.expired():
                raise
            if hang_up.happened:
                raise ClientGone from None
            raise _too_slow(limits.request_timeout_s) from None

    async def _answer_once(self, exchange: Exchange, request: Request, holder: Holder) -> None:
        """From the kept answers where there is one, else from the experts. A client may forbid to keep it."""
        kept = self._reception.cache
        place = None
        if kept is not None:
            generation = self._generations.current.identity
            place = cache_key(request, holder.tenant or holder.id, generation)
        if kept is None or place is None:
            await self._recorded(exchange, request, holder)
            return
        found = await kept.find(place)
        if found is not None:
            again = body_given_again(found, request.id)
            await exchange.send_bytes(again, headers=[(b"x-coe-cache", b"hit")])
            await self._reception.access_control.charge(holder, Used())
            return
        body = await self._recorded(exchange, request, holder)
        if body is not None:
            await kept.keep(place, body)

    async def _recorded(self, exchange: Exchange, request: Request, holder: Holder) -> bytes | None:
        """:meth:`_answer`, with a record of it where that is wanted."""
        recorder = self._reception.recorder
        if recorder is None or not recorder.wants(request):
            return await self._answer(exchange, request, holder)
        sent, failed = exchange.listen(MAX_ANSWER_BYTES), None
        try:
            return await self._answer(exchange, request, holder)
        except BaseException as error:
            failed = code_of(error)
            raise
        finally:
            recorder.take(CapturedExchange(request, holder.id, exchange.receipt, bytes(sent), failed))

    async def _answer(self, exchange: Exchange, request: Request, holder: Holder) -> bytes | None:
        """Ask the experts; the body that was sent, None for a stream."""
        registry = self._generations.current.registry
        answer = await self._pipeline.answer(request)
        try:
            if request.stream:
                await _stream(exchange, request, answer)
                return None
            return await _send_whole(exchange, answer)
        finally:
            settling = asyncio.create_task(self._settle(exchange, request, answer, registry, holder))
            self._settling.add(settling)
            settling.add_done_callback(self._settling.discard)
            # Goes on when the request is cancelled meanwhile: what was used is charged.
            await asyncio.shield(settling)

    async def _settle(
        self, exchange: Exchange, request: Request, answer: Answer, registry: Registry, holder: Holder
    ) -> None:
        """Give back what the answer holds, and charge it."""
        await answer.aclose()
        if exchange.receipt is None:  # it broke off
            exchange.receipt = answer.receipt()
        if self._reception.marks is not None:
            self._reception.marks.counts.answered(exchange.receipt, exchange.completion)
        bill = used(exchange.receipt, registry, len(request.text))
        self._metrics.charged(bill)
        await self._reception.access_control.charge(holder, bill)

    async def _preview(self, exchange: Exchange) -> None:
        self._reception.access_control.identify(exchange.headers)
        registry = self._generations.current.registry
        raw = await read_body(exchange.receive, exchange.headers, registry.limits.max_body_bytes)
        request = parse_route(raw, registry.limits, exchange.request_id, registry.service.model_name)
        await exchange.send_json(_preview_json(await self._pipeline.preview(request)))

    async def _feedback(self, exchange: Exchange) -> None:
        self._reception.access_control.identify(exchange.headers)
        limits = self._generations.current.registry.limits
        raw = await read_body(exchange.receive, exchange.headers, limits.max_body_bytes)
        given = validate(FeedbackBody, parse_json(raw))
        if self._reception.marks is None:
            raise BadHttp(
                404,
                "this service takes no feedback",
                code="feedback_off",
                hint="Write `feedback: {}` into experts.yaml.",
            )
        mark = self._reception.marks.take(given.id, given.score)
        await exchange.send_json({"object": "coe.feedback", "id": given.id, "expert": mark.expert})

    async def _models(self, exchange: Exchange) -> None:
        self._reception.access_control.identify(exchange.headers)
        models = _model_objects(self._generations.current, self._status)
        await exchange.send_json({"object": "list", "data": list(models.values())})

    async def _model(self, exchange: Exchange) -> None:
        self._reception.access_control.identify(exchange.headers)
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
        able = sum(bool(each["can_answer"]) for each in experts.values())
        word = "ok" if able == len(experts) else "degraded" if able else "failed"
        await exchange.send_json({"status": word, "experts": experts}, status=200 if able else 503)

    async def _ready(self, exchange: Exchange) -> None:
        state = self._status.readiness()
        payload = {"status": "ready" if state.ready else "not_ready", "reasons": list(state.reasons)}
        await exchange.send_json(payload, status=200 if state.ready else 503)

    async def _prometheus(self, exchange: Exchange) -> None:
        await exchange.send_bytes(self._metrics.render(), content_type=CONTENT_TYPE)

    async def _openapi(self, exchange: Exchange) -> None:
        await exchange.send_json(openapi_document())


class _NotFound(Endpoint):
    """Every path that is not there, by any method."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__("other", "any", _no_such_path, metrics)

    def _takes(self, method: str) -> bool:  # noqa: ARG002
        return True


async def _no_such_path(exchange: Exchange) -> None:
    raise BadHttp(
        404,
        f"there is nothing at {exchange.scope['path'][:200]}",
        code="not_found",
        hint="The API is under /v1; GET /openapi.json lists its paths.",
    )


async def _send_whole(exchange: Exchange, answer: Answer) -> bytes:
    raw = b"".join([chunk async for chunk in answer.chunks()])
    receipt = exchange.receipt = answer.receipt()
    body = body_with_receipt(raw, receipt)
    exchange.completion = completion_id(raw)
    await exchange.send_bytes(body, headers=receipt_headers(receipt))
    return body


async def _stream(exchange: Exchange, request: Request, answer: Answer) -> None:
    await exchange.start_stream(receipt_headers(answer.receipt()))
    events = UntilDone(answer.chunks())
    async for chunk in events:
        if exchange.completion is None:
            exchange.completion = completion_id(chunk)
        await exchange.write(chunk)
    if not events.done:
        raise EngineError(
            f"{answer.receipt().expert or 'the aggregator'} broke off its answer",
            code="stream_broken",
            hint="What came is not complete; ask again.",
        )
    receipt = exchange.receipt = answer.receipt()
    last = receipt_event(receipt, request.endpoint, created=int(time.time()))
    await exchange.end(last + DONE_EVENT)


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


def _preview_json(preview: Preview) -> dict[str, Any]:
    decision = preview.decision
    return {
        "object": "coe.route",
        "generation": preview.generation,
        "router": decision.router,
        "expert": decision.expert,
        "confidence": round(decision.confidence, 4),
        "margin": None if decision.margin is None else round(decision.margin, 4),
        "reason": decision.reason,
        "experts": [
            {
                "expert": ranked.expert,
                "probability": round(ranked.probability, 4),
                # A wait without end (it would be refused) has no number in JSON.
                "expected_wait_s": round(wait, 3) if math.isfinite(wait) else None,
            }
            for ranked, wait in zip(decision.ranking, preview.waits_s, strict=True)
        ],
    }


def _too_slow(seconds: float) -> ExpertTimeout:
    return ExpertTimeout(
        f"no complete answer within {seconds:g} s",
        hint="Ask for fewer tokens, or raise limits.request_timeout_s in experts.yaml.",
    )
