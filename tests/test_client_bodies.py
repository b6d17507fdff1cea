"""What clients really send: bodies that vLLM takes are taken and passed on as they are, words may name URLs,
and what would take long to read is refused by its size."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from coe.access.limits import prompt_characters
from coe.access.response_cache import cache_key
from coe.core.errors import BadRequest
from coe.core.openai import is_data_url
from coe.core.types import EngineCall, Request, number
from coe.engines.remote.litellm import checked_arguments
from coe.gateway.requests import LARGE_BODY_BYTES, parse_completion, parse_route, parsed, routing_text
from coe.gateway.schemas import ChatBody
from coe.observe.capture import _redacted
from coe.registry.schema import Limits

MESSAGES = [{"role": "user", "content": "hi"}]


def parse(endpoint: Any = "chat/completions", limits: Limits | None = None, **fields: Any) -> Request:
    body = {"model": "coe", **({"messages": MESSAGES} if endpoint == "chat/completions" else {}), **fields}
    return parse_completion(endpoint, json.dumps(body).encode(), {}, limits or Limits(), "r")


def refused(endpoint: Any = "chat/completions", limits: Limits | None = None, **fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as found:
        parse(endpoint, limits, **fields)
    return found.value


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 5.0},
        {"max_completion_tokens": 7.0},
        {"n": 1.0},
        {"seed": 3.0},
        {"seed": -1.0},
        {"top_k": 5.0, "min_tokens": 1.0},
        {"logprobs": True, "top_logprobs": 2.0},
        {"max_tokens": "5"},
        {"max_tokens": "5.0"},
        {"n": "2"},
        {"seed": "11"},
        {"temperature": "0.5"},
        {"top_p": "1"},
        {"presence_penalty": "-1.5", "frequency_penalty": "2"},
        {"logit_bias": {"50256": "-100", "11": 1}},
        {"stop": []},
        {"stop": "a"},
        {"stop": ["a", "b"]},
        {"tools": []},
        {"tools": None, "tool_choice": None},
        {"logit_bias": {}},
        {"stop_token_ids": [], "bad_words": []},
        {"messages": [{"role": "user", "content": []}, *MESSAGES]},
        {"stream": "true"},
        {"stream": 0},
        {"stream_options": {"include_usage": "true"}},
        {"logprobs": "false"},
        {"parallel_tool_calls": 1},
        {"n": None, "seed": None, "stop": None, "user": None, "stream_options": None},
        {"chat_template_kwargs": {"enable_thinking": False}, "guided_json": {}, "x-own": [1, {"a": None}]},
    ],
)
def test_what_vllm_takes_is_taken_and_passed_on_as_it_is(fields: dict[str, Any]) -> None:
    body = parse(**fields).body
    assert {name: body[name] for name in fields} == fields
    assert all(type(body[name]) is type(value) for name, value in fields.items())


@pytest.mark.parametrize("role", ["ipython", "tool", "function", "developer", "observation", "Human", "用户"])
@pytest.mark.parametrize("content", ["hi", [{"type": "text", "text": "hi"}], ["hi"], None])
def test_roles_are_those_of_the_chat_template(role: str, content: Any) -> None:
    messages = [{"role": role, "content": content}]
    assert parse(messages=messages).body["messages"] == messages


@pytest.mark.parametrize("prompt", [[1.0, 2.0], [[1.0], [2]], [1, 2], [[1, 2], [3]], ["a", "b"], "a"])
def test_prompts_as_vllm_takes_them(prompt: Any) -> None:
    assert parse("completions", prompt=prompt, best_of=1.0, echo="true").body["prompt"] == prompt


@pytest.mark.parametrize("prompt", [[1.5], [float(1), True], [[1], []], [[1], ["a"]], [[]], [None], [[[1]]]])
def test_prompts_that_nobody_could_mean(prompt: Any) -> None:
    assert refused("completions", prompt=prompt).param == "prompt"


def test_texts_among_the_parts_are_routed_by() -> None:
    checked = ChatBody.model_validate(
        {"model": "coe", "messages": [{"role": "user", "content": ["a", {"type": "text", "text": "b"}]}]}
    )
    assert routing_text(checked.messages) == "a\nb"


@pytest.mark.parametrize(
    ("sent", "streams"),
    [(True, True), ("true", True), ("True", True), (1, True), ("false", False), (0, False)],
)
def test_a_switch_means_what_it_says(sent: Any, streams: bool) -> None:
    assert parse(stream=sent).stream is streams
    assert EngineCall("chat/completions", {"stream": sent}).stream is streams
    assert checked_arguments(EngineCall("chat/completions", {"messages": [], "stream": sent})) == {
        "messages": [],
        "stream": streams,
    }


@pytest.mark.parametrize(
    ("sent", "meant"), [(5, 5), ("5", 5), ("5.0", 5), (5.0, 5), ("0.5", 0.5), (None, None), ([], None)]
)
def test_a_number_is_read_however_it_is_written(sent: Any, meant: Any) -> None:
    assert number(sent) == meant


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({"temperature": "0"}, True),
        ({"temperature": 0.0, "n": "1"}, True),
        ({"temperature": "0", "n": 2.0}, False),
        ({"temperature": "0.0", "stream": "true"}, False),
        ({"temperature": "1"}, False),
    ],
)
def test_the_cache_reads_them_so_too(fields: dict[str, Any], stored: bool) -> None:
    assert (cache_key(parse(**fields), "t", "g") is not None) is stored


CITED = [{"type": "url_citation", "url_citation": {"url": "https://example.com/a", "title": "https://a.b"}}]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "refusal", "refusal": "I cannot open https://example.com/a"},
        {"type": "refusal", "refusal": "https://example.com/a is not for me"},
        {
            "type": "thinking",
            "thinking": "https://example.com/a may say",
            "closed": True,
            "signature": "x://y",
        },
        {"type": "thinking", "thinking": [{"type": "text", "text": "file:///etc/passwd is private"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "http://a.b"}]},
        {"type": "text", "text": "see there", "annotations": CITED},
        {"type": "output_text", "text": "ftp://a", "annotations": CITED, "logprobs": []},
        {"type": "text", "text": "so", "citations": [{"url": "https://a.b", "cited_text": "http://c.d"}]},
        {"type": "document", "title": "https://a.b", "source": {"type": "text", "data": "words"}},
        {"type": "tool_result", "tool_use_id": "a", "content": "http://a.b answered 404"},
        {"type": "tool_result", "content": [{"type": "text", "text": "http://a.b answered"}]},
        {"type": "tool_use", "name": "open", "input": {"url": "https://example.com"}},
        {"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": " data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": "\n\tData:image/png;base64,AAAA"},
    ],
)
def test_words_that_name_a_url_are_words_and_data_is_data(part: dict[str, Any]) -> None:
    messages = [{"role": "assistant", "content": [part]}, *MESSAGES]
    assert parse(messages=messages).body["messages"] == messages
    assert checked_arguments(EngineCall("chat/completions", {"messages": messages}))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "HTTPS://example.org/a"}},
        {"type": "image_url", "image_url": {"url": "\thttp://example.org/a"}},
        {"type": "image_url", "image_url": {"url": "\x01http://example.org/a"}},
        {"type": "image_url", "image_url": {"url": "ht\ntp://example.org/a"}},
        {"type": "custom", "where": "ht\ttps://example.org/a"},
        {"type": "custom", "where": "Fi\nle:/etc/passwd"},
        {"type": "tool_result", "content": [{"type": "image", "source": {"url": "http://a.b"}}]},
        {"type": "thinking", "thinking": [{"type": "image_url", "image_url": {"url": "http://a.b"}}]},
        {"type": "tool_result", "content": [{"type": "image", "image": "http://a.b"}]},
        {"image_url": "http://a.b"},
        {"type": "image_url", "image_url": {"url": "data"}},
    ],
)
def test_media_elsewhere_is_refused_however_it_is_written(part: dict[str, Any]) -> None:
    assert refused(messages=[{"role": "tool", "content": [part]}]).code == "remote_media"


@pytest.mark.parametrize(
    ("url", "hosts", "passes"),
    [
        ("https://xn--bcher-kva.example/a", ("bücher.example",), True),
        ("https://b\u00fccher.example./a", ("xn--bcher-kva.example",), True),
        ("http://\uff41.example/x", ("a.example",), True),
        ("http://2130706433/x", ("127.0.0.1",), True),
        ("http://evil.example/x", ("a.example",), False),
        ("http://169.254.169.254/x", ("*",), False),
        ("http://0xa9fea9fe/x", ("*",), False),
        ("http://169\u3002254\u3002169\u3002254/x", ("*",), False),
        ("http://169.254.169.254/x", ("169.254.169.254",), True),
        ("http://example.org/x", ("*",), True),
    ],
)
def test_allowed_hosts_are_compared_by_what_they_mean(url: str, hosts: tuple[str, ...], passes: bool) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    limits = Limits(media_hosts=hosts)
    if passes:
        parse(limits=limits, messages=messages)
    else:
        assert refused(limits=limits, messages=messages).code == "remote_media"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("data:image/png;base64,AAAA", True),
        ("DATA:audio/wav;base64,AAAA", True),
        (" \n data:,x", True),
        ("data: these are my figures", False),
        ("see data:x", False),
        ("data:", False),
    ],
)
def test_data_urls_are_known_wherever_they_are_left_out(text: str, is_one: bool) -> None:
    assert is_data_url(text) is is_one
    assert _redacted({"url": text}, str.upper) == {"URL": "[data]" if is_one else text.upper()}
    assert prompt_characters({"prompt": text}) == (0 if is_one else len(text))


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "m" * 900_000}, "invalid_value", "model"),
        ({"coe": {"router": "r" * 900_000}}, "invalid_value", "coe.router"),
        ({"messages": [{"role": "r" * 900_000}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user", "content": ["x"] * 30_000}]}, "too_many_parts", "messages"),
        ({"messages": [{"role": "user", "content": [1] * 30_000}]}, "too_many_parts", "messages"),
        ({"messages": [1] * 30_000}, "too_many_messages", "messages"),
        ({"messages": [{"role": "user", "content": ["x"] * 100}] * 100}, "too_many_parts", "messages"),
        ({"tools": [1] * 30_000}, "too_many_entries", "tools"),
        ({"logit_bias": dict.fromkeys(map(str, range(30_000)), "x")}, "too_many_entries", "logit_bias"),
        ({"stop": ["a"] * 30_000}, "too_many_entries", "stop"),
        ({"coe": dict.fromkeys(map(str, range(30_000)))}, "too_many_entries", "coe"),
        (dict.fromkeys(map(str, range(30_000))), "too_many_entries", None),
        (
            {"messages": [{"role": "user", "content": [{"type": "x", "y": [[]] * 30_000}]}]},
            "too_many_entries",
            "messages",
        ),
    ],
)
def test_what_would_take_long_to_read_is_refused_by_its_size(
    fields: dict[str, Any], code: str, param: str | None
) -> None:
    error = refused(**fields)
    assert (error.code, error.param) == (code, param)
    assert len(error.message) < 300
    assert error.hint


def test_a_dry_run_has_the_same_bounds() -> None:
    raw = json.dumps({"messages": [{"role": "user", "content": ["x"] * 30_000}]}).encode()
    with pytest.raises(BadRequest) as found:
        parse_route(raw, Limits(), "r", "coe")
    assert found.value.code == "too_many_parts"


def test_the_number_of_parts_can_be_raised() -> None:
    messages = [{"role": "user", "content": ["x"] * 2_000}]
    assert refused(messages=messages).code == "too_many_parts"
    assert parse(limits=Limits(max_parts=2_000), messages=messages).body["messages"] == messages


async def test_a_large_body_is_read_beside_the_event_loop() -> None:
    at: list[threading.Thread] = []
    for size in (10, LARGE_BODY_BYTES + 1):
        assert await parsed(b"x" * size, lambda: at.append(threading.current_thread())) is None
    assert at[0] is threading.main_thread()
    assert at[1] is not threading.main_thread()
