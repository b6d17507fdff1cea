"""Fakes of the pipeline's three neighbours, router, pool and engine, for one expert a request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from coe.aggregators import Setting, build_aggregators
from coe.core.errors import (
    CoeError,
    ExpertUnavailable,
)
from coe.core.types import (
    Decision,
    Engine,
    EngineCall,
    EngineStats,
    ExpertSpec,
    ExpertView,
    Options,
    Ranked,
    Request,
    WakeFrom,
)
from coe.pipeline import Pipeline
from coe.pipeline.generation import Generation, Generations
from coe.registry.schema import Registry

EXPERTS = ("sums", "words", "base")


class Ranking:
    """A router that always ranks in the order given."""

    name = "ranking"

    def __init__(self, *order: str, blocking: bool = False) -> None:
        self.order = order or EXPERTS
        self.blocking = blocking
        self.thread: int | None = None

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        self.thread = threading.get_ident()
        share = 1 / len(self.order)
        ranking = tuple(
            Ranked(name, share * (2 if place == 0 else 1)) for place, name in enumerate(self.order)
        )
        return Decision(self.name, ranking, self.order[:1], 0.8, f"{text!r} looks like {self.order[0]}")


class Confused:
    name = "confused"

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        raise KeyError(text)


@dataclass
class FakeAnswer:
    script: list[bytes | BaseException]
    status: int = 200
    closed: bool = False

    async def chunks(self) -> AsyncIterator[bytes]:
        for step in self.script:
            await asyncio.sleep(0)
            if isinstance(step, BaseException):
                raise step
            yield step

    async def aclose(self) -> None:
        self.closed = True


class AlwaysReady:
    """What an engine that is never loaded or stopped does about its experts: nothing."""

    async def start(self) -> None: ...
    async def ensure_ready(self, expert: str) -> None: ...
    async def sleep(self, expert: str, level: int = 1) -> None: ...
    async def set_experts(self, experts: Sequence[ExpertSpec]) -> None: ...
    async def stop(self) -> None: ...
    def stats(self) -> EngineStats:
        return EngineStats("ready")


@dataclass
class FakeEngine(AlwaysReady):
    """Answers by script; ``asked`` has the calls."""

    id: str = "engine"
    scripts: dict[str, list[bytes | BaseException]] = field(default_factory=dict)
    refusals: dict[str, CoeError] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    answers: list[FakeAnswer] = field(default_factory=list)
    hang: bool = False

    async def ask(self, expert: str, call: EngineCall) -> FakeAnswer:
        self.asked.append(expert)
        if self.hang:
            await asyncio.Event().wait()
        if expert in self.refusals:
            raise self.refusals[expert]
        body = b'{"choices":[{"index":0}],"usage":{"completion_tokens":3}}'
        usual: list[bytes | BaseException] = [body]
        if call.stream:
            usual = [b"data: " + body + b"\n\n", b"data: [DONE]\n\n"]
        answer = FakeAnswer(self.scripts.get(expert, usual))
        self.answers.append(answer)
        return answer


@dataclass(frozen=True)
class FakeLease:
    engine: Engine
    expert: str
    asked_for: str
    queue_ms: float = 12.0
    swap_ms: float = 700.0
    wake_from: WakeFrom = "cold"


@dataclass
class FakePool:
    """Grants at once, or never (``full``). ``out`` has the experts with leases out."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    unavailable: set[str] = field(default_factory=set)
    awake: set[str] = field(default_factory=set)
    full: bool = False
    out: list[str] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)

    @asynccontextmanager
    async def lease(
        self,
        request_id: str,
        expert: str,
        deadline_class: str,
        timeout_s: float,
        *,
        group: str | None = None,
        alternatives: Sequence[str] = (),
    ) -> AsyncIterator[FakeLease]:
        self.timeouts.append(timeout_s)
        asked_for, expert = expert, next((e for e in alternatives if e in self.awake), expert)
        if expert in self.unavailable:
            raise ExpertUnavailable(f"{expert} cannot be loaded")
        if self.full:
            await asyncio.Event().wait()
        self.out.append(expert)
        try:
            yield FakeLease(self.engine, expert, asked_for)
        finally:
            self.out.remove(expert)

    @contextmanager
    def expect(self, request_id: str, expert: str, group: str | None = None) -> Iterator[None]:
        yield

    def forecast(self, expert: str) -> float:
        return {"sums": 0.0}.get(expert, 1.5)


def registry() -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [{"id": name, "host": "slot", "model": name} for name in EXPERTS],
            "routers": {"default": "ranking"},
            "limits": {"request_timeout_s": 60},
        }
    )


def generation(number: int = 1, **routers: Any) -> Generation:
    spec = registry()
    return Generation(
        number=number,
        registry=spec,
        experts=tuple(expert.view() for expert in spec.experts),
        routers={"ranking": Ranking(), "confused": Confused(), **routers},
        aggregators=build_aggregators(spec, Setting()),
        created=0,
    )


def request(model: str = "coe", stream: bool = False, **options: Any) -> Request:
    body = {"model": model, "messages": [{"role": "user", "content": "2+2?"}], "stream": stream}
    return Request("req-1", "chat/completions", model, body, "2+2?", Options(**options))


def pipeline(pool: FakePool, current: Generation | None = None) -> Pipeline:
    return Pipeline(Generations(current or generation()), pool)


async def read(pool: FakePool, asked: Request) -> tuple[bytes, Any]:
    answer = await pipeline(pool).answer(asked)
    raw = b"".join([chunk async for chunk in answer.chunks()])
    await answer.aclose()
    return raw, answer.receipt()
