"""Cutting a stream at its end, and the shape of receipts."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.core.errors import EngineError
from coe.core.types import Leg, Receipt
from coe.gateway.responses import UntilDone, body_with_receipt, receipt_event, receipt_headers

EVENTS = b"".join(
    b"data: " + json.dumps({"text": text}).encode() + b"\n\n"
    for text in ("a", "data: [DONE]", "\ndata: [DONE]\n\n", "[DONE]", "data:")
)

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
)


async def passed(chunks: Iterable[bytes]) -> tuple[bytes, bool]:
    async def source() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    until = UntilDone(source())
    return b"".join([chunk async for chunk in until]), until.done


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.integers(0, len(EVENTS) + 14), max_size=12))
async def test_everything_before_done_passes_wherever_chunks_are_cut(places: list[int]) -> None:
    assert await passed(cut(EVENTS + b"data: [DONE]\n\n", places)) == (EVENTS, True)


@given(st.lists(st.integers(0, len(EVENTS)), max_size=12))
async def test_a_stream_without_done_passes_whole_and_is_not_done(places: list[int]) -> None:
    assert await passed(cut(EVENTS, places)) == (EVENTS, False)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b"data: [DONE]\n\n"], b""),
        ([b"data: {}\r\n\r\n", b"data: [DONE]\r\n\r\n"], b"data: {}\r\n\r\n"),
        ([b"data:[DONE]"], b""),
        ([b"data: {}\n\ndata: [DONE]\n\n", b"late"], b"data: {}\n\n"),
    ],
)
async def test_done_is_found_in_every_spelling(chunks: list[bytes], expected: bytes) -> None:
    assert await passed(chunks) == (expected, True)


async def test_a_begun_mark_at_the_end_is_not_lost() -> None:
    assert await passed([b"data: {}\n\ndata: [DO"]) == (b"data: {}\n\ndata: [DO", False)


async def test_chunks_are_passed_on_as_they_come() -> None:
    async def source() -> AsyncIterator[bytes]:
        for chunk in (b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"):
            yield chunk

    assert [chunk async for chunk in UntilDone(source())] == [b"data: 1\n\n", b"data: 2\n\n"]


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
