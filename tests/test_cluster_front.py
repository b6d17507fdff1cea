"""Inside Serve's proxy: what clients are told when a gateway dies, or Serve answers by itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from coe.cluster.serve_middleware import OUR_HEADER, Front, middlewares
from coe.cluster.settings import LOCAL_ENV

JSON = [(b"content-type", b"application/json"), (OUR_HEADER, b"req-1")]
STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (OUR_HEADER, b"req-1")]
PLAIN = [(b"content-type", b"text/plain")]


def start(status: int, headers: list[tuple[bytes, bytes]]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(raw: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": raw, "more_body": more}


def sent_for(messages: list[Message], path: str = "/v1/chat/completions", raises: bool = False) -> list[Any]:
    """What a client gets from an app that sends ``messages`` and ends then."""
    sent: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if raises:
            raise RuntimeError("the replica died")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Front(app)({"type": "http", "path": path}, receive, send))
    return sent


def error_of(sent: list[Any]) -> tuple[int, str]:
    """Status and code of a response that is one of the API's errors, whole."""
    head, last = sent
    assert dict(head["headers"])[b"content-length"] == b"%d" % len(last["body"])
    assert not last.get("more_body", False)
    return head["status"], json.loads(last["body"])["error"]["code"]


@pytest.mark.parametrize(
    "messages",
    [
        [start(200, JSON), body(b"{}")],
        [start(429, JSON), body(b'{"error": {}}')],
        [start(200, STREAM), body(b"data: 1\n\n", more=True), body(b"data: [DONE]\n\n")],
    ],
)
def test_whole_responses_of_a_gateway_pass_unchanged(messages: list[Message]) -> None:
    assert sent_for(messages) == messages


def test_the_head_of_a_stream_does_not_wait_for_its_first_event() -> None:
    assert sent_for([start(200, STREAM)])[0] == start(200, STREAM)


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("messages", [[], [start(200, JSON)]])
def test_a_gateway_lost_before_its_answer_is_an_error_to_try_again(
    messages: list[Message], raises: bool
) -> None:
    sent = sent_for(messages, raises=raises)
    assert error_of(sent) == (503, "gateway_lost")
    assert dict(sent[0]["headers"])[b"retry-after"] == b"1"


@pytest.mark.parametrize("chunk", [b"data: 1\n\n", b'data: {"cho'])
def test_a_stream_whose_gateway_is_lost_ends_with_an_error_event(chunk: bytes) -> None:
    sent = sent_for([start(200, STREAM), body(chunk, more=True)])
    assert sent[:2] == [start(200, STREAM), body(chunk, more=True)]
    assert not sent[-1].get("more_body", False)
    events = b"".join(message["body"] for message in sent[1:]).split(b"\n\n")
    assert events[-1] == b""
    assert json.loads(events[-2].removeprefix(b"data: "))["error"]["code"] == "gateway_lost"


def test_half_a_body_stays_half_a_body() -> None:
    messages = [start(200, JSON), body(b'{"choi', more=True)]
    assert sent_for(messages) == messages


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (408, (504, "expert_timeout")),
        (429, (429, "queue_full")),
        (404, (503, "no_gateway")),
        (503, (503, "no_gateway")),
        (500, (503, "gateway_lost")),
    ],
)
def test_serves_own_answers_become_the_apis_errors(status: int, told: tuple[int, str]) -> None:
    assert error_of(sent_for([start(status, PLAIN), body(b"Request timed out.")])) == told


def test_other_applications_of_the_proxy_are_left_alone() -> None:
    messages = [start(500, PLAIN), body(b"theirs")]
    assert sent_for(messages, path="/other/v1/things") == messages


def test_serve_is_told_where_the_front_is() -> None:
    module, _, name = LOCAL_ENV["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].partition(":")
    assert (module, name) == (middlewares.__module__, middlewares.__name__)
    assert middlewares()[0].cls is Front
