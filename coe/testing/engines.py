"""A scripted engine for unit tests of pure logic. It keeps the Engine contract and complains when its
caller does not; it proves nothing about real engines."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from coe.core.errors import EngineError
from coe.core.types import EngineAnswer, EngineCall, EngineStats, ExpertId, ExpertSpec
from coe.engines.text import text_body

Method = Literal["start", "ensure_ready", "sleep", "set_experts", "ask", "stop"]


@dataclass(frozen=True)
class Call:
    """One call of a method of the engine, in the order of their beginnings."""

    method: Method
    expert: ExpertId | None = None
    level: int | None = None


@dataclass
class Script:
    """What the engine does. Latencies in seconds.

    ``failures`` of a method are used up one per call: a message raises EngineError, None succeeds. So are
    ``deaths``, by which the engine also loses everything, as a process that is killed does.
    A method whose ``gates`` event is not set waits for it.
    """

    text: str = "The answer of {expert}."
    start_s: float = 0.0
    load_s: float = 0.0
    sleep_s: float = 0.0
    first_byte_s: float = 0.0
    chunk_s: float = 0.0
    failures: dict[Method, deque[str | None]] = field(default_factory=dict)
    deaths: dict[Method, deque[str]] = field(default_factory=dict)
    gates: dict[Method, asyncio.Event] = field(default_factory=dict)

    def die(self, method: Method, *messages: str) -> None:
        self.deaths.setdefault(method, deque()).extend(messages)

    def fail(self, method: Method, *messages: str | None) -> None:
        self.failures.setdefault(method, deque()).extend(messages)

    def hold(self, method: Method) -> asyncio.Event:
        """Make calls of ``method`` wait until the returned event is set."""
        return self.gates.setdefault(method, asyncio.Event())


class FakeEngine:
    """Holds at most ``capacity`` experts. Where its caller breaks the contract (more experts than fit,
    asking for one that is not ready, putting one to sleep that is answering) it raises AssertionError and
    notes it in ``violations``, for callers that survive any error of an engine."""

    def __init__(self, id: str = "fake", script: Script | None = None, capacity: int | None = 1) -> None:
        self.id = id
        self.script = script or Script()
        self.calls: list[Call] = []
        self.violations: list[str] = []
        self.answering: Counter[ExpertId] = Counter()
        self.adopted: tuple[ExpertId, ...] = ()
        self._capacity = capacity
        self._awake: list[ExpertId] = []
        self._state: Literal["stopped", "starting", "ready", "failed"] = "stopped"
        self._swaps = 0
        self._last_error: str | None = None

    async def start(self) -> None:
        self._state = "starting"
        try:
            await self._play("start", self.script.start_s)
        except EngineError:
            self._state = "failed"
            raise
        self._state = "ready"

    async def ensure_ready(self, expert: ExpertId) -> None:
        await self._play("ensure_ready", self.script.load_s, expert)
        if expert in self._awake:
            return
        if self._capacity is not None and len(self._awake) >= self._capacity:
            raise self._violation(f"{self.id} is full ({self._awake}) and was told to load {expert}")
        self._awake.append(expert)
        self._swaps += 1

    async def sleep(self, expert: ExpertId, level: int = 1) -> None:
        if self.answering[expert]:
            raise self._violation(f"{self.id} was told to put {expert} to sleep while it answers")
        await self._play("sleep", self.script.sleep_s, expert, level)
        if expert in self._awake:
            self._awake.remove(expert)

    async def ask(self, expert: ExpertId, call: EngineCall) -> EngineAnswer:
        await self._play("ask", self.script.first_byte_s, expert)
        if expert not in self._awake:
            raise self._violation(f"{self.id} was asked for {expert}, which is not ready")
        body = text_body(expert, call, self.script.text.format(expert=expert))
        self.answering[expert] += 1
        return FakeAnswer(self, expert, body, self.script.chunk_s)

    async def set_experts(self, experts: Sequence[ExpertSpec]) -> None:
        """Notes the experts. Those it was not told of are known to it all the same."""
        await self._play("set_experts", 0.0)
        self.adopted = tuple(expert.id for expert in experts)

    async def stop(self) -> None:
        await self._play("stop", 0.0)
        self._awake.clear()
        self._state = "stopped"

    def crash(self, reason: str = "killed") -> None:
        """Lose everything that is resident, as a process that dies does."""
        self._awake.clear()
        self._state, self._last_error = "failed", reason

    def wake_at_start(self, *experts: ExpertId) -> None:
        """For an engine that loads nothing, such as a remote API."""
        self._awake.extend(experts)

    def stats(self) -> EngineStats:
        return EngineStats(self._state, tuple(self._awake), self._swaps, self._last_error)

    def called(self, method: Method) -> list[ExpertId | None]:
        """Experts of all calls of ``method`` so far."""
        return [call.expert for call in self.calls if call.method == method]

    def _violation(self, message: str) -> AssertionError:
        self.violations.append(message)
        return AssertionError(message)

    async def _play(
        self, method: Method, seconds: float, expert: ExpertId | None = None, level: int | None = None
    ) -> None:
        self.calls.append(Call(method, expert, level))
        if gate := self.script.gates.get(method):
            await gate.wait()
        if seconds:
            await asyncio.sleep(seconds)
        if deaths := self.script.deaths.get(method):
            self.crash(deaths.popleft())
            raise EngineError(str(self._last_error), hint="this death is scripted")
        scripted = self.script.failures.get(method)
        message = scripted.popleft() if scripted else None
        if message is not None:
            self._last_error = message
            raise EngineError(message, hint="this failure is scripted")


class FakeAnswer:
    """The chunks of one answer; ``aborted`` when it was closed before its end."""

    status = 200

    def __init__(self, engine: FakeEngine, expert: ExpertId, body: Sequence[bytes], chunk_s: float) -> None:
        self.aborted = False
        self._engine, self._expert, self._body, self._chunk_s = engine, expert, body, chunk_s
        self._open = True

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._body:
            if not self._open:
                return
            if self._chunk_s:
                await asyncio.sleep(self._chunk_s)
            yield chunk
        self._close()

    async def aclose(self) -> None:
        self.aborted = self.aborted or self._open
        self._close()

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._engine.answering[self._expert] -= 1
