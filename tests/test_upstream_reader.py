"""The one reader of upstream answers: where a stream ends, what passes of it, and what is an error."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.core.errors import EngineError
from coe.core.openai import summed, usage_json, usage_of
from coe.engines.upstream import AnswerReader, completion

EVENTS = b"".join(
    b"data: " + json.dumps({"text": text}).encode() + b"\n\n"
    for text in ("a", "data: [DONE]", "\ndata: [DONE]\n\n", "[DONE]", "data:", '"error"', '"usage"')
)
CHOICES = [{"index": 0, "message": {"role": "assistant", "content": "4"}}]
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def event(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def read(chunks: Iterable[bytes], stream: bool = True, **options: Any) -> tuple[bytes, AnswerReader, str]:
    """What passed, its reader, and the code of the error that ended it, if one did."""
    reader, passed = AnswerReader("sums", "chat/completions", stream, **options), b""
    try:
        for chunk in chunks:
            passed += reader.feed(chunk)
        passed += reader.end()
    except EngineError as error:
        return passed, reader, error.code
    return passed, reader, ""


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.integers(0, len(EVENTS) + 14), max_size=12))
def test_everything_before_done_passes_wherever_chunks_are_cut(places: list[int]) -> None:
    passed, reader, error = read(cut(EVENTS + b"data: [DONE]\n\n", places))
    assert (passed, reader.done, reader.events, error) == (EVENTS, True, 7, "")


@given(st.lists(st.integers(0, len(EVENTS)), max_size=12))
def test_a_stream_without_done_passes_its_whole_events_and_is_broken(places: list[int]) -> None:
    passed, reader, error = read(cut(EVENTS, places))
    assert (passed, reader.done, error) == (EVENTS, False, "stream_broken")


@given(
    st.lists(st.integers(0, 400), max_size=12),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", " "]),
    st.sampled_from(["", ": a comment\n\n", "\ufeff"]),
)
def test_streams_are_read_as_the_standard_says(places: list[int], end: str, space: str, first: str) -> None:
    lines = [
        "event: message",
        f'data:{space}{{"a": "é"}}',
        "id: 7",
        "",
        ": busy",
        "",
        f"data:{space}[DONE]",
        "",
        "",
    ]
    raw = first.replace("\n", end).encode() + end.join(lines).encode()
    passed, reader, error = read(cut(raw, [place for place in places if place <= len(raw)]))
    assert (passed, reader.done, error) == ('data: {"a": "é"}\n\n'.encode(), True, "")


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b"data: [DONE]\n\n"], b""),
        ([b"data: {}\r\n\r\n", b"data: [DONE]\r\n\r\n"], b"data: {}\n\n"),
        ([b"data:[DONE]"], b""),
        ([b"data: {}\n\ndata: [DONE]\n\n", b"data: {}\n\n"], b"data: {}\n\n"),
    ],
)
def test_done_is_found_in_every_spelling(chunks: list[bytes], expected: bytes) -> None:
    passed, reader, error = read(chunks)
    assert (passed, reader.done, error) == (expected, True, "")


def test_an_event_that_is_not_complete_at_the_end_does_not_pass() -> None:
    assert read([b"data: {}\n\ndata: [DO"])[::2] == (b"data: {}\n\n", "stream_broken")


def test_events_pass_as_soon_as_they_are_complete() -> None:
    reader = AnswerReader("sums", "chat/completions", stream=True)
    chunks = (b"data: {}\n", b"\ndata: {}\n\nda", b"ta: {}\n\n")
    assert [reader.feed(chunk) for chunk in chunks] == [b"", b"data: {}\n\ndata: {}\n\n", b"data: {}\n\n"]


@pytest.mark.parametrize(
    "raw",
    [
        event({"error": {"message": "no room"}}),
        event({"error": "no room"}),
        b'data:{ "error" : {"message": "no room"}}\n\n',
        b'event: error\ndata: {"message": "no room"}\n\n',
    ],
)
def test_an_error_inside_a_stream_is_an_error_with_its_own_words(raw: bytes) -> None:
    reader = AnswerReader("sums", "chat/completions", stream=True)
    assert reader.feed(event({"text": "4"})) == event({"text": "4"})
    with pytest.raises(EngineError, match="sums failed: no room"):
        reader.feed(raw)


def test_an_error_event_without_words_is_an_error_too_and_a_null_error_is_none() -> None:
    with pytest.raises(EngineError, match="it gave no reason"):
        AnswerReader("sums", "chat/completions", stream=True).feed(b"event: error\ndata: overloaded\n\n")
    fine = event({"text": "4", "error": None})
    assert AnswerReader("sums", "chat/completions", stream=True).feed(fine) == fine


@pytest.mark.parametrize("choices", [[], [{"index": 0, "delta": {}}]])
def test_usage_is_noted_and_passes_unless_it_is_taken(choices: list[Any]) -> None:
    raw = event({"choices": choices, "usage": USAGE})
    passed, reader, _ = read([raw, b"data: [DONE]\n\n"])
    assert (passed, reader.usage) == (raw, USAGE)
    passed, reader, _ = read([raw, b"data: [DONE]\n\n"], take_usage=True)
    assert reader.usage == USAGE
    assert json.loads(passed.removeprefix(b"data: ") or "{}") == ({"choices": choices} if choices else {})


@pytest.mark.parametrize("count", [-1, -(10**30), 2.5, 3.0, "7", None, True, [1], {"a": 1}])
def test_counts_that_are_no_whole_numbers_or_negative_are_ignored(count: Any) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": count}
    assert usage_of({"usage": usage}) == {"prompt_tokens": 3}
    whole = AnswerReader("sums", "chat/completions", stream=False)
    whole.feed(json.dumps({"choices": CHOICES, "usage": usage}).encode())
    whole.end()
    streamed = AnswerReader("sums", "chat/completions", stream=True)
    streamed.feed(event({"choices": [], "usage": usage}))
    assert whole.usage == streamed.usage == {"prompt_tokens": 3}


def test_a_whole_body_passes_at_its_end_with_its_usage_noted() -> None:
    raw = json.dumps({"choices": CHOICES, "usage": USAGE}).encode()
    reader = AnswerReader("sums", "chat/completions", stream=False)
    assert [reader.feed(part) for part in cut(raw, [5, 20])] == [b"", b"", b""]
    assert (reader.end(), reader.usage, reader.end()) == (raw, USAGE, b"")


@pytest.mark.parametrize("raw", [b"<html>", b"[1]", b"\xff", b'{"choices": [', b"null"])
def test_a_whole_body_that_is_not_an_object_is_the_engine_s_fault(raw: bytes) -> None:
    reader = AnswerReader("sums", "chat/completions", stream=False, content_type="application/json")
    reader.feed(raw)
    with pytest.raises(EngineError, match="sums answered something that is not a JSON object"):
        reader.end()


def test_an_empty_body_passes_nothing() -> None:
    assert read([b""], stream=False)[0] == b""


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": 1}])
def test_a_completion_has_choices(body: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="sums answered no completion"):
        completion("sums", body)


def logprobs(*values: float) -> dict[str, Any]:
    tokens = [{"token": "4", "logprob": value, "top_logprobs": []} for value in values]
    return {"choices": [{**CHOICES[0], "logprobs": {"content": tokens}}], "usage": USAGE}


def strictly(raw: bytes) -> Any:
    """As JSON has it: a number that is none is an error."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(raw, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "shown"), [(-math.inf, -9_999.0), (math.nan, None), (math.inf, None), (-0.5, -0.5)]
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("as_stream", [False, True])
def test_numbers_that_json_does_not_have_pass_as_json(
    value: float, shown: float | None, stream: bool, as_stream: bool
) -> None:
    body = logprobs(value)
    body["choices"][0]["finish_reason"] = "stop"
    if as_stream:
        body["choices"][0]["delta"] = body["choices"][0].pop("message")
    raw = event(body) + b"data: [DONE]\n\n" if as_stream else json.dumps(body).encode()
    kind = "text/event-stream" if as_stream else "application/json"
    passed, _, error = read([raw], stream=stream, content_type=kind)
    assert error == ""
    found = [strictly(line.removeprefix(b"data: ")) for line in passed.split(b"\n") if line]
    said = [each["choices"][0].get("logprobs") for each in found if each.get("choices")]
    told = [token["logprob"] for logprobs in said if logprobs for token in logprobs["content"]]
    assert told == [] if as_stream and not stream else told == [shown]  # a body put together has none


def test_words_that_look_like_such_numbers_stay() -> None:
    body = {"choices": [{"index": 0, "message": {"content": "NaN and -Infinity"}}]}
    raw = json.dumps(body).encode()
    assert read([raw], stream=False)[0] == raw


DETAILS = {**USAGE, "prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": None}


def test_details_of_usage_are_kept_and_added_up() -> None:
    told = usage_of({"usage": DETAILS})
    assert told == {**USAGE, "prompt_tokens_details.cached_tokens": 2}
    more = usage_of({"usage": {"prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": -1}}})
    assert usage_json(summed([told, more])) == {**USAGE, "prompt_tokens_details": {"cached_tokens": 7}}


def test_a_body_replayed_as_a_stream_keeps_them() -> None:
    raw = json.dumps({"choices": CHOICES, "usage": DETAILS}).encode()
    passed, _, _ = read([raw], content_type="application/json")
    assert strictly(passed.split(b"\n\n")[-2][6:])["usage"] == {
        **USAGE,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
