"""The asyncio shell around the scheduler: the one owner of the engines' states.

Callers take leases; the scheduler's actions become tasks on the engines, whose ends come back as events.
Everything runs on one event loop, so there are no locks, and nothing is polled.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from coe.core.errors import CoeError, EngineError, ExpertTimeout, ExpertUnavailable, Overloaded
from coe.core.types import DeadlineClass, Engine, ExpertId, ExpertSpec, RequestId, WakeFrom
from coe.pool.transitions import Clock, TransitionEnded, Transitions
from coe.pool.watch import Waiting, Watch, WatchLimits
from coe.scheduler.estimates import WorkDone
from coe.scheduler.events import (
    Action,
    Arrived,
    Cancelled,
    Event,
    Evict,
    Expected,
    Failed,
    Finished,
    Grant,
    HostId,
    Load,
    Prefetch,
    Reject,
    Release,
    Sleep,
    Tick,
    Wake,
)
from coe.scheduler.plan import PoolPlan
from coe.scheduler.scheduler import Scheduler
from coe.scheduler.snapshot import PoolSnapshot

log = logging.getLogger(__name__)

DISCARD = 2
"""vLLM's sleep level that keeps nothing."""


@dataclass(frozen=True)
class Lease:
    """The right to ask ``expert`` on ``engine`` while the context lasts.

    ``expert`` is ``asked_for`` or one of the alternatives that were named with it.
    ``queue_ms`` is all the waiting; ``swap_ms`` the part of it in which the expert was being loaded.
    """

    request: RequestId
    expert: ExpertId
    asked_for: ExpertId
    host: HostId
    engine: Engine
    queue_ms: float
    swap_ms: float
    wake_from: WakeFrom


