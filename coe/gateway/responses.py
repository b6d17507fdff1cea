"""From an answer to HTTP: bodies with a receipt, streams with a receipt before ``[DONE]``, headers."""

from __future__ import annotations

import re
from typing import Any

from coe.core import json_codec as quick_json
from coe.core.errors import CoeError, EngineError
from coe.core.openai import usage_json
from coe.core.types import Endpoint, Leg, Receipt

HeaderList = list[tuple[bytes, bytes]]

DONE_EVENT = b"data: [DONE]\n\n"
_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{1,200})"')


def receipt_json(receipt: Receipt) -> dict[str, Any]:
    """The ``coe`` field. Times in milliseconds, rounded to what a person reads."""
    return {
        "request_id": receipt.request_id,
        "generation": receipt.generation,
        "router": receipt.router,
        "expert": receipt.expert,
        "aggregator": receipt.aggregator,
        "confidence": _rounded(receipt.confidence, 4),
        "runner_up": receipt.runner_up,
        "margin": _rounded(receipt.margin, 4),
        "reason": receipt.reason,
        "why": receipt.why,
        "legs": [_leg_json(leg) for leg in receipt.legs],
        **_usage_by_leg(receipt),
        "queue_ms": _rounded(receipt.queue_ms, 2),
        "swap_ms": _rounded(receipt.swap_ms, 2),
    }


def receipt_headers(receipt: Receipt) -> HeaderList:
    """What is known before the first byte. The request's id is added to every response elsewhere."""
    expert = (
        [] if receipt.expert is None else [(b"x-coe-expert", receipt.expert.encode("latin-1", "replace"))]
    )
    return [
        *expert,
        (b"x-coe-router", receipt.router.encode("latin-1", "replace")),
        (b"x-coe-generation", b"%d" % receipt.generation),
        (b"x-coe-queue-ms", b"%.2f" % receipt.queue_ms),
        (b"x-coe-swap-ms", b"%.2f" % receipt.swap_ms),
    ]


def body_from_cache(stored: bytes, request_id: str) -> bytes:
    """A stored body for another request: its receipt names that request, has no legs, and says why."""
    body = quick_json.decode(stored)
    body["coe"] = {
        **body["coe"],
        "request_id": request_id,
        "reason": f"stored answer of {body['coe']['request_id']}",
        "cached": True,
        "legs": [],
        "queue_ms": 0.0,
        "swap_ms": 0.0,
    }
    return quick_json.encode(body)


def body_with_receipt(raw: bytes, receipt: Receipt) -> bytes:
    """An expert's body with ``model`` naming the expert and the receipt as ``coe``.

    Raises EngineError if the body is not a JSON object.
    """
    body = quick_json.with_fields(raw, model=receipt.expert, coe=receipt_json(receipt))
    if body is None:
        raise EngineError(
            f"{receipt.expert} answered something that is not a JSON object",
            hint="Look at the log of its engine.",
        )
    return body


def completion_id(start: bytes) -> str | None:
    """The ``id`` of a body or a stream's first event, which stands at its start."""
    found = _ID.search(start[:400])
    return found[1].decode("utf-8", "replace") if found else None


def receipt_event(receipt: Receipt, endpoint: Endpoint, created: int) -> bytes:
    """The receipt as a stream event: a chunk of the endpoint's own shape that says nothing, plus ``coe``.

    Clients parse every event as a chunk, and many read ``choices[0]`` of each without looking.
    """
    chat = endpoint == "chat/completions"
    silent: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    chunk = {
        "id": receipt.request_id,
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": created,
        "model": receipt.expert,
        "choices": [{"index": 0, **silent, "logprobs": None, "finish_reason": None}],
        "coe": receipt_json(receipt),
    }
    return b"data: " + quick_json.encode(chunk) + b"\n\n"


def error_event(error: CoeError) -> bytes:
    """An error after the stream began. Clients raise on an event with ``error``."""
    return b"data: " + quick_json.encode(error.envelope()) + b"\n\n"


def _leg_json(leg: Leg) -> dict[str, Any]:
    return {
        "expert": leg.expert,
        "role": leg.role,
        "queue_ms": _rounded(leg.queue_ms, 2),
        "swap_ms": _rounded(leg.swap_ms, 2),
        "wake_from": leg.wake_from,
        "run_ms": _rounded(leg.run_ms, 2),
        "tokens": leg.tokens,
        "outcome": leg.outcome,
    }


def _usage_by_leg(receipt: Receipt) -> dict[str, Any]:
    """What the answer's usage is the sum of, where several experts were asked."""
    if receipt.aggregator is None:
        return {}
    legs = [
        {"expert": leg.expert, "role": leg.role, **usage_json(leg.usage)} for leg in receipt.legs if leg.usage
    ]
    return {"usage_by_leg": legs}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
