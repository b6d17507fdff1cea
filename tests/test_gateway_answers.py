"""The shape of receipts: fields, headers and events."""

from __future__ import annotations

import json

import pytest

from coe.core.errors import EngineError
from coe.core.types import Leg, Receipt
from coe.gateway.responses import body_with_receipt, receipt_event, receipt_headers

RECEIPT = Receipt(
    request_id="req-1",
    generation=3,
    router="category",
    expert="sums",
    confidence=0.123456,
    runner_up="words",
    margin=0.2,
    reason="numbers",
    legs=(Leg(expert="sums", queue_ms=1.23456, swap_ms=0.5, tokens=4),),
    why="cost",
)


def test_a_body_gets_its_expert_s_name_and_the_receipt() -> None:
    body = json.loads(body_with_receipt('{"model": "coe-slot", "x": "ü"}'.encode(), RECEIPT))
    assert body == {
        "model": "sums",
        "x": "ü",
        "coe": {
            "request_id": "req-1",
            "generation": 3,
            "router": "category",
            "expert": "sums",
            "aggregator": None,
            "confidence": 0.1235,
            "runner_up": "words",
            "margin": 0.2,
            "reason": "numbers",
            "why": "cost",
            "legs": [
                {
                    "expert": "sums",
                    "role": "answer",
                    "queue_ms": 1.23,
                    "swap_ms": 0.5,
                    "wake_from": "awake",
                    "run_ms": None,
                    "tokens": 4,
                    "outcome": "ok",
                }
            ],
            "queue_ms": 1.23,
            "swap_ms": 0.5,
        },
    }


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[1]", b"\xff"])
def test_a_body_that_is_no_object_is_the_engine_s_fault(raw: bytes) -> None:
    with pytest.raises(EngineError, match="sums answered something that is not a JSON object"):
        body_with_receipt(raw, RECEIPT)


@pytest.mark.parametrize(
    ("endpoint", "kind"), [("chat/completions", "chat.completion.chunk"), ("completions", "text_completion")]
)
def test_the_receipt_event_is_a_chunk_of_the_endpoint_s_kind(endpoint: str, kind: str) -> None:
    event = receipt_event(RECEIPT, endpoint, created=7)  # type: ignore[arg-type]
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    chunk = json.loads(event[6:])
    assert (chunk["object"], chunk["created"]) == (kind, 7)
    assert not chunk["choices"][0].get("delta")
    assert not chunk["choices"][0].get("text")
    assert chunk["coe"]["expert"] == "sums"


def test_headers_say_what_is_known_before_the_first_byte() -> None:
    assert dict(receipt_headers(RECEIPT)) == {
        b"x-coe-expert": b"sums",
        b"x-coe-router": b"category",
        b"x-coe-generation": b"3",
        b"x-coe-queue-ms": b"1.23",
        b"x-coe-swap-ms": b"0.50",
    }
