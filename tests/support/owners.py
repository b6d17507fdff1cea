"""Pool owners and gateways in one process, without Ray, for tests of what passes between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from coe.cluster.cluster_pool import ClusterPool, Version
from coe.cluster.journal import Journal
from coe.cluster.messages import Granted, KnownOwner, LeaseRequest, OwnerLost, OwnerReport, Refused
from coe.cluster.owner import PoolOwner
from coe.cluster.proxies import Proxies
from coe.core.types import Engine
from coe.engines.address import Address
from coe.pool.pool import Pool
from coe.scheduler.plan import ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.policies import Coe
from coe.scheduler.scheduler import Scheduler
from coe.testing.engines import FakeEngine, Script


class Calls:
    """An owner in this process; ``gone`` makes it unreachable."""

    def __init__(self, owner: PoolOwner) -> None:
        self.owner, self.gone = owner, False

    async def acquire(self, wanted: LeaseRequest) -> Granted | Refused:
        self._reach()
        return await self.owner.acquire(wanted)

    async def release(self, session: str, ticket: str, failure: str | None) -> None:
        self._reach()
        await self.owner.release(session, ticket, failure)

    async def expect(self, wanted: LeaseRequest) -> None:
        self._reach()
        await self.owner.expect(wanted)

    async def apply_generation(self, generation: int, registry: str) -> None:
        self._reach()

    async def heartbeat(self, session: str) -> OwnerReport:
        self._reach()
        return self.owner.report()

    def _reach(self) -> None:
        if self.gone:
            raise OwnerLost("killed")


class Slot(FakeEngine):
    """A fake whose experts have an address; nobody asks there."""

    def address(self, expert: str) -> Address:
        return Address("http://127.0.0.1:9", expert)


class Owners:
    """A directory in this process. ``missed``: hosts that somebody looked for in vain."""

    def __init__(self, known: dict[str, KnownOwner]) -> None:
        self.known, self.missed = known, set[str]()

    async def owners(self) -> dict[str, KnownOwner]:
        return dict(self.known)

    def miss(self, host: str) -> None:
        self.missed.add(host)


class NoOwners:
    """Experts behind remote APIs are leased by the gateways themselves."""

    async def owners(self) -> Mapping[str, Any]:
        return {}

    def miss(self, host: str) -> None:
        raise AssertionError(host)


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def owner_of(engine: Engine, folder: Path, time: Time | None = None, experts: str = "ab") -> PoolOwner:
    plan = PoolPlan(
        hosts=(HostPlan(engine.id),),
        experts=tuple(ExpertPlan(expert, (engine.id,), max_running=1) for expert in experts),
        max_queue=3,
    )
    pool = Pool(Scheduler(plan, Coe()), {engine.id: engine})
    journal = Journal(folder / "journal.json")
    return PoolOwner("one", pool, journal, Proxies("127.0.0.1"), "here", clock=time or Time())


@asynccontextmanager
async def gateway(*calls: Calls, machine: str = "here") -> AsyncIterator[ClusterPool]:
    directory = Owners(
        {f"owner-{number}": KnownOwner(each, frozenset({"slot"})) for number, each in enumerate(calls)}
    )
    version = Version(1, "{}", dict.fromkeys("ab", "slot"))
    far = FakeEngine("far", Script())
    plan = PoolPlan(
        hosts=(HostPlan("far", always_awake=True),), experts=(ExpertPlan("remote", ("far",), footprint=0.0),)
    )
    own = Pool(Scheduler(plan, Coe()), {"far": far})
    pool = ClusterPool("gateway-1", machine, directory, version, own)
    await own.start()
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()
        await own.stop()


@asynccontextmanager
async def running(owner: PoolOwner) -> AsyncIterator[PoolOwner]:
    await owner.start()
    try:
        yield owner
    finally:
        await owner.stop(drain_s=0.1)


def wanted(ticket: str, expert: str = "a", session: str = "gateway-1") -> LeaseRequest:
    return LeaseRequest(session=session, ticket=ticket, machine="here", request="r", expert=expert)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 (owners tell nobody)
            await asyncio.sleep(0.01)
