"""Traces of requests: one span for each hop, by names that any backend may implement.

    POST /v1/chat/completions     the gateway, under the caller's own span (W3C ``traceparent``)
    ├── route                     the choice of experts
    ├── queue EXPERT              the wait for a lease
    │   └── swap EXPERT           the part of it in which weights moved
    ├── chat EXPERT               the expert at work; it is told of this span, and may add its own
    └── aggregate NAME            several answers become one

Off, which is the default, a hop costs one look at a context variable, and every span is OpenTelemetry's
``INVALID_SPAN``, which notes nothing. Attributes have the names of
OpenTelemetry's conventions for HTTP and generative AI; ours start with ``coe.``. No text of a prompt or of an
answer is among them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode, Tracer, use_span
from opentelemetry.trace.propagation import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from coe.core.errors import CoeError
from coe.core.types import Decision, Endpoint, Leg, Receipt, Request, is_true, number

Attributes = Mapping[str, str | int | float | bool | Sequence[str] | None]
"""None: not known, left out"""

TRACER: ContextVar[Tracer | None] = ContextVar("tracer", default=None)
"""Makes the spans of the request that this task works on; None while nothing is traced."""


def begin(name: str, kind: SpanKind = SpanKind.INTERNAL, since_s: float = 0.0) -> Span:
    """A hop of the request that this task works on; the caller ends it, once. ``since_s``: how many seconds
    ago it began."""
    tracer = TRACER.get()
    if tracer is None:
        return INVALID_SPAN
    return tracer.start_span(name, kind=kind, start_time=time.time_ns() - int(since_s * 1e9))


@contextmanager
def hop(name: str) -> Iterator[Span]:
    """A hop that the block is; what is begun inside belongs to it."""
    span = begin(name)
    if span is INVALID_SPAN:
        yield span
        return
    with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except BaseException as error:
            fail(span, code_of(error))
            raise


def note(span: Span, attributes: Attributes) -> None:
    if span.is_recording():
        span.set_attributes({name: value for name, value in attributes.items() if value is not None})


def fail(span: Span, code: str) -> None:
    """It did not do what it was for; ``code`` says why."""
    span.set_attribute("error.type", code)
    span.set_status(StatusCode.ERROR, code)


def headers_under(span: Span) -> Mapping[str, str]:
    """What tells another service to put its spans under this one."""
    carried: dict[str, str] = {}
    if span is not INVALID_SPAN:
        TraceContextTextMapPropagator().inject(carried, set_span_in_context(span))
    return carried


def code_of(error: BaseException) -> str:
    """One of our error codes, or the name of an exception (``CancelledError``: nobody waited any more)."""
    return error.code if isinstance(error, CoeError) else type(error).__name__


def of_request(request: Request) -> Attributes:
    """What is asked, as far as it is a number or a name."""
    return {"coe.request_id": request.id, **of_question(request.endpoint, request.model, request.body)}


def of_question(endpoint: Endpoint, model: str, body: Mapping[str, Any]) -> Attributes:
    """A question to ``model``."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return {
        "gen_ai.operation.name": operation(endpoint),
        "gen_ai.provider.name": "coe",
        "gen_ai.request.model": model,
        "gen_ai.request.stream": is_true(body.get("stream")),
        "gen_ai.request.max_tokens": number(limit),
        "gen_ai.request.temperature": number(body.get("temperature")),
        "gen_ai.request.top_p": number(body.get("top_p")),
        "gen_ai.request.seed": number(body.get("seed")),
        "gen_ai.request.choice.count": number(body.get("n")),
        "gen_ai.request.frequency_penalty": number(body.get("frequency_penalty")),
        "gen_ai.request.presence_penalty": number(body.get("presence_penalty")),
    }


def operation(endpoint: Endpoint) -> str:
    return "chat" if endpoint == "chat/completions" else "text_completion"


def of_decision(decision: Decision) -> Attributes:
    return {
        "coe.router": decision.router,
        "coe.experts": list(decision.chosen),
        "coe.why": decision.why,
        "coe.confidence": decision.confidence,
        "coe.category": decision.category,
    }


def of_leg(leg: Leg) -> Attributes:
    return {
        "gen_ai.response.model": leg.expert,
        "gen_ai.usage.input_tokens": leg.prompt_tokens,
        "gen_ai.usage.output_tokens": leg.tokens,
        "coe.role": leg.role,
        "coe.outcome": leg.outcome,
    }


def of_receipt(receipt: Receipt, completion: str | None) -> Attributes:
    """What was answered. Tokens are summed over all legs that reported them."""
    return {
        "gen_ai.response.model": receipt.expert,
        "gen_ai.response.id": completion,
        "gen_ai.usage.input_tokens": _sum(leg.prompt_tokens for leg in receipt.legs),
        "gen_ai.usage.output_tokens": _sum(leg.tokens for leg in receipt.legs),
        "coe.generation": receipt.generation,
        "coe.router": receipt.router,
        "coe.aggregator": receipt.aggregator,
        "coe.why": receipt.why,
        "coe.confidence": receipt.confidence,
        "coe.legs": len(receipt.legs),
    }


def _sum(counts: Iterator[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
