"""An upstream that misbehaves as it is told, per request, and the table of what upstreams really do.

:class:`ScriptedUpstream` speaks HTTP/1.1 from raw bytes, so that every fault of the table is what it says
on the wire. :data:`FAULTS` names each fault once, with what a service must make of it; tests of every
engine kind and of every path run over the whole table.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Step = bytes | float | Literal["reset", "hold"]
"""bytes to send; seconds to wait; a reset of the connection; silence until the other side closes"""
Framing = Literal["length", "chunked", "close", "short"]
"""``short``: the head promises 1,000 bytes more than are sent"""
Right = Literal["ok", "next", "broken", "client"]
"""``ok``: a whole answer. ``next``: another expert is asked, and without one a clear error. ``broken``:
bytes were sent already, so one error event ends the stream, without [DONE]. ``client``: the request is at
fault, and nobody else is asked."""

JSON = "application/json"
SSE = "text/event-stream"
FOREVER = 3600.0


@dataclass(frozen=True)
class Act:
    """How one request is answered."""

    steps: tuple[Step, ...] = ()
    status: int = 200
    content_type: str | None = JSON
    headers: tuple[tuple[str, str], ...] = ()
    framing: Framing = "length"
    before: float = 0.0
    """seconds of silence before the head"""


@dataclass(frozen=True)
class Asked:
    """A request that the upstream got."""

    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass
class ScriptedUpstream:
    """Answers each model by its own acts, in order; the last one repeats. A model without acts answers
    well."""

    acts: dict[str, list[Act]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def play(self, model: str, *acts: Act) -> None:
        self.acts[model] = list(acts)

    def asked_of(self, model: str) -> int:
        return sum(
            1 for each in self.asked if isinstance(each.body, dict) and each.body.get("model") == model
        )

    def _act(self, asked: Asked) -> Act:
        body = asked.body if isinstance(asked.body, dict) else {}
        acts = self.acts.get(str(body.get("model")))
        if not acts:
            return good(bool(body.get("stream")), model=str(body.get("model")))
        return acts.pop(0) if len(acts) > 1 else acts[0]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while (asked := await _request(reader)) is not None:
                self.asked.append(asked)
                if not await _perform(self._act(asked), reader, writer):
                    break
        with suppress(ConnectionError):
            writer.close()


@asynccontextmanager
async def scripted_upstream() -> AsyncIterator[ScriptedUpstream]:
    """A running upstream on the loopback interface."""
    upstream = ScriptedUpstream()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(upstream.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _request(reader: asyncio.StreamReader) -> Asked | None:
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for line in lines if line for name, _, value in [line.partition(":")]
    }
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(first.split(" ")[1], headers, json.loads(raw) if raw else None)


async def _perform(act: Act, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the connection can serve another request."""
    if act.before and await _left(reader, act.before):
        return False
    writer.write(_head(act))
    for step in act.steps:
        if isinstance(step, bytes):
            writer.write(b"%x\r\n%s\r\n" % (len(step), step) if act.framing == "chunked" else step)
            await writer.drain()
        elif step == "reset":
            writer.transport.abort()
            return False
        elif await _left(reader, step if isinstance(step, float) else FOREVER):
            return False
    if act.framing == "chunked":
        writer.write(b"0\r\n\r\n")
        await writer.drain()
    return act.framing in ("length", "chunked")


