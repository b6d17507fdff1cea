"""The pool owner: the one process on a node that knows what is in memory, and hands out leases.

It wraps the same :class:`coe.pool.pool.Pool` that `coe serve` uses. What is new is that its callers are
other processes, which can vanish: a gateway that sends no heartbeat for :data:`SILENCE_S` loses its leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from cachetools import FIFOCache

from coe.cluster.journal import Journal
from coe.cluster.messages import (
    Granted,
    LeaseRequest,
    OwnerId,
    OwnerLost,
    OwnerReport,
    Refused,
    SessionId,
    TicketId,
)
from coe.cluster.proxies import Proxies
from coe.core.errors import CoeError, EngineError
from coe.core.files import off_the_loop
from coe.core.types import ExpertId
from coe.engines.address import Address, Addressable
from coe.pool.pool import Lease, Pool
from coe.pool.revival import Revivals

log = logging.getLogger(__name__)

SILENCE_S = 15.0
"""A gateway that sends no heartbeat for so long is gone, and its leases are given back."""
UPKEEP_S = 1.0
_REMEMBERED = 10_000


@dataclass(frozen=True)
class HeldLease:
    """A lease that a gateway holds."""

    session: SessionId
    held: AsyncExitStack


@dataclass(frozen=True)
class Waiting:
    """A lease that a gateway asks for and does not have yet."""

    session: SessionId
    task: asyncio.Task[Granted | Refused]


class PoolOwner:
    """Use from one event loop: ``start``, calls of gateways, ``stop``. ``machine`` tells who is local."""

    def __init__(
        self,
        owner: OwnerId,
        pool: Pool,
        journal: Journal,
        proxies: Proxies,
        machine: str,
        generation: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.generation = generation
        self.refused: str | None = None
        """Why a later generation does not run here."""
        self.outdated: tuple[str, ...] = ()
        """Settings of the generation that this owner was made without."""
        self._id, self._pool = owner, pool
        self._journal, self._proxies, self._machine, self._clock = journal, proxies, machine, clock
        self._last_seen: dict[SessionId, float] = {}
        self._waiting: dict[TicketId, Waiting] = {}
        self._held: dict[TicketId, HeldLease] = {}
        self._given_up: FIFOCache[TicketId, None] = FIFOCache(_REMEMBERED)
        self._upkeep: asyncio.Task[None] | None = None
        self._recovery: set[asyncio.Task[None]] = set()
        self._leaving = False
        self.revivals = Revivals(pool, clock)

    async def start(self) -> None:
        """Start the engines in the background and bring back what the owner before us had in memory."""
        await self._pool.start()
        self._upkeep = asyncio.create_task(self._keep_up())
        for experts in self._journal.residents().values():
            for expert in experts:
                task = asyncio.create_task(self._bring_back(expert))
                self._recovery.add(task)
                task.add_done_callback(self._recovery.discard)

    async def stop(self, drain_s: float = 30.0) -> None:
        """Send those who wait elsewhere, let leases end for up to ``drain_s`` seconds, stop the engines."""
        # First: those whom the pool refuses from now on are sent to another owner.
        self._leaving = True
        if self._upkeep is not None:
            self._upkeep.cancel()
        for task in self._recovery:
            task.cancel()
        await self._pool.stop(drain_s)
        await self._proxies.close()

    async def acquire(self, wanted: LeaseRequest) -> Granted | Refused:
        """Wait for a lease; the gateway holds it until it gives back ``wanted.ticket``, or vanishes.

        Raises OwnerLost when this owner stops first: another one, or its successor, can be asked.
        """
        self._last_seen[wanted.session] = self._clock()
        # A release may overtake the request that it ends.
        if wanted.ticket in self._given_up:
            return _gone(wanted)
        task = asyncio.create_task(self._lease(wanted))
        self._waiting[wanted.ticket] = Waiting(wanted.session, task)
        try:
            answer = await task
            if self._leaving and isinstance(answer, Refused):
                raise OwnerLost("this owner is stopping")
            return answer
        except asyncio.CancelledError:
            task.cancel()
            if self._given_up.pop(wanted.ticket, "not given up") is None:
                return _gone(wanted)
            raise
        finally:
            self._waiting.pop(wanted.ticket, None)

    async def release(self, session: SessionId, ticket: TicketId, failure: str | None) -> None:
        """End a lease, or the wait for one. ``failure`` is what the engine did wrong, if anything."""
        self._last_seen[session] = self._clock()
        lease = self._held.pop(ticket, None)
        if lease is not None:
            await _release(lease, failure)
        else:
            self._give_up(ticket)

    def _give_up(self, ticket: TicketId) -> None:
        self._given_up[ticket] = None
        waiting = self._waiting.get(ticket)
        if waiting is not None:
            waiting.task.cancel()

    async def expect(self, wanted: LeaseRequest) -> None:
        """Announce a lease that the gateway will ask for later; withdrawn with ``release``."""
        self._last_seen[wanted.session] = self._clock()
        held = AsyncExitStack()
        held.enter_context(self._pool.expect(wanted.request, wanted.expert, wanted.group))
        self._held[wanted.ticket] = HeldLease(wanted.session, held)

    async def heartbeat(self, session: SessionId) -> OwnerReport:
        """A gateway is alive; it learns how this owner is."""
        self._last_seen[session] = self._clock()
        return self.report()

    @property
    def held_leases(self) -> int:
        """Leases and announcements that gateways hold."""
        return len(self._held)

    def report(self) -> OwnerReport:
        snapshot = self._pool.snapshot()
        return OwnerReport(
            owner=self._id,
            generation=self.generation,
            engines={host: engine.stats() for host, engine in self._pool.engines.items()},
            experts=self._pool.watch.experts(),
            waits_s={e.expert: self._pool.forecast(e.expert) for e in snapshot.experts},
            swaps=snapshot.swaps,
            refused=self.refused,
            outdated=self.outdated,
        )

    async def _lease(self, wanted: LeaseRequest) -> Granted | Refused:
        held = AsyncExitStack()
        try:
            lease = await held.enter_async_context(
                self._pool.lease(
                    wanted.request,
                    wanted.expert,
                    wanted.deadline_class,
                    wanted.timeout_s,
                    group=wanted.group,
                    alternatives=wanted.alternatives,
                )
            )
            address = await self._address(lease, wanted.machine)
        except CoeError as error:
            failure = error.message if isinstance(error, EngineError) else None
            await _release(HeldLease(wanted.session, held), failure)
            return Refused.of(error)
        except BaseException:
            await held.aclose()
            raise
        # Held only when it can be asked: a release that came before has cancelled this task.
        self._held[wanted.ticket] = HeldLease(wanted.session, held)
        return Granted(
            ticket=wanted.ticket,
            expert=lease.expert,
            host=lease.host,
            address=address,
            queue_ms=lease.queue_ms,
            swap_ms=lease.swap_ms,
            wake_from=lease.wake_from,
        )

    async def _address(self, lease: Lease, machine: str) -> Address:
        if not isinstance(lease.engine, Addressable):
            raise EngineError(
                f"{lease.expert} on {lease.host} cannot be asked from another process",
                hint="Give the engine an `address`: see coe.engines.address.Addressable.",
            )
        address = lease.engine.address(lease.expert)
        return address if machine == self._machine else await self._proxies.through(address)

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_S)
            await self._note_residents()
            self.revivals.look()
            await self.forget_the_silent()

    async def _note_residents(self) -> None:
        awake = {host: list(engine.stats().awake) for host, engine in self._pool.engines.items()}
        residents = {host: experts for host, experts in awake.items() if experts}
        try:
            await off_the_loop(self._journal.note, residents)
        except OSError as error:
            log.warning("the journal of %s cannot be written: %s", self._id, error)

    async def forget_the_silent(self) -> None:
        """Take back the leases of gateways that have vanished, and what they wait for: a lease granted to
        nobody would be held for ever."""
        now = self._clock()
        for session in [s for s, last_seen in self._last_seen.items() if now - last_seen > SILENCE_S]:
            del self._last_seen[session]
            lost = [ticket for ticket, lease in self._held.items() if lease.session == session]
            log.warning("gateway %s is gone; taking back its %d leases", session, len(lost))
            # First what it waits for: a lease taken back would else be granted to the same gateway.
            for ticket in [t for t, waiting in self._waiting.items() if waiting.session == session]:
                self._give_up(ticket)
            for ticket in lost:
                await _release(self._held.pop(ticket), failure=None)

    async def _bring_back(self, expert: ExpertId) -> None:
        """A lease that nobody uses brings its expert in."""
        with contextlib.suppress(CoeError):
            async with self._pool.lease(f"recover-{expert}", expert, "batch", timeout_s=600.0):
                log.info("%s is back in memory", expert)


async def _release(lease: HeldLease, failure: str | None) -> None:
    error = EngineError(failure) if failure is not None else None
    with contextlib.suppress(EngineError):
        await lease.held.__aexit__(type(error) if error else None, error, None)


def _gone(wanted: LeaseRequest) -> Refused:
    return Refused("ExpertUnavailable", f"the request for {wanted.expert} was given up")
