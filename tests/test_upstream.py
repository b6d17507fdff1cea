"""The one reader of upstream answers, over real connections to an upstream that does what upstreams do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from coe.core import openai
from coe.core.errors import CoeError, EngineError, ExpertRefused
from coe.engines import upstream as reading
from coe.engines.http import BROKE_OFF, UNREACHABLE, HttpAnswer, HttpClient
from coe.engines.upstream import AnswerReader, Upstream, seconds_until
from tests.support.upstream import (
    CHUNKS,
    DONE,
    FAULTS,
    Act,
    Fault,
    ScriptedUpstream,
    completion,
    event,
    events,
    scripted_upstream,
    stream,
    whole,
)


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream() as running:
        yield running


def named(fault: Fault) -> str:
    return f"{'stream' if fault.streamed else 'whole'}: {fault.name}"


class Read:
    """What became of one answer."""

    text = ""
    usage: Any = None
    chunks = 0
    refused: CoeError | None = None
    """before anything was passed on"""
    broken: CoeError | None = None
    seen = b""


async def passed(reader: AnswerReader, answer: HttpAnswer) -> AsyncIterator[bytes]:
    """What is passed on, as whoever asks an expert takes it."""
    async for raw in answer.chunks():
        if found := reader.feed(raw):
            yield found
        if reader.done:
            return
    if found := reader.end():
        yield found


def reader_of(answer: HttpAnswer, streamed: bool, take_usage: bool = False) -> AnswerReader:
    return AnswerReader("m", "chat/completions", streamed, take_usage, answer.content_type)


async def read(upstream: ScriptedUpstream, act: Act, streamed: bool, keep_usage: bool = True) -> Read:
    upstream.play("m", act)
    found = Read()
    client = HttpClient(Upstream("m", upstream.url, read_timeout_s=0.3, ours=False))
    try:
        answer = await client.ask("/v1/chat/completions", {"model": "m", "stream": streamed})
        reader = reader_of(answer, streamed, take_usage=not keep_usage)
        try:
            async for block in passed(reader, answer):
                found.seen += block
        finally:
            await answer.aclose()
        if not found.seen:
            found.refused = EngineError("m answered nothing")
        elif streamed:
            found.text = "".join(text_of_events(found.seen))
        else:
            found.text = openai.text_of(json.loads(found.seen))
        found.usage, found.chunks = dict(reader.usage), reader.events
    except (EngineError, ExpertRefused) as error:
        if found.seen:
            found.broken = error
        else:
            found.refused = error
    finally:
        await client.close()
    return found


def text_of_events(seen: bytes) -> list[str]:
    payloads = [json.loads(line[6:]) for line in seen.split(b"\n") if line.startswith(b"data: {")]
    deltas = [choice["delta"] for payload in payloads for choice in payload["choices"]]
    return [openai.joined_text(delta.get("content")) for delta in deltas]


@pytest.mark.parametrize("fault", FAULTS, ids=named)
async def test_every_fault_comes_out_as_what_it_is(fault: Fault, upstream: ScriptedUpstream) -> None:
    found = await read(upstream, fault.act, fault.streamed)
    if fault.right == "ok":
        assert (found.text, found.refused, found.broken) == ("42", None, None)
    elif fault.right == "broken":
        assert found.refused is None
        assert isinstance(found.broken, EngineError)
    else:
        assert found.refused is not None
        moves_on = isinstance(found.refused, EngineError) or getattr(found.refused, "elsewhere", False)
        assert moves_on == (fault.right == "next")


USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


@pytest.mark.parametrize(
    "act",
    [
        stream(events(), DONE),
        stream(events((CHUNKS[-1], *CHUNKS[:-1])), DONE),
        stream(events((*CHUNKS[:3], {**CHUNKS[3], "usage": USAGE})), DONE),
        stream(events(end="\r\n"), DONE),
        whole(completion()),
    ],
    ids=["last", "first", "with the last choice", "crlf", "plain body"],
)
@pytest.mark.parametrize("keep", [True, False])
async def test_usage_is_taken_wherever_it_stands_and_shown_to_who_asked(
    act: Act, keep: bool, upstream: ScriptedUpstream
) -> None:
    found = await read(upstream, act, streamed=True, keep_usage=keep)
    assert found.text == "42"
    assert found.usage == USAGE
    assert (b'"usage"' in found.seen) == keep


async def test_an_answer_of_plain_chunks_passes_through_byte_for_byte(upstream: ScriptedUpstream) -> None:
    chunks = events(CHUNKS[:4])
    found = await read(upstream, stream(chunks[:90], 0.01, chunks[90:], DONE), streamed=True)
    assert found.seen == chunks
    assert found.chunks == 4


async def test_a_text_that_speaks_of_errors_and_usage_is_no_error(upstream: ScriptedUpstream) -> None:
    text = 'an {"error": "x"} in a [DONE] text with "usage"'
    said = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    found = await read(
        upstream, stream(event({**CHUNKS[0], "choices": [said]}), events(CHUNKS[3:]), DONE), True
    )
    assert (found.text, found.broken) == (text, None)


async def test_a_body_without_an_end_is_given_up(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_BODY_BYTES", 100_000)
    monkeypatch.setattr(reading, "MAX_EVENT_BYTES", 100_000)
    body = Act((b'{"choices": "', *[b"x" * 50_000] * 40), framing="close")
    found = await read(upstream, body, streamed=False)
    assert "more than" in str(found.refused)
    line = stream(b'data: {"choices": "', *[b"x" * 50_000] * 40)
    found = await read(upstream, line, streamed=True)
    assert "more than" in str(found.refused)


async def test_a_stream_put_together_keeps_tool_calls(upstream: ScriptedUpstream) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": part}} for part in ('{"a":', " 1}")]
    deltas = [{"role": "assistant", "content": None}, *({"tool_calls": [p]} for p in (call, *pieces))]
    chunks = [{**CHUNKS[0], "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    upstream.play("m", stream(events((*chunks, *CHUNKS[3:])), DONE))
    client = HttpClient(Upstream("m", upstream.url))
    answer = await client.ask("/v1/chat/completions", {"model": "m"})
    whole_body = b"".join([block async for block in passed(reader_of(answer, False), answer)])
    [found] = openai.tool_calls_of(json.loads(whole_body))
    assert found["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert found["id"] == "c1"
    await answer.aclose()
    await client.close()


@pytest.mark.parametrize(("ours", "code"), [(True, UNREACHABLE), (False, BROKE_OFF)])
async def test_work_that_may_have_been_done_is_told_from_work_that_was_not(
    ours: bool, code: str, upstream: ScriptedUpstream
) -> None:
    upstream.play("m", Act(("reset",), framing="short"))
    client = HttpClient(Upstream("m", upstream.url, ours=ours))
    answer = await client.ask("/v1/chat/completions", {"model": "m"})
    with pytest.raises(EngineError) as broke:
        [_ async for _ in passed(reader_of(answer, False), answer)]
    assert broke.value.code == code
    await client.close()
    nobody = HttpClient(Upstream("m", "http://127.0.0.1:1", ours=ours))
    with pytest.raises(EngineError) as refused:
        await nobody.ask("/v1/chat/completions", {"model": "m"})
    assert refused.value.code == UNREACHABLE
    await nobody.close()


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("7.5", 7.5, 7.5),
        ("0", 0, 0),
        ("-3", 0, 0),
        ("9" * 400, None, None),
        ("1e308", 86_400, 86_400),
        ("nan", None, None),
        ("soon", None, None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400, 86_400),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        (None, None, None),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, low: float | None, high: float | None) -> None:
    found = seconds_until(header)
    assert found == low if low is None or found is None else low <= found <= (high or 0)


async def test_a_rate_limit_says_so_and_when_to_come_back(upstream: ScriptedUpstream) -> None:
    body = {"error": {"message": "slow down"}}
    found = await read(upstream, whole(body, 429, headers=(("Retry-After", "7.5"),)), streamed=False)
    assert isinstance(found.refused, ExpertRefused)
    assert found.refused.envelope()["error"]["type"] == "rate_limit_error"
    assert found.refused.retry_after_s == 7.5
