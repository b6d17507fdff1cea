"""A pool over scripted or real engines, and callers that take leases of it, for tests of what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager

from coe.core.types import Engine, ExpertId
from coe.pool.pool import Pool
from coe.scheduler.plan import PoolPlan
from coe.scheduler.policies import Coe
from coe.scheduler.scheduler import Scheduler
from coe.testing.engines import FakeEngine


@asynccontextmanager
async def running_pool(
    plan: PoolPlan, engines: Mapping[str, Engine], load_timeout_s: float = 5.0
) -> AsyncIterator[Pool]:
    """A started pool. Raises AssertionError at the end where it broke the contract of a scripted engine."""
    pool = Pool(Scheduler(plan, Coe()), engines, load_timeout_s=load_timeout_s)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop(drain_s=1.0)
    broken = [v for engine in engines.values() if isinstance(engine, FakeEngine) for v in engine.violations]
    if broken:
        raise AssertionError(f"the pool broke an engine's contract: {broken}")


async def take(
    pool: Pool, expert: ExpertId, release: asyncio.Event | None = None, *alternatives: ExpertId
) -> str:
    """Hold a lease until ``release`` (or not at all); returns what its expert woke from."""
    async with pool.lease("request", expert, timeout_s=60.0, alternatives=alternatives) as lease:
        if release:
            await release.wait()
        return lease.wake_from


async def settled(*tasks: Awaitable[object]) -> list[object]:
    """What each of them returned or raised."""
    return await asyncio.gather(*tasks, return_exceptions=True)
