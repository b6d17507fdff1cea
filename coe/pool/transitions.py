"""Brings experts in and puts them away on the engines, one task per order, and reports how each ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from coe.core.errors import CoeError, EngineError
from coe.core.types import Engine, ExpertId, ReadsAhead
from coe.scheduler.events import During, Failed, HostId, Prefetched, Ready, Slept

log = logging.getLogger(__name__)

Clock = Callable[[], float]
TransitionEnded = Ready | Slept | Prefetched | Failed
"""How an order to an engine ended."""
DONE: Mapping[During, str] = MappingProxyType({"load": "ready", "sleep": "asleep", "prefetch": "read"})
Order = Callable[[ExpertId, HostId], Awaitable[TransitionEnded]]


@dataclass(frozen=True)
class Loss:
    """Experts that were resident and that the engine no longer has."""

    experts: tuple[ExpertId, ...]
    reason: str


class Transitions:
    """Owns the engines. Every load answers Ready or Failed, every sleep Slept or Failed, every prefetch
    Prefetched or Failed, exactly once, through ``report`` and never within the call that ordered it."""

    def __init__(
        self,
        engines: Mapping[HostId, Engine],
        report: Callable[[TransitionEnded], None],
        clock: Clock = time.monotonic,
        load_timeout_s: float = 120.0,
    ) -> None:
        self.engines = dict(engines)
        self._report = report
        self._clock = clock
        self._load_timeout_s = load_timeout_s
        self._starts: dict[HostId, asyncio.Task[None]] = {}
        self.started: set[HostId] = set()
        """hosts whose last start has succeeded; the engine may have died since"""
        self._tasks: set[asyncio.Task[None]] = set()
        self.under_way: dict[During, dict[HostId, set[ExpertId]]] = {"load": {}, "sleep": {}, "prefetch": {}}
        """orders that have not ended, by host"""
        self._closed = False

    def add(self, host: HostId, engine: Engine) -> None:
        """Take over an engine and start it."""
        self.engines[host] = engine
        self.start(host)

    def start(self, host: HostId) -> asyncio.Task[None]:
        """Start the engine unless it runs or is being started. The task raises what the engine raises."""
        task, engine = self._starts.get(host), self.engines[host]
        # A start may fail and leave a process that runs, with weights that may be corrupt.
        if task is None or _failed(task) or (task.done() and engine.stats().state in ("failed", "stopped")):
            task = asyncio.create_task(engine.start(), name=f"start {host}")
            task.add_done_callback(lambda done: self._start_ended(host, done))
            self._starts[host] = task
            self.started.discard(host)
        return task

    def load(self, expert: ExpertId, host: HostId) -> None:
        self._order("load", expert, host, self._load)

    def sleep(self, expert: ExpertId, host: HostId, level: int) -> None:
        self._order("sleep", expert, host, partial(self._sleep, level))

    def prefetch(self, expert: ExpertId, host: HostId) -> None:
        self._order("prefetch", expert, host, self._prefetch)

    def release(self, expert: ExpertId, host: HostId) -> None:
        engine = self.engines[host]
        if isinstance(engine, ReadsAhead):
            engine.release(expert)

    def retire(self, host: HostId) -> None:
        """Stop an engine that is not needed any more, in the background."""
        self.started.discard(host)
        start = self._starts.pop(host, None)
        # Before the stop, after which a start under way would bring the engine up again.
        if start:
            start.cancel()
        self._spawn(self._stop(host, self.engines.pop(host)))

    def lost(self, host: HostId, residents: tuple[ExpertId, ...]) -> Loss | None:
        """Which of ``residents`` the engine has lost, if any."""
        stats = self.engines[host].stats()
        alive = stats.awake if stats.state == "ready" else ()
        gone = tuple(expert for expert in residents if expert not in alive)
        return Loss(gone, stats.last_error or f"host {host} is {stats.state}") if gone else None

    async def stop(self) -> None:
        """Give up what is under way, stop all engines and take no further orders. Errors are logged."""
        # First: nothing is ordered any more of engines that are being stopped.
        self._closed = True
        tasks = [*self._tasks, *self._starts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(self._stop(host, engine) for host, engine in self.engines.items()))
        self._starts.clear()

    def _start_ended(self, host: HostId, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.warning("host %s did not start: %s", host, error)
            return
        log.info("host %s is up", host)
        if self._starts.get(host) is task:
            self.started.add(host)

    def _order(self, during: During, expert: ExpertId, host: HostId, order: Order) -> None:
        self.under_way[during].setdefault(host, set()).add(expert)
        self._spawn(self._carry_out(during, expert, host, order))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        if self._closed:  # A lease that outlived the drain came back: there is nothing left to move.
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, during: During, expert: ExpertId, host: HostId, order: Order) -> None:
        event: TransitionEnded
        try:
            event = await order(expert, host)
        except TimeoutError:
            event = Failed(expert, host, f"not {DONE[during]} within {self._load_timeout_s:g} s", during)
        except Exception as error:
            event = Failed(expert, host, _reason(error), during)
        if isinstance(event, Failed):
            log.warning("%s of %s on %s failed: %s", during, expert, host, event.reason)
        self.under_way[during][host].discard(expert)
        self._report(event)

    async def _load(self, expert: ExpertId, host: HostId) -> Ready:
        # The engine's start has limits of its own, and says nothing about how long a load takes.
        await asyncio.shield(self.start(host))
        began = self._clock()
        async with asyncio.timeout(self._load_timeout_s):
            await self.engines[host].ensure_ready(expert)
        took_s = self._clock() - began
        log.info("%s is ready on %s after %.2f s", expert, host, took_s)
        return Ready(expert, host, took_s)

    async def _sleep(self, level: int, expert: ExpertId, host: HostId) -> Slept:
        async with asyncio.timeout(self._load_timeout_s):
            await self.engines[host].sleep(expert, level)
        return Slept(expert, host)

    async def _prefetch(self, expert: ExpertId, host: HostId) -> Prefetched:
        engine = self.engines[host]
        if not isinstance(engine, ReadsAhead):
            raise EngineError(f"{host} cannot read ahead")
        async with asyncio.timeout(self._load_timeout_s):
            await engine.prefetch(expert)
        return Prefetched(expert, host)

    async def _stop(self, host: HostId, engine: Engine) -> None:
        try:
            await engine.stop()
        except Exception:
            log.exception("host %s did not stop properly", host)


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _reason(error: Exception) -> str:
    """For the log and the client: an engine's own words, else also what kind of error it was."""
    return error.message if isinstance(error, CoeError) else f"{type(error).__name__}: {error}"
