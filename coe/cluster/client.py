"""A gateway's side of leasing: which owner to ask, and what to do when it is not there.

:class:`ClusterPool` is to the pipeline what :class:`coe.pool.pool.Pool` is under `coe serve`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from coe.cluster.wire import Granted, OwnerCalls, OwnerId, OwnerLost, OwnerReport, Refused, SessionId, Wanted
from coe.engines.address import Address, AddressBook
from coe.errors import EngineError, ExpertUnavailable
from coe.pool.events import HostId, WakeFrom
from coe.types import DeadlineClass, Engine, EngineAnswer, EngineCall, EngineStats, ExpertId, RequestId

log = logging.getLogger(__name__)

BEAT_S = 1.0
RETRY_S = 0.5
OWNER_RETURN_S = 60.0
"""How long a request waits for an owner that is being restarted, where no other has the expert."""


class AddressedEngine:
    """A leased expert's server. Asking is a gateway's part of :class:`coe.types.Engine`; the rest is its
    owner's, and does nothing here."""

    def __init__(self, host: HostId, address: Address, book: AddressBook) -> None:
        self.id = host
        self._address, self._book = address, book

    async def ask(self, expert: ExpertId, call: EngineCall) -> EngineAnswer:
        return await self._book.ask(self._address, expert, call)

    async def start(self) -> None: ...
    async def ensure_ready(self, expert: ExpertId) -> None: ...
    async def sleep(self, expert: ExpertId, level: int = 1) -> None: ...
    async def stop(self) -> None: ...

    def stats(self) -> EngineStats:
        return EngineStats("ready")


@dataclass(frozen=True)
class ClusterLease:
    """See :class:`coe.pipeline.Lease`."""

    request: RequestId
    expert: ExpertId
    host: HostId
    engine: Engine
    queue_ms: float
    swap_ms: float
    wake_from: WakeFrom


@dataclass(frozen=True)
class Placement:
    """Which owners have an expert. Part of a generation."""

    owners: Mapping[ExpertId, tuple[OwnerId, ...]]


class ClusterPool:
    """Leases from owners. One event loop: ``start``, any number of ``lease``, ``stop``.

    ``remotes`` are the gateway's own engines for hosts that are remote APIs.
    """

    def __init__(
        self,
        session: SessionId,
        machine: str,
        owners: Mapping[OwnerId, OwnerCalls],
        placement: Placement,
        remotes: Mapping[HostId, Engine],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._machine, self._clock = session, machine, clock
        self._owners, self._placement, self._remotes = dict(owners), placement, dict(remotes)
        self._numbers = itertools.count()
        self._reports: dict[OwnerId, OwnerReport] = {}
        self._lost: set[OwnerId] = set()
        self._book = AddressBook()
        self._beats: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        for engine in self._remotes.values():
            await engine.start()
        self._beats = [asyncio.create_task(self._beat(owner)) for owner in self._owners]

    async def stop(self) -> None:
        for task in self._beats:
            task.cancel()
        await asyncio.gather(*self._beats, return_exceptions=True)
        await self._book.close()
        for engine in self._remotes.values():
            await engine.stop()

    @property
    def reports(self) -> Mapping[OwnerId, OwnerReport]:
        """The last one of each owner; of one that is lost, too."""
        return self._reports

    @property
    def lost(self) -> frozenset[OwnerId]:
        """Owners that did not answer the last heartbeat."""
        return frozenset(self._lost)

    def forecast(self, expert: ExpertId) -> float:
        """Seconds of waiting at the best owner, by its last report; ``inf`` if none would take it."""
        waits = [self._reports[o].waits_s.get(expert, math.inf) for o in self._candidates(expert)]
        return min(waits, default=math.inf)

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
    ) -> AsyncIterator[ClusterLease]:
        """See :meth:`coe.pool.pool.Pool.lease`. Also raises ExpertUnavailable while no owner is there."""
        wanted = Wanted(
            session=self._session,
            ticket=f"{self._session}#{next(self._numbers)}",
            machine=self._machine,
            request=request_id,
            expert=expert,
            deadline_class=deadline_class,
            timeout_s=timeout_s,
            group=group,
            alternatives=tuple(alternatives),
        )
        owner, granted = await self._granted(wanted)
        failure: str | None = None
        try:
            yield self._lease(request_id, granted)
        except EngineError as error:
            failure = error.message
            raise
        finally:
            await self._give_back(owner, wanted, failure)

    def _lease(self, request_id: RequestId, granted: Granted) -> ClusterLease:
        engine: Engine
        if granted.address is None:
            engine = self._remotes[granted.host]
        else:
            engine = AddressedEngine(granted.host, granted.address, self._book)
        return ClusterLease(
            request=request_id,
            expert=granted.expert,
            host=granted.host,
            engine=engine,
            queue_ms=granted.queue_ms,
            swap_ms=granted.swap_ms,
            wake_from=granted.wake_from,
        )

    async def _granted(self, wanted: Wanted) -> tuple[OwnerId, Granted]:
        """Ask the owner with the shortest wait; one that vanishes meanwhile has granted nothing yet, so
        the next one, or the same one when it is back, can safely be asked."""
        deadline = self._clock() + min(wanted.timeout_s, OWNER_RETURN_S)
        while True:
            owner = self._best(wanted.expert)
            try:
                answer = await self._acquire(owner, wanted)
            except OwnerLost as error:
                self._lost.add(owner)
                if self._clock() >= deadline:
                    raise ExpertUnavailable(
                        f"the pool owner {owner} of {wanted.expert} is gone: {error}",
                        hint="It is restarted by itself; ask again in a moment.",
                        retry_after_s=5.0,
                    ) from error
                await asyncio.sleep(RETRY_S)
            else:
                if isinstance(answer, Refused):
                    raise answer.error()
                return owner, answer

    async def _acquire(self, owner: OwnerId, wanted: Wanted) -> Granted | Refused:
        try:
            return await self._owners[owner].acquire(wanted)
        except BaseException as error:
            if not isinstance(error, OwnerLost):
                await self._give_back(owner, wanted, None)
            raise

    async def _give_back(self, owner: OwnerId, wanted: Wanted, failure: str | None) -> None:
        try:
            await asyncio.shield(self._owners[owner].give_back(self._session, wanted.ticket, failure))
        except OwnerLost:
            self._lost.add(owner)  # Its leases went with it.

    def _best(self, expert: ExpertId) -> OwnerId:
        """The owner with the shortest expected wait; one that is lost only where there is no other."""
        owners = self._placement.owners.get(expert, ())
        if not owners:
            raise ExpertUnavailable(f"no pool owner has the expert {expert!r}")

        def cost(owner: OwnerId) -> tuple[bool, float]:
            report = self._reports.get(owner)
            return owner in self._lost, report.waits_s.get(expert, math.inf) if report else 0.0

        return min(owners, key=cost)

    def _candidates(self, expert: ExpertId) -> list[OwnerId]:
        return [
            o for o in self._placement.owners.get(expert, ()) if o in self._reports and o not in self._lost
        ]

    async def _beat(self, owner: OwnerId) -> None:
        while True:
            try:
                self._reports[owner] = await self._owners[owner].beat(self._session)
                self._lost.discard(owner)
            except OwnerLost as error:
                if owner not in self._lost:
                    log.warning("pool owner %s is lost: %s", owner, error)
                self._lost.add(owner)
            await asyncio.sleep(BEAT_S)
