"""A gateway's side of leasing: which owner to ask, and what to do when it is not there.

:class:`ClusterPool` is to the pipeline what :class:`coe.pool.pool.Pool` is under `coe serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from coe.cluster.leased import AddressedEngine, ClusterLease
from coe.cluster.messages import (
    Directory,
    Granted,
    KnownOwner,
    LeaseRequest,
    OwnerCalls,
    OwnerId,
    OwnerLost,
    OwnerReport,
    Refused,
    SessionId,
    TicketId,
)
from coe.core.errors import EngineError, ExpertUnavailable
from coe.core.types import (
    DeadlineClass,
    ExpertId,
    RequestId,
)
from coe.engines.address import AddressBook
from coe.pipeline import Lease, Leases
from coe.pool.pool import stopping
from coe.scheduler.events import HostId

log = logging.getLogger(__name__)

T = TypeVar("T")
HEARTBEAT_S = 1.0
RETRY_S = 0.5
OWNER_SILENCE_S = 15.0
"""An owner that was heard of and then answers nothing for so long is lost until it does."""
OWNER_RETURN_S = 60.0
"""How long a request waits for an owner that is being restarted, where no other has the expert."""


@dataclass(frozen=True)
class _Asked:
    """The owner of a lease: it takes the lease back although it has left the directory since, to stop."""

    owner: OwnerId
    calls: OwnerCalls


@dataclass(frozen=True)
class Version:
    """A generation as owners and leases need it."""

    number: int
    registry: str
    """JSON; what owners get"""
    hosts: Mapping[ExpertId, HostId]
    """of the experts that owners have"""


class ClusterPool:
    """Leases from owners. One event loop: ``start``, any number of ``lease``, ``stop``.

    ``own`` leases the experts that no owner has: those behind remote APIs hold no memory, so every gateway
    asks them by itself, within its own share of their bounds.
    """

    def __init__(
        self,
        session: SessionId,
        machine: str,
        directory: Directory,
        version: Version,
        own: Leases,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._machine, self._clock = session, machine, clock
        self._directory, self._version, self._own = directory, version, own
        self._owners: Mapping[OwnerId, KnownOwner] = {}
        self._numbers = itertools.count()
        self._reports: dict[OwnerId, OwnerReport] = {}
        self._lost: set[OwnerId] = set()
        self._book = AddressBook()
        self._watch: asyncio.Task[None] | None = None
        self._heartbeats: dict[OwnerId, asyncio.Task[None]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._waits: set[asyncio.Timeout] = set()
        """Of those who have no lease yet; over when the service ends."""
        self._refusing = False
        self._suspect: set[OwnerId] = set()
        """An engine of theirs has failed since their last report."""
        self._pending_releases: dict[OwnerId, dict[TicketId, str | None]] = {}
        """Leases that ended while their owner could not be reached; with the failure, if any."""

    async def start(self) -> None:
        self._watch = asyncio.create_task(self._follow_owners())

    async def stop(self) -> None:
        tasks = [*self._heartbeats.values(), *([self._watch] if self._watch else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._book.close()

    def refuse(self) -> None:
        """The service ends: refuse those who wait for an owner's lease, and who asks from now on."""
        waits, self._refusing = (() if self._refusing else self._waits), True
        for wait in waits:
            wait.reschedule(0)

    @property
    def reports(self) -> Mapping[OwnerId, OwnerReport]:
        """The last one of each owner; of one that is lost, too."""
        return self._reports

    @property
    def lost(self) -> frozenset[OwnerId]:
        """Owners that did not answer the last heartbeat."""
        return frozenset(self._lost)

    def change_to(self, version: Version) -> None:
        """Leases from now on go by another generation, which every owner gets with the next heartbeat."""
        self._version = version

    def forecast(self, expert: ExpertId) -> float:
        """Seconds of waiting at the best owner, by its last report; ``inf`` if none would take it."""
        if expert not in self._version.hosts:
            return self._own.forecast(expert)
        costs = [self._cost(owner, expert) for owner in self._candidates(expert) if owner in self._reports]
        return min(costs)[-1] if costs else math.inf

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
        """See :meth:`coe.pool.pool.Pool.lease`. Also raises ExpertUnavailable while no owner is there."""
        wanted = LeaseRequest(
            session=self._session,
            ticket=self._ticket(),
            machine=self._machine,
            request=request_id,
            expert=expert,
            deadline_class=deadline_class,
            timeout_s=timeout_s,
            group=group,
            alternatives=tuple(alternatives),
        )
        if expert not in self._version.hosts:
            async with self._own.lease(
                request_id, expert, deadline_class, timeout_s, group=group, alternatives=alternatives
            ) as own:
                yield own
            return
        async with self._refusable():
            asked, granted = await self._granted(wanted)
        failure: str | None = None
        try:
            yield self._lease(expert, granted)
        except EngineError as error:
            failure = error.message
            # Before the lease is given back: the next try goes elsewhere.
            self._suspect.add(asked.owner)
            raise
        finally:
            await self._release(asked, granted.ticket, failure)

    @asynccontextmanager
    async def _refusable(self) -> AsyncIterator[None]:
        if self._refusing:
            raise stopping()
        wait = asyncio.timeout(None)
        self._waits.add(wait)
        try:
            async with wait:
                yield
        except TimeoutError:
            if wait.expired():
                raise stopping() from None
            raise
        finally:
            self._waits.discard(wait)

    @contextmanager
    def expect(
        self, request_id: RequestId, expert: ExpertId, group: RequestId | None = None
    ) -> Iterator[None]:
        """See :meth:`coe.pool.pool.Pool.expect`. A hint that does not arrive is no error."""
        if expert not in self._version.hosts:
            with self._own.expect(request_id, expert, group):
                yield
            return
        wanted = LeaseRequest(self._session, self._ticket(), self._machine, request_id, expert, group=group)
        owner = self._best(expert)
        if owner is None:
            yield
            return
        asked = _Asked(owner, self._owners[owner].calls)
        self._hint(asked.calls.expect(wanted))
        try:
            yield
        finally:
            self._hint(self._release(asked, wanted.ticket, None))

    def _hint(self, call: Coroutine[Any, Any, None]) -> None:
        async def quietly() -> None:
            with contextlib.suppress(OwnerLost):
                await call

        self._in_background(quietly())

    def _in_background(self, call: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    def _ticket(self) -> TicketId:
        return f"{self._session}#{next(self._numbers)}"

    def _lease(self, asked_for: ExpertId, granted: Granted) -> ClusterLease:
        return ClusterLease(
            expert=granted.expert,
            asked_for=asked_for,
            engine=AddressedEngine(granted.host, granted.address, self._book),
            queue_ms=granted.queue_ms,
            swap_ms=granted.swap_ms,
            wake_from=granted.wake_from,
        )

    async def _granted(self, wanted: LeaseRequest) -> tuple[_Asked, Granted]:
        """Ask the owner with the shortest wait; where that one vanishes meanwhile, the next one or its
        successor, by another ticket: it may have granted the first, if only its answer was lost."""
        deadline = self._clock() + min(wanted.timeout_s, OWNER_RETURN_S)
        while True:
            owner = self._best(wanted.expert)
            if owner is None:
                self._directory.miss(self._version.hosts[wanted.expert])
            else:
                asked = _Asked(owner, self._owners[owner].calls)
                try:
                    answer = await self._acquire(asked, wanted)
                except OwnerLost:
                    self._release_later(owner, wanted.ticket, None)
                    wanted = replace(wanted, ticket=self._ticket())
                    continue
                if isinstance(answer, Refused):
                    error = answer.error()
                    if isinstance(error, EngineError):
                        self._suspect.add(owner)
                    raise error
                return asked, answer
            if self._clock() >= deadline:
                raise ExpertUnavailable(
                    f"no pool owner of {wanted.expert} can be reached",
                    hint="It restarts by itself; send the request again in a moment.",
                    retry_after_s=5.0,
                )
            await asyncio.sleep(RETRY_S)

    async def _acquire(self, asked: _Asked, wanted: LeaseRequest) -> Granted | Refused:
        """Waits for as long as the owner is heard of."""
        answer = asyncio.ensure_future(asked.calls.acquire(wanted))
        try:
            while not (await asyncio.wait({answer}, timeout=HEARTBEAT_S))[0]:
                if asked.owner in self._lost:
                    raise OwnerLost("it gives no sign of life")
            return answer.result()
        except BaseException as error:
            answer.cancel()
            if not isinstance(error, OwnerLost):
                await self._release(asked, wanted.ticket, None)
            raise

    async def _heard(self, owner: OwnerId, call: Coroutine[Any, Any, T]) -> T:
        """What ``call`` gives. Raises OwnerLost where an owner that was heard of has fallen silent."""
        try:
            async with asyncio.timeout(OWNER_SILENCE_S if owner in self._reports else None):
                return await call
        except TimeoutError:
            raise OwnerLost(f"it did not answer within {OWNER_SILENCE_S:g} s") from None

    async def _release(self, asked: _Asked, ticket: TicketId, failure: str | None) -> None:
        """Goes on when the caller is cancelled."""

        async def release() -> None:
            try:
                await self._heard(asked.owner, asked.calls.release(self._session, ticket, failure))
            except OwnerLost:
                self._release_later(asked.owner, ticket, failure)

        await asyncio.shield(self._in_background(release()))

    def _release_later(self, owner: OwnerId, ticket: TicketId, failure: str | None) -> None:
        """Its leases went with it, or they are released with the next heartbeat that it answers."""
        self._lost.add(owner)
        if owner in self._heartbeats:
            self._pending_releases.setdefault(owner, {})[ticket] = failure

    def _best(self, expert: ExpertId) -> OwnerId | None:
        """The owner with the shortest expected wait, of those that answer."""
        return min(self._candidates(expert), key=lambda owner: self._cost(owner, expert), default=None)

    def _cost(self, owner: OwnerId, expert: ExpertId) -> tuple[bool, bool, float]:
        """Whether it refuses, whether its engine may not run, seconds of waiting. Where an engine has died
        nobody waits and forecasts are short, but to start it takes long."""
        report, suspect = self._reports.get(owner), owner in self._suspect
        if report is None:
            return False, suspect, 0.0
        engine = report.engines.get(self._version.hosts[expert])
        wait_s = report.waits_s.get(expert, math.inf)
        return math.isinf(wait_s), suspect or (engine is not None and engine.state != "ready"), wait_s

    def _candidates(self, expert: ExpertId) -> list[OwnerId]:
        host = self._version.hosts[expert]
        return [o for o, known in self._owners.items() if host in known.hosts and o not in self._lost]

    async def _follow_owners(self) -> None:
        """Owners come and go: send heartbeats to those that are there."""
        while True:
            self._owners = await self._directory.owners()
            for owner in self._owners.keys() - self._heartbeats.keys():
                self._heartbeats[owner] = asyncio.create_task(self._heartbeat(owner))
            for owner in self._heartbeats.keys() - self._owners.keys():
                self._heartbeats.pop(owner).cancel()
                self._pending_releases.pop(owner, None)
                self._reports.pop(owner, None)
                self._suspect.discard(owner)
                self._lost.discard(owner)
            await asyncio.sleep(HEARTBEAT_S)

    async def _heartbeat(self, owner: OwnerId) -> None:
        while True:
            try:
                calls = self._owners[owner].calls
                report = await self._heard(owner, calls.heartbeat(self._session))
                if report.generation < self._version.number:
                    await calls.apply_generation(self._version.number, self._version.registry)
                # Before it counts as found: requests would wait for what was never given back.
                for ticket, failure in self._pending_releases.pop(owner, {}).items():
                    await self._release(_Asked(owner, calls), ticket, failure)
                self._reports[owner] = report
                self._suspect.discard(owner)
                self._lost.discard(owner)
            except OwnerLost as error:
                if owner not in self._lost:
                    log.warning("pool owner %s is lost: %s", owner, error)
                self._lost.add(owner)
            except Exception:  # Heartbeats must not stop: without them every lease would be taken back.
                log.exception("pool owner %s sent a report that cannot be used", owner)
                self._lost.add(owner)
            await asyncio.sleep(HEARTBEAT_S)