async def _left(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Silence; whether the other side closed meanwhile."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await reader.read(1)
            return True
    return False


def _head(act: Act) -> bytes:
    length = sum(len(step) for step in act.steps if isinstance(step, bytes))
    headers = list(act.headers)
    if act.content_type is not None:
        headers.append(("Content-Type", act.content_type))
    if act.framing == "chunked":
        headers.append(("Transfer-Encoding", "chunked"))
    elif act.framing != "close":
        headers.append(("Content-Length", str(length + (1000 if act.framing == "short" else 0))))
    lines = [f"HTTP/1.1 {act.status} Scripted", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def completion(text: Any = "42", model: str = "m", **fields: Any) -> dict[str, Any]:
    """The body of a whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
    return {**head, "choices": [choice], "usage": usage, **fields}


def chunk(delta: Mapping[str, Any] | None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """One chunk of a streamed completion; ``None``: one without choices."""
    choices = [] if delta is None else [{"index": 0, "delta": dict(delta), "finish_reason": finish}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": choices, **fields}


USAGE = chunk(None, usage={"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8})
CHUNKS: tuple[dict[str, Any], ...] = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "4"}),
    chunk({"content": "2"}),
    chunk({}, "stop"),
    USAGE,
)
DONE = b"data: [DONE]\n\n"


def event(data: Any, end: str = "\n", space: str = " ") -> bytes:
    """One SSE event as a server writes it."""
    text = data if isinstance(data, str) else json.dumps(data)
    return f"data:{space}{text}{end}{end}".encode()


def events(chunks: Iterable[Any] = CHUNKS, end: str = "\n", space: str = " ") -> bytes:
    return b"".join(event(each, end, space) for each in chunks)


def stream(*steps: Step, **changes: Any) -> Act:
    return replace(Act(steps, content_type=SSE, framing="chunked"), **changes)


def whole(body: Any, status: int = 200, **changes: Any) -> Act:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return replace(Act((raw,), status=status), **changes)


def good(streamed: bool, model: str = "m", text: str = "42") -> Act:
    """What a well-behaved server answers."""
    if not streamed:
        return whole(completion(text, model))
    chunks = (chunk({"role": "assistant", "content": ""}), chunk({"content": text}), chunk({}, "stop"), USAGE)
    return stream(events(chunks), DONE)


@dataclass(frozen=True)
class Fault:
    """``name`` says what the upstream does, ``right`` what the service makes of it."""

    name: str
    act: Act
    right: Right
    streamed: bool
    status: int | None = None
    """what the client gets where nobody else can be asked and it is not 502"""


def _errors(status: int, message: str = "no", right: Right = "next", **fields: Any) -> Sequence[Fault]:
    act = whole({"error": {"message": message, **fields}}, status)
    shown = status if status in (400, 409, 413, 415, 422, 425, 429) else None
    return [Fault(f"status {status} {message}", act, right, streamed, shown) for streamed in (False, True)]


def _table(streamed: bool, rows: Sequence[tuple[str, Act, Right]]) -> tuple[Fault, ...]:
    return tuple(Fault(name, act, right, streamed) for name, act, right in rows)


HTML = b"<html><body>Bad gateway</body></html>"
ERROR: dict[str, Any] = {"error": {"message": "upstream overloaded", "code": 529}}
FIRST, REST = event(CHUNKS[0]) + event(CHUNKS[1]), events(CHUNKS[2:])
UNASKED = (("Content-Encoding", "gzip"),)
GZIPPED = gzip.compress(json.dumps(completion()).encode())

REFUSALS: tuple[Fault, ...] = (
    *_errors(429, "slow down"),
    *_errors(409, "busy"),
    *_errors(425, "too early"),
    *_errors(413, "too large for this model"),
    *_errors(400, "maximum context length is 10 tokens", code="context_length_exceeded"),
    *_errors(400, "content filter", code="content_filter"),
    *_errors(400, '"auto" tool choice requires --enable-auto-tool-choice'),
    *_errors(400, "temperature must be at least 0", right="client"),
    *_errors(401, "bad key"),
    *_errors(404, "no such model"),
    *_errors(500, "crashed"),
    *_errors(503, "loading"),
    *_errors(529, "overloaded"),
)
"""Heads that are not 2xx."""

WHOLE = _table(
    False,
    (
        ("well", good(False), "ok"),
        ("content in parts", whole(completion([{"type": "text", "text": "42"}])), "ok"),
        ("chunked", whole(completion(), framing="chunked"), "ok"),
        ("until close", whole(completion(), framing="close"), "ok"),
        ("json in pieces", Act((b'{"choices": [{"index": 0, "message": {"role": "assistant", ', 0.05,
                                b'"content": "42"}, "finish_reason": "stop"}]}')), "ok"),
        ("error in 200", whole(ERROR), "next"),
        ("error as text in 200", whole({"error": "overloaded"}), "next"),
        ("error object in 200", whole({"object": "error", "message": "no", "code": 500}), "next"),
        ("no choices", whole({"id": "x", "object": "chat.completion"}), "next"),
        ("empty choices", whole(completion(choices=[])), "next"),
        ("null", whole(b"null"), "next"),
        ("empty body", Act(()), "next"),
        ("html", whole(HTML, content_type="text/html"), "next"),
        ("not json", whole(b"{'choices': 1}"), "next"),
        ("cut", Act((json.dumps(completion()).encode()[:40],), framing="short"), "next"),
        ("reset in the body", Act((b'{"id": "x", ', 0.05, "reset"), framing="short"), "next"),
        ("reset at the head", Act((), framing="short", status=200, before=0.0, headers=()), "next"),
        ("silent", Act((), before=FOREVER), "next"),
        ("silent in the body", Act((b'{"id": ', "hold"), framing="short"), "next"),
        ("gzip unasked", whole(GZIPPED, headers=UNASKED), "next"),
        ("redirect", Act((), status=302, headers=(("Location", "http://127.0.0.1:1/"),)), "next"),
        ("stream instead of a whole answer", stream(events(), DONE), "ok"),
        ("numbers that are none", whole(completion() | {"p": [-math.inf, math.nan, math.inf]}), "ok"),
    ),
)  # fmt: skip

STREAMS = _table(
    True,
    (
        ("well", good(True), "ok"),
        ("crlf", stream(events(end="\r\n"), b"data: [DONE]\r\n\r\n"), "ok"),
        ("cr", stream(events(end="\r"), b"data: [DONE]\r\r"), "ok"),
        ("no space", stream(events(space=""), b"data:[DONE]\n\n"), "ok"),
        ("byte order mark", stream(b"\xef\xbb\xbf" + events(), DONE), "ok"),
        ("comments first", stream(b": PROCESSING\n\n", 0.05, b": PROCESSING\n\n", events(), DONE), "ok"),
        ("event names and ids", stream(
            b"".join(b"event: message\nid: 7\nretry: 10\n" + event(each) for each in CHUNKS), DONE), "ok"),
        ("one byte at a time", stream(*(bytes([each]) for each in events() + DONE)), "ok"),
        ("usage first", stream(events((USAGE, *CHUNKS[:4])), DONE), "ok"),
        ("usage in the last choice", stream(
            events((*CHUNKS[:3], {**CHUNKS[3], "usage": USAGE["usage"]})), DONE), "ok"),
        ("no usage", stream(events(CHUNKS[:4]), DONE), "ok"),
        ("no done, but an end", stream(events()), "ok"),
        ("open after done", stream(events(), DONE, "hold"), "ok"),
        ("more after done", stream(events(), DONE, event(CHUNKS[1])), "ok"),
        ("content in parts", stream(events((CHUNKS[0], chunk({"content": [{"type": "text", "text": "42"}]}),
                                            *CHUNKS[3:])), DONE), "ok"),
        ("plain body", whole(completion()), "ok"),
        ("plain body, numbers that are none", whole(completion() | {"p": -math.inf}), "ok"),
        ("numbers that are none", stream(events([{**each, "p": -math.inf} for each in CHUNKS]), DONE), "ok"),
        ("plain error", whole(ERROR), "next"),
        ("html", whole(HTML, content_type="text/html"), "next"),
        ("empty", stream(), "next"),
        ("comments only", stream(b": PROCESSING\n\n", b": PROCESSING\n\n"), "next"),
        ("done only", stream(DONE), "next"),
        ("error first", stream(event(ERROR)), "next"),
        ("error first, no space", stream(event(ERROR, space="")), "next"),
        ("error first, spaced", stream(b'data: { "error" : {"message": "no"}}\n\n'), "next"),
        ("error event first", stream(b"event: error\n" + event({"message": "no"})), "next"),
        ("error object first", stream(event({"object": "error", "message": "no", "code": 500})), "next"),
        ("error after comments", stream(b": PROCESSING\n\n", event(ERROR)), "next"),
        ("reset first", stream("reset"), "next"),
        ("silent", stream(before=FOREVER), "next"),
        ("silent after the head", stream("hold"), "next"),
        ("gzip unasked", stream(gzip.compress(events() + DONE), headers=UNASKED), "next"),
        ("error in mid-stream", stream(FIRST, 0.05, event(ERROR)), "broken"),
        ("error in mid-stream, no space", stream(FIRST, 0.05, event(ERROR, space=""), DONE), "broken"),
        ("error event in mid-stream", stream(
            FIRST, 0.05, b"event: error\n" + event({"message": "no"})), "broken"),
        ("no end", stream(FIRST), "broken"),
        ("reset", stream(FIRST, 0.05, "reset"), "broken"),
        ("silent in mid-stream", stream(FIRST, "hold"), "broken"),
        ("not json", stream(FIRST, 0.05, b"data: {nonsense\n\n", REST, DONE), "broken"),
        ("event cut at the end", stream(FIRST, event(CHUNKS[2])[:-9]), "broken"),
    ),
)  # fmt: skip

FAULTS: tuple[Fault, ...] = (*REFUSALS, *WHOLE, *STREAMS)
