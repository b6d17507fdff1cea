"""A stuck scheduler is logged once and shown to monitors, under `coe serve` and in a cluster."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coe.cluster.gateway_replica import GatewayReplica
from coe.core.errors import ExpertTimeout
from coe.pool.pool import Pool
from coe.pool.watch import LOOKS, WatchLimits
from coe.scheduler.events import Action, Event, Finished, Grant, Load
from coe.scheduler.plan import ExpertPlan, HostPlan, PoolPlan
from coe.testing.engines import FakeEngine, Script
from tests.support.gateway import EXPERTS, world
from tests.support.live import TEXT, live_world
from tests.support.owners import Calls, Slot, gateway, owner_of, running
from tests.support.pools import running_pool, settled, take
from tests.support.waiting import until

PLAN = PoolPlan(
    (HostPlan("slot", max_running=1),), tuple(ExpertPlan(e, ("slot",), max_running=1) for e in "ab")
)
SOON = WatchLimits(stuck_after_s=0.05)


@contextmanager
def losing(pool: Pool, kind: type[Event] | type[Action]) -> Iterator[None]:
    """Events or actions of ``kind`` do not get through to, or from, the scheduler."""
    scheduler = pool._scheduler
    right = scheduler.step

    def step(event: Event, now: float) -> list[Action]:
        actions = [] if isinstance(event, kind) else right(event, now)
        return [action for action in actions if not isinstance(action, kind)]

    scheduler.step = step  # type: ignore[method-assign]
    try:
        yield
    finally:
        scheduler.step = right  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", [Finished, Grant, Load])
async def test_whatever_is_lost_between_scheduler_and_pool_shows_and_is_logged_once(
    kind: type[Event] | type[Action], caplog: pytest.LogCaptureFixture
) -> None:
    async with running_pool(PLAN, {"slot": FakeEngine("slot")}) as pool:
        pool.watch.limits = SOON
        if kind is not Load:
            await take(pool, "a")
        with losing(pool, kind):
            first = asyncio.create_task(take(pool, "a"))
            await asyncio.sleep(0)
            later = asyncio.create_task(take(pool, "a"))
            await until(lambda: pool.watch.stuck)
            found = dict(pool.watch.stuck)
            await asyncio.sleep(5 * SOON.stuck_after_s)
        assert set(found) == {"a"}
        assert pool.watch.experts()["a"].stuck == found["a"]
        assert pool.watch.experts()["b"].stuck is None
        first.cancel()
        later.cancel()
        await settled(first, later)
        await until(lambda: not pool.watch.stuck)
    told = [record for record in caplog.records if "the scheduler is stuck" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.ERROR]
    line = told[0].getMessage()
    assert "\n" not in line
    state = json.loads(line.partition("its state: ")[2])
    assert state["hosts"]["slot"]["experts"]["a"]


async def test_long_loads_and_long_work_are_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine("slot")
    loaded, done = engine.script.hold("ensure_ready"), asyncio.Event()
    async with running_pool(PLAN, {"slot": engine}) as pool:
        pool.watch.limits = SOON
        holder = asyncio.create_task(take(pool, "a", done))
        await asyncio.sleep(5 * SOON.stuck_after_s)
        assert not pool.watch.stuck
        loaded.set()
        other = asyncio.create_task(take(pool, "b"))
        await asyncio.sleep(5 * SOON.stuck_after_s)
        assert not pool.watch.stuck
        done.set()
        await asyncio.gather(holder, other)
    assert "stuck" not in caplog.text


async def test_a_lease_that_outlives_every_request_is_no_reason_to_wait() -> None:
    async with running_pool(PLAN, {"slot": FakeEngine("slot")}) as pool:
        pool.watch.limits = WatchLimits(stuck_after_s=0.05, lease_s=0.1)
        done = asyncio.Event()
        forgotten = asyncio.create_task(take(pool, "a", done))
        await until(lambda: pool.snapshot().running)
        waiting = asyncio.create_task(take(pool, "b"))
        await until(lambda: pool.watch.stuck)
        assert "a lease on a was never given back" in pool.watch.stuck["b"]
        done.set()
        await asyncio.gather(forgotten, waiting)


async def test_nobody_looks_while_nobody_waits() -> None:
    async with running_pool(PLAN, {"slot": FakeEngine("slot")}) as pool:
        pool.watch.limits = SOON
        await take(pool, "a")
        await asyncio.sleep(2 * SOON.stuck_after_s / LOOKS)
        timer = pool.watch._timer
        assert timer is None


async def test_monitors_see_it_and_the_process_still_counts_as_alive() -> None:
    async with world() as w:
        pool = w.service.pool
        pool.watch.limits = SOON
        body = {"model": "words", "prompt": "secret", "max_tokens": 4}
        assert (await w.http.post("/v1/completions", json=body)).status_code == 200
        with losing(pool, Grant):
            asked = [asyncio.create_task(w.http.post("/v1/completions", json=body)) for _ in range(3)]
            await until(lambda: pool.watch.stuck)
            failed = await w.http.get("/healthz/experts")
            alive = await w.http.get("/healthz")
            for each in asked:
                each.cancel()
            await settled(*asked)
        await until(lambda: not pool.watch.stuck)
        well = await w.http.get("/healthz/experts")
    assert (failed.status_code, failed.json()["status"], alive.status_code) == (503, "failed", 200)
    assert set(failed.json()["stuck"]) == {"words"}
    assert failed.json()["experts"]["words"]["can_answer"] is False
    assert set(failed.json()["experts"]) == set(EXPERTS)
    assert well.status_code == 200
    assert "stuck" not in well.json()


async def test_an_owner_reports_it_to_its_gateways(tmp_path: Path) -> None:
    owner = owner_of(Slot("slot", Script()), tmp_path)
    pool = owner._pool
    pool.watch.limits = SOON
    async with running(owner):
        with losing(pool, Load):
            with pytest.raises(ExpertTimeout):
                async with pool.lease("r", "a", timeout_s=1.0):
                    pass
            asking = asyncio.create_task(take(pool, "a"))
            await until(lambda: pool.watch.stuck)
            report = owner.report()
            asking.cancel()
            await settled(asking)
    assert report.experts["a"].stuck == "a is said to be loading, and is not"
    assert report.experts["b"].stuck is None


async def test_a_gateway_tells_of_every_owner_that_is_stuck(tmp_path: Path) -> None:
    calls = [Calls(owner_of(Slot("slot", Script()), tmp_path / name)) for name in ("one", "two")]
    async with gateway(*calls) as pool:
        await until(lambda: len(pool.reports) == 2)
        replica = GatewayReplica.__new__(GatewayReplica)
        replica._pool, replica._own = pool, pool._own  # type: ignore[assignment]
        assert {each.stuck for each in replica.experts().values()} == {None}
        calls[1].owner._pool.watch.stuck = {"a": "no grant"}
        await until(lambda: replica.experts()["a"].stuck == "no grant")
        assert replica.experts()["b"].stuck is None


async def test_the_watch_goes_by_the_registry_and_its_edits(tmp_path: Path) -> None:
    async with live_world(tmp_path, text=TEXT + "limits: {request_timeout_s: 40}\n") as w:
        watch = w.service.pool.watch
        assert watch.limits == WatchLimits(30.0, 40.0)
        w.write("pool:", "pool:\n  stuck_after_s: 5")
        await until(lambda: w.generation == 2)
        assert watch.limits == WatchLimits(5.0, 40.0)
        w.write("request_timeout_s: 40", "request_timeout_s: 50")
        await until(lambda: w.generation == 3)
        assert watch.limits == WatchLimits(5.0, 50.0)
        assert not w.live.needs_restart
