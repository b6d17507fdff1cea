"""A mock upstream: an OpenAI-compatible server that answers at once with a fixed completion.

Built on asyncio's protocols alone, so that it is several times faster than anything measured in front of
it. Start it as ``python -m benchmarks.upstream PORT [DELAY_MS]``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import cast

import uvloop

_ANSWER = {
    "id": "chatcmpl-mock",
    "object": "chat.completion",
    "created": 1,
    "model": "mock",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Forty-two."}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16},
}
_MODELS = {"object": "list", "data": [{"id": "mock", "object": "model", "created": 1, "owned_by": "mock"}]}


def _response(body: bytes, content_type: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
        content_type,
        len(body),
        body,
    )


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    event = {
        "id": "chatcmpl-mock",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "mock",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(event).encode() + b"\n\n"


WHOLE = _response(json.dumps(_ANSWER).encode())
MODELS = _response(json.dumps(_MODELS).encode())
STREAM = _response(
    b"".join(
        [
            _chunk({"role": "assistant", "content": ""}),
            *(_chunk({"content": word}) for word in ("Forty", "-", "two", ".")),
            _chunk({}, "stop"),
            b"data: [DONE]\n\n",
        ]
    ),
    b"text/event-stream",
)


class MockUpstream(asyncio.Protocol):
    """One connection. Requests are taken one after another, each answered after ``delay_s``."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._take():
            pass

    def _take(self) -> bool:
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return False
        end = head_end + 4 + _content_length(self._received[:head_end])
        if len(self._received) < end:
            return False
        request, self._received = self._received[:end], self._received[end:]
        answer = _answer_to(request)
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, answer)
        else:
            self._transport.write(answer)
        return True


def _content_length(head: bytes) -> int:
    lower = head.lower()
    at = lower.find(b"content-length:")
    return int(lower[at + 15 : lower.find(b"\r\n", at) if b"\r\n" in lower[at:] else None]) if at >= 0 else 0


def _answer_to(request: bytes) -> bytes:
    if request.startswith(b"GET"):
        return MODELS
    return STREAM if b'"stream":true' in request.replace(b" ", b"") else WHOLE


async def serve(port: int, delay_s: float) -> None:
    """Until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: MockUpstream(delay_s), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main(arguments: Sequence[str]) -> None:
    port, *delay = arguments
    uvloop.run(serve(int(port), float(delay[0]) / 1000 if delay else 0.0))


if __name__ == "__main__":
    main(sys.argv[1:])
