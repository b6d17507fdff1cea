"""What one request runs through: the files, functions and lines of ours between a client and an engine.

The service is the real one behind its real HTTP server, with a remote engine that answers at once. The first
request of a pinned expert warms it (connections, late imports); the second one, streamed, is traced.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import httpx

from benchmarks.upstream import MockUpstream
from coe.registry.schema import Registry
from coe.service.http_server import bind, http_server
from coe.service.service import build_service

ROOT = Path(__file__).resolve().parents[1]
EXPERT = "sums"
START_S = 60.0
SETTLE_S = 0.3


@dataclass
class Tracer:
    """Counts what runs of our files while it is :attr:`active`, in every thread that starts while it is
    installed."""

    lines: dict[Path, set[int]] = field(default_factory=dict)
    functions: set[CodeType] = field(default_factory=set)
    active: bool = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        before = sys.gettrace()
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)
            threading.settrace(before)

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        """Called when a function starts, and when a coroutine goes on."""
        if not self.active or (file := _ours(frame.f_code.co_filename)) is None:
            return None
        self.functions.add(frame.f_code)
        lines = self.lines.setdefault(file, set())

        def step(frame: FrameType, event: str, _argument: Any) -> Any:
            if event == "line":
                lines.add(frame.f_lineno)
            return step

        lines.add(frame.f_lineno)
        return step


@cache
def _ours(name: str) -> Path | None:
    """The file's place in the repository, with links followed; None for one that is not the product's."""
    path = Path(name).resolve()
    parts = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else ()
    return Path(*parts) if parts[:1] in (("coe",), ("routers",)) else None


@dataclass(frozen=True)
class RequestPath:
    """Lines that ran, by file in the order of their first use; ``functions``: how many different ones."""

    lines: Mapping[Path, int]
    functions: int

    @property
    def total(self) -> int:
        return sum(self.lines.values())


def measure() -> RequestPath:
    """One warm pinned streamed request. Seconds."""
    tracer = Tracer()
    with tracer.installed(), tempfile.TemporaryDirectory() as folder:
        asyncio.run(_ask(tracer, Path(folder)))
    counted = {file: len(lines) for file, lines in tracer.lines.items()}
    return RequestPath(counted, len(tracer.functions))


async def _ask(tracer: Tracer, folder: Path) -> None:
    body = {"model": EXPERT, "stream": True, "messages": [{"role": "user", "content": "What is 2+2?"}]}
    async with _service(folder) as url, httpx.AsyncClient(base_url=url, timeout=START_S) as client:
        await _stream(client, body)  # waits for the engine's start
        await asyncio.sleep(SETTLE_S)  # what the first request left behind is not the second one's
        tracer.active = True
        try:
            await _stream(client, body)
        finally:
            tracer.active = False


async def _stream(client: httpx.AsyncClient, body: Mapping[str, Any]) -> None:
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        text = "".join([chunk async for chunk in answer.aiter_text()])
    if answer.status_code != 200 or "Forty" not in text or "[DONE]" not in text:
        raise RuntimeError(f"the request was not answered: {answer.status_code} {text}")


@contextlib.asynccontextmanager
async def _service(folder: Path) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    upstream = await loop.create_server(lambda: MockUpstream(0.0), "127.0.0.1", 0)
    engine_port = upstream.sockets[0].getsockname()[1]
    registry = _registry(f"http://127.0.0.1:{engine_port}")
    service = build_service(registry, folder)
    with contextlib.closing(bind(registry.service)) as listener:
        server = http_server(service.app, drain_s=5)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await service.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            await service.stop(drain_s=5)
            server.should_exit = True
            await serving
            await service.close()
            upstream.close()


def _registry(engine: str) -> Registry:
    return Registry.model_validate(
        {
            "service": {"port": 0},
            "pool": {"hosts": [{"id": "up", "kind": "remote", "url": engine}]},
            "experts": [{"id": EXPERT, "host": "up", "model": "mock", "card": "Sums.", "general": True}],
        }
    )
