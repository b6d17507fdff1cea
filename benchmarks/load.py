"""A load generator that costs little: one keep-alive connection per client, closed loop, no HTTP library.

Start it as ``python -m benchmarks.load URL MODEL CLIENTS SECONDS``; it prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

WARM_UP_S = 1.0


@dataclass(frozen=True)
class Measured:
    """Latencies in milliseconds, of the requests that ended after the warm-up."""

    clients: int
    requests: int
    errors: int
    per_second: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Target:
    """What is asked, again and again."""

    url: str
    model: str
    key: str | None = None
    stream: bool = False

    def request(self) -> bytes:
        parts = urlsplit(self.url)
        body = json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": "What is six times seven? " * 8}],
                "max_tokens": 16,
                **({"stream": True} if self.stream else {}),
            }
        ).encode()
        key = f"authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST {parts.path.rstrip('/')}/v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\n{key}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Client(asyncio.Protocol):
    """Asks, waits for the whole answer, asks again until ``until`` (event loop time)."""

    def __init__(self, request: bytes, until: float) -> None:
        self.latencies: list[float] = []
        self.errors = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request, self._until = request, until
        self._warm = time.perf_counter() + WARM_UP_S
        self._received = b""
        self._asked = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not _complete(self._received):
            return
        now = time.perf_counter()
        if now >= self._warm:
            self.latencies.append(now - self._asked)
            self.errors += not self._received.startswith(b"HTTP/1.1 200")
        self._received = b""
        if now < self._until:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.errors += exc is not None or time.perf_counter() < self._until
        if not self.done.done():
            self.done.set_result(None)

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        self._transport.write(self._request)


def _complete(received: bytes) -> bool:
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    head = received[:head_end].lower()
    at = head.find(b"content-length:")
    if at >= 0:
        return len(received) >= head_end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
    return received.endswith(b"0\r\n\r\n")


async def measure(target: Target, clients: int, seconds: float) -> Measured:
    """A closed loop of ``clients`` for ``seconds`` after the warm-up."""
    loop, parts = asyncio.get_running_loop(), urlsplit(target.url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    until, request = time.perf_counter() + WARM_UP_S + seconds, target.request()
    opened = [
        (await loop.create_connection(lambda: Client(request, until), host, port))[1] for _ in range(clients)
    ]
    await asyncio.gather(*(client.done for client in opened))
    latencies = np.array([each for client in opened for each in client.latencies] or [np.nan]) * 1000
    return Measured(
        clients=clients,
        requests=len(latencies),
        errors=sum(client.errors for client in opened),
        per_second=round(len(latencies) / seconds, 1),
        p50_ms=round(float(np.median(latencies)), 3),
        p99_ms=round(float(np.percentile(latencies, 99)), 3),
    )


def main(arguments: Sequence[str]) -> None:
    url, model, clients, seconds, *key = arguments
    target = Target(url, model, key[0] if key else None)
    print(json.dumps(asdict(uvloop.run(measure(target, int(clients), float(seconds))))))


if __name__ == "__main__":
    main(sys.argv[1:])