class Pool:
    """Grants leases on experts and moves experts in and out of memory.

    Use from one event loop: ``await start()``, any number of ``lease(...)``, ``await stop()``. It owns the
    scheduler and the engines: nobody else may load experts there or put them to sleep.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        engines: Mapping[HostId, Engine],
        clock: Clock = time.monotonic,
        load_timeout_s: float = 120.0,
        limits: WatchLimits | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._transitions = Transitions(engines, self._transition_ended, clock, load_timeout_s)
        self._clock = clock
        self._numbers = itertools.count()
        self._waiting: dict[RequestId, Waiting] = {}
        self._expected: dict[tuple[RequestId, ExpertId], RequestId] = {}
        self._leases: dict[RequestId, tuple[Grant, float]] = {}
        """those that are out, with when they were granted"""
        self.watch = Watch(
            scheduler,
            self._waiting,
            self._leases,
            self._transitions.under_way,
            clock,
            limits or WatchLimits(),
        )
        self._timer: asyncio.TimerHandle | None = None
        self._all_back = asyncio.Event()
        self._all_back.set()
        self._open = False

    async def start(self) -> None:
        """Start the engines in the background; experts are loaded when they are asked for. Idempotent."""
        self._open = True
        for host in self._transitions.engines:
            self._transitions.start(host)

    def refuse(self) -> None:
        """Refuse those who wait, and who asks from now on; :meth:`stop` follows. Idempotent."""
        self._open = False
        for waiting in self._waiting.values():
            if not waiting.grant.done():
                waiting.grant.set_exception(stopping())

    async def stop(self, drain_s: float = 30.0) -> None:
        """Refuse those who wait, let leases end for up to ``drain_s`` seconds, stop the engines."""
        self.refuse()
        self.watch.stop()
        try:
            async with asyncio.timeout(drain_s):
                await self._all_back.wait()
        except TimeoutError:
            log.warning("stopping with %d leases still out after %g s", len(self._leases), drain_s)
        await self._transitions.stop()
        if self._timer:
            self._timer.cancel()

    @asynccontextmanager
    async def lease(
        self,
        request_id: RequestId,
        expert: ExpertId,
        deadline_class: DeadlineClass = "standard",
        timeout_s: float = math.inf,
        *,
        group: RequestId | None = None,
        alternatives: Sequence[ExpertId] = (),
    ) -> AsyncIterator[Lease]:
        """Wait until ``expert`` is ready and has room, and hold that room until the block is left.

        ``group``: the client's request that this is one leg of; the experts of its legs do not displace
        each other. ``alternatives``: experts that may serve it instead if that is sooner; ``Lease.expert``
        says which one does. A lease that was announced with :meth:`expect` takes the room that was announced.

        Raises Overloaded (queue full), ExpertUnavailable (cannot be loaded, not in the pool, shutting
        down) or ExpertTimeout (not granted within ``timeout_s``). Overloaded also where the wait will likely
        be longer than ``timeout_s``.
        """
        ticket = self._expected.pop((request_id, expert), None) or self._ticket(request_id)
        arrived = Arrived(ticket, expert, deadline_class, group, tuple(alternatives), timeout_s)
        grant = await self._granted(ticket, arrived, timeout_s)
        engine = self._transitions.engines[grant.host]
        ok = True
        try:
            yield Lease(
                request=request_id,
                expert=grant.expert,
                asked_for=expert,
                host=grant.host,
                engine=engine,
                queue_ms=grant.queued_s * 1000,
                swap_ms=grant.swap_s * 1000,
                wake_from=grant.wake_from,
            )
        except EngineError:
            ok = False
            raise
        finally:
            # A crash is reported before the lease ends: else the next request is granted what is gone.
            if grant.expert in self._scheduler.residents(grant.host):
                self._report_lost(grant.host)
            self._end(Finished(ticket, ok))

    @contextmanager
    def expect(
        self, request_id: RequestId, expert: ExpertId, group: RequestId | None = None
    ) -> Iterator[None]:
        """Announce a lease on ``expert`` that ``request_id`` will take later, inside the block.

        A hint, which costs and promises nothing: the expert may be brought in meanwhile. It is withdrawn
        when the block is left without the lease.
        """
        lease, ticket = (request_id, expert), self._ticket(request_id)
        self._expected[lease] = ticket
        if self._open:
            self._dispatch(Expected(ticket, expert, group))
        try:
            yield
        finally:
            if self._expected.get(lease) == ticket:
                del self._expected[lease]
                self._dispatch(Cancelled(ticket))

    def forecast(self, expert: ExpertId) -> float:
        """Seconds that a request arriving now would wait; ``inf`` if it would be refused."""
        return self._scheduler.forecast(expert, self._clock())

    def revive(self, host: HostId) -> None:
        """Start the engine of ``host`` again where it has died, though nobody asks for its experts."""
        if self._open and self._transitions.engines[host].stats().state == "failed":
            self._report_lost(host)
            self._transitions.start(host)

    def snapshot(self) -> PoolSnapshot:
        return self._scheduler.snapshot()

    def work_done(self) -> WorkDone:
        """Since the pool was made, for each expert."""
        return self._scheduler.work_done(self._clock())

    @property
    def engines(self) -> Mapping[HostId, Engine]:
        """The engines in use, those included that leave as soon as their last expert has. To look at only."""
        return MappingProxyType(self._transitions.engines)

    async def reconfigure(
        self,
        plan: PoolPlan,
        engines: Mapping[HostId, Engine],
        adopted: Mapping[HostId, Sequence[ExpertSpec]] | None = None,
    ) -> None:
        """Change to ``plan``. ``engines`` are those of hosts that are new in it, ``adopted`` what the
        engines of the other hosts are to have from now on.

        Removed experts finish their work first; engines of removed hosts are stopped after that. Nothing
        else runs between the change and the return. One call at a time. Raises ConfigError, with nothing
        changed, when a host changed its kind, ValueError when an engine is missing.
        """
        # First what may refuse, then the engines, then the scheduler: a refused plan changes nothing, and an
        # engine knows an expert before it is told to load it.
        self._scheduler.check(plan)
        for host, experts in (adopted or {}).items():
            if host in self._transitions.engines:
                await self._transitions.engines[host].set_experts(experts)
        missing = {h.id for h in plan.hosts} - set(self._transitions.engines) - set(engines)
        if missing:
            raise ValueError(f"no engine for the new hosts {sorted(missing)}")
        actions = self._scheduler.reconfigure(plan, self._clock())
        for host, engine in engines.items():
            if host not in self._transitions.engines:
                self._transitions.add(host, engine)
        self._carry_out(actions)

    def _ticket(self, request_id: RequestId) -> RequestId:
        """A name inside the pool: a request may hold several leases."""
        return f"{request_id}#{next(self._numbers)}"

    async def _granted(self, ticket: RequestId, arrived: Arrived, timeout_s: float) -> Grant:
        if not self._open:
            raise stopping()
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        # Before the dispatch, within which the grant may come.
        self._waiting[ticket] = Waiting(arrived.expert, future)
        try:
            self._dispatch(arrived)
            if future.done() and self._is_up(future.result().host):
                return future.result()  # as most: nothing to wait for, so no timer is set
            self.watch.arm()
            async with asyncio.timeout(timeout_s if math.isfinite(timeout_s) else None):
                grant = await future
                await self._up(grant)
            return grant
        except TimeoutError:
            self._end(Cancelled(ticket))
            raise ExpertTimeout(
                f"the expert {arrived.expert!r} was not free within {timeout_s:g} s",
                hint="Ask again later, or allow a longer wait with coe.patience_s.",
            ) from None
        except BaseException:
            self._end(Cancelled(ticket))
            raise
        finally:
            del self._waiting[ticket]

    def _is_up(self, host: HostId) -> bool:
        """Whether its engine can be asked now; where it has died it is started again."""
        if host in self._transitions.started and self._transitions.engines[host].stats().state == "ready":
            return True
        start = self._transitions.start(host)
        return start.done() and not start.cancelled() and not start.exception()

    async def _up(self, grant: Grant) -> None:
        """Wait for the host of an expert that is always awake: nothing else has waited for its start."""
        if self._is_up(grant.host):
            return
        try:
            await asyncio.shield(self._transitions.start(grant.host))
        except CoeError as error:
            raise ExpertUnavailable(
                f"the expert {grant.expert!r} cannot start: {error.message}", hint=error.hint
            ) from error

    def _end(self, event: Finished | Cancelled) -> None:
        """A request leaves the pool, with or without a lease."""
        self._leases.pop(event.request, None)
        if not self._leases:
            self._all_back.set()
        self._dispatch(event)

    def _transition_ended(self, event: TransitionEnded) -> None:
        """Where a load or sleep took the process down, others that were awake there are gone."""
        self._dispatch(event)
        if event.host in self._transitions.engines:
            self._report_lost(event.host)

    def _report_lost(self, host: HostId) -> None:
        """Experts that are awake for the scheduler and that the engine does not have were lost in a crash."""
        loss = self._transitions.lost(host, self._scheduler.residents(host))
        if loss is None:
            return
        for expert in loss.experts:
            log.warning("%s on %s was lost: %s", expert, host, loss.reason)
            self._dispatch(Failed(expert, host, loss.reason, "run"))

    def _dispatch(self, event: Event) -> None:
        self._carry_out(self._scheduler.step(event, self._clock()))

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            self._act(action)
        for host in [h for h in self._transitions.engines if h not in self._scheduler.hosts()]:
            self._transitions.retire(host)
        self._set_timer()

    def _set_timer(self) -> None:
        """Come back when the scheduler has something to do though nothing happens."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        moment = self._scheduler.next_tick()
        if math.isfinite(moment):
            delay = max(0.0, moment - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._dispatch, Tick())

    def _act(self, action: Action) -> None:
        match action:
            case Grant():
                self._resolve(action)
            case Reject():
                self._refuse(action)
            case Load() | Wake():
                log.info("%s %s on %s", type(action).__name__.lower(), action.expert, action.host)
                self._transitions.load(action.expert, action.host)
            case Sleep():
                log.info("sleep %s on %s", action.expert, action.host)
                self._transitions.sleep(action.expert, action.host, action.level)
            case Evict():
                log.info("evict %s on %s", action.expert, action.host)
                self._transitions.sleep(action.expert, action.host, DISCARD)
            case Prefetch():
                self._transitions.prefetch(action.expert, action.host)
            case Release():
                self._transitions.release(action.expert, action.host)

    def _resolve(self, grant: Grant) -> None:
        """Wake the caller. One that is being cancelled sends Cancelled itself, which ends the lease."""
        waiting = self._waiting.get(grant.request)
        if waiting is None:
            return
        # Counted before its host is waited for: stop() lets it end.
        self._leases[grant.request] = grant, self._clock()
        self._all_back.clear()
        if not waiting.grant.done():
            waiting.grant.set_result(grant)

    def _refuse(self, reject: Reject) -> None:
        log.warning("refused %s: %s", reject.request, reject.message)
        waiting = self._waiting.get(reject.request)
        if waiting and not waiting.grant.done():
            waiting.grant.set_exception(_refusal(reject))


def _refusal(reject: Reject) -> CoeError:
    if reject.code == "queue_full":
        return Overloaded(reject.message, hint="Send fewer requests at once, or try again in a moment.")
    if reject.code == "wait_not_promised":
        return Overloaded(
            reject.message,
            code=reject.code,
            retry_after_s=reject.retry_after_s,
            hint="Ask again later, or with a coe.deadline_class that may wait longer.",
        )
    return ExpertUnavailable(
        reject.message, hint="Look at the service's log, or ask another expert with `model`."
    )


def stopping() -> CoeError:
    """What those are told who wait when the service ends."""
    return ExpertUnavailable(
        "the service is shutting down",
        code="stopping",
        hint="Send the request again when the service is back.",
        retry_after_s=5.0,
    )
