"""The asyncio shell: leases, errors, cancellation, start and stop, with a fake engine."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import pytest

from coe.core.errors import ExpertTimeout, ExpertUnavailable, Overloaded
from coe.core.types import EngineCall
from coe.pool.pool import Pool
from coe.registry.schema import Expert, Registry
from coe.scheduler.plan import ExpertPlan, HostPlan, PoolPlan, build_plan
from coe.testing.engines import FakeEngine, Script
from tests.support.pools import running_pool, settled, take
from tests.support.waiting import until

SLOT = HostPlan("slot", max_running=2)
PLAN = PoolPlan(
    (SLOT,), tuple(ExpertPlan(e, ("slot",), max_running=2) for e in "abc"), retry_s=0.001, quarantine_s=60.0
)


def running(engine: FakeEngine, plan: PoolPlan = PLAN) -> AbstractAsyncContextManager[Pool]:
    return running_pool(plan, {engine.id: engine})


async def test_a_lease_gives_the_engine_and_says_what_the_wait_was_for() -> None:
    engine = FakeEngine("slot", Script(load_s=0.02))
    async with running(engine) as pool:
        async with pool.lease("r1", "a", "standard", 5.0) as lease:
            assert (lease.request, lease.expert, lease.host, lease.engine) == ("r1", "a", "slot", engine)
            assert lease.wake_from == "cold"
            assert lease.queue_ms >= lease.swap_ms >= 20.0
        async with pool.lease("r2", "a", "standard", 5.0) as lease:
            assert (lease.wake_from, lease.swap_ms, lease.queue_ms) == ("awake", 0.0, 0.0)


async def test_an_announced_lease_costs_and_promises_nothing() -> None:
    async with running(FakeEngine("slot")) as pool:
        with pool.expect("r", "a", group="r"):
            async with pool.lease("r", "a", group="r") as lease:
                assert (lease.expert, lease.asked_for) == ("a", "a")
        with pool.expect("r", "a", group="r"):
            pass
        assert pool.snapshot().queued == 0


async def test_engines_start_in_the_background_and_load_nothing_unasked() -> None:
    engine = FakeEngine("slot")
    up = engine.script.hold("start")
    async with running(engine) as pool:
        first = asyncio.create_task(take(pool, "a"))
        await until(lambda: engine.called("start"))
        assert engine.called("ensure_ready") == []
        up.set()
        assert await first == "cold"
        assert engine.called("ensure_ready") == ["a"]


async def test_experts_take_turns_in_a_slot() -> None:
    engine = FakeEngine("slot")
    async with running(engine) as pool:
        await asyncio.gather(*(take(pool, "abc"[i % 3]) for i in range(12)))
        assert sorted(map(str, engine.called("ensure_ready"))) == ["a", "b", "c"]
        assert pool.snapshot().swaps == 3


async def test_an_expert_is_not_put_away_while_it_is_leased() -> None:
    engine = FakeEngine("slot")
    async with running(engine) as pool:
        release = asyncio.Event()
        holder = asyncio.create_task(take(pool, "a", release))
        await until(lambda: pool.snapshot().running)
        other = asyncio.create_task(take(pool, "b"))
        await until(lambda: pool.snapshot().queued)
        assert engine.called("sleep") == []
        release.set()
        await asyncio.gather(holder, other)
        assert engine.called("sleep") == ["a"]


async def test_one_request_may_hold_leases_on_several_experts() -> None:
    engine = FakeEngine("big", capacity=2)
    plan = PoolPlan((HostPlan("big", capacity=2.0),), tuple(ExpertPlan(e, ("big",)) for e in "ab"))
    async with running(engine, plan) as pool, pool.lease("r", "a") as one, pool.lease("r", "b") as two:
        assert (one.request, two.request) == ("r", "r")
        assert pool.snapshot().running == 2


async def test_cancelling_a_waiting_caller_takes_it_out_of_the_queue() -> None:
    engine = FakeEngine("slot")
    loaded = engine.script.hold("ensure_ready")
    async with running(engine) as pool:
        gone = asyncio.create_task(take(pool, "a"))
        stays = asyncio.create_task(take(pool, "a"))
        await until(lambda: pool.snapshot().queued == 2)
        gone.cancel()
        [error] = await settled(gone)
        assert isinstance(error, asyncio.CancelledError)
        assert pool.snapshot().queued == 1
        loaded.set()
        await stays


async def test_a_caller_cancelled_in_the_moment_of_its_grant_gives_the_lease_back() -> None:
    engine = FakeEngine("slot")
    async with running(engine) as pool:
        release = asyncio.Event()
        holders = [asyncio.create_task(take(pool, "a", release)) for _ in range(2)]
        await until(lambda: pool.snapshot().running == 2)
        waiting = asyncio.create_task(take(pool, "a"))
        await until(lambda: pool.snapshot().queued)
        holders[0].cancel()
        await asyncio.sleep(0)
        assert (pool.snapshot().queued, pool.snapshot().running) == (0, 2)  # granted, but it has not run yet
        waiting.cancel()
        release.set()
        await settled(waiting, *holders)
        assert pool.snapshot().running == 0


async def test_an_error_in_the_block_gives_the_lease_back() -> None:
    async with running(FakeEngine("slot")) as pool:
        with pytest.raises(RuntimeError):
            async with pool.lease("r", "a"):
                raise RuntimeError
        assert pool.snapshot().running == 0


async def test_waiting_longer_than_the_patience_is_a_timeout() -> None:
    engine = FakeEngine("slot")
    loaded = engine.script.hold("ensure_ready")
    async with running(engine) as pool:
        with pytest.raises(ExpertTimeout, match="'a' was not free within") as caught:
            async with pool.lease("r", "a", "standard", 0.02):
                pass
        assert caught.value.hint
        assert pool.snapshot().queued == 0
        loaded.set()


async def test_a_full_queue_is_overloaded() -> None:
    engine = FakeEngine("slot")
    loaded = engine.script.hold("ensure_ready")
    async with running(engine, replace(PLAN, max_queue=1)) as pool:
        first = asyncio.create_task(take(pool, "a"))
        await until(lambda: pool.snapshot().queued)
        with pytest.raises(Overloaded) as caught:
            await take(pool, "b")
        assert caught.value.code == "queue_full"
        loaded.set()
        await first


async def test_an_unknown_expert_is_unavailable() -> None:
    async with running(FakeEngine("slot")) as pool:
        with pytest.raises(ExpertUnavailable, match="'nobody' is not in the pool"):
            await take(pool, "nobody")


async def test_a_remote_expert_waits_only_for_the_start_of_its_host() -> None:
    engine = FakeEngine("api", capacity=None)
    up = engine.script.hold("start")
    host = HostPlan("api", capacity=math.inf, always_awake=True)
    async with running(engine, PoolPlan((host,), (ExpertPlan("x", ("api",), 0.0),))) as pool:
        task = asyncio.create_task(take(pool, "x"))
        await until(lambda: engine.called("start"))
        assert not task.done()
        up.set()
        assert await task == "awake"
        assert engine.called("ensure_ready") == []


async def test_a_remote_host_that_does_not_start_makes_its_experts_unavailable() -> None:
    engine = FakeEngine("api", capacity=None)
    engine.script.fail("start", *["no key"] * 2)
    host = HostPlan("api", capacity=math.inf, always_awake=True)
    async with running(engine, PoolPlan((host,), (ExpertPlan("x", ("api",), 0.0),))) as pool:
        await until(lambda: engine.stats().state == "failed")
        with pytest.raises(ExpertUnavailable, match="no key"):
            await take(pool, "x")
        assert pool.snapshot().running == 0
        assert await take(pool, "x") == "awake"


async def test_stopping_refuses_those_who_wait_and_lets_leases_end() -> None:
    engine = FakeEngine("slot")
    async with running(engine) as pool:
        release = asyncio.Event()
        holder = asyncio.create_task(take(pool, "a", release))
        await until(lambda: pool.snapshot().running)
        waiting = asyncio.create_task(take(pool, "b"))
        await until(lambda: pool.snapshot().queued)
        stopping = asyncio.create_task(pool.stop(drain_s=5.0))
        [error] = await settled(waiting)
        assert isinstance(error, ExpertUnavailable)
        assert engine.called("stop") == []
        release.set()
        await asyncio.gather(holder, stopping)
        assert engine.stats().state == "stopped"
        with pytest.raises(ExpertUnavailable, match="shutting down"):
            await take(pool, "a")


async def test_stopping_does_not_wait_for_ever_for_a_lease() -> None:
    engine = FakeEngine("slot")
    async with running(engine) as pool, pool.lease("r", "a"):
        await pool.stop(drain_s=0.01)
        assert engine.stats().state == "stopped"


async def test_stopping_gives_up_a_load_that_is_under_way() -> None:
    engine = FakeEngine("slot")
    engine.script.hold("ensure_ready")
    async with running(engine) as pool:
        waiting = asyncio.create_task(take(pool, "a"))
        await until(lambda: engine.called("ensure_ready"))
        await pool.stop()
        assert isinstance((await settled(waiting))[0], ExpertUnavailable)


async def test_a_new_host_is_started_and_a_removed_one_stopped_once_it_is_empty() -> None:
    old, new = FakeEngine("slot"), FakeEngine("next")
    async with running(old) as pool:
        release = asyncio.Event()
        holder = asyncio.create_task(take(pool, "a", release))
        await until(lambda: pool.snapshot().running)
        plan = PoolPlan((HostPlan("next"),), (ExpertPlan("z", ("next",)),))
        await pool.reconfigure(plan, {"next": new})
        assert await take(pool, "z") == "cold"
        assert old.called("stop") == []
        release.set()
        await holder
        await until(lambda: old.stats().state == "stopped")


async def test_an_engine_that_stays_adopts_its_experts_before_a_new_one_is_loaded() -> None:
    engine = FakeEngine("slot")
    async with running(engine) as pool:
        plan = PoolPlan((HostPlan("slot"),), (ExpertPlan("z", ("slot",)),))
        await pool.reconfigure(plan, {}, {"slot": [Expert(id="z", host="slot", model="z")]})
        assert engine.adopted == ("z",)
        assert await take(pool, "z") == "cold"
        with pytest.raises(ExpertUnavailable, match="not in the pool"):
            await take(pool, "a")
    assert [call.method for call in engine.calls if call.method in ("set_experts", "ensure_ready")] == [
        "set_experts",
        "ensure_ready",
    ]


async def test_a_plan_with_a_host_that_has_no_engine_is_refused() -> None:
    async with running(FakeEngine("slot")) as pool:
        with pytest.raises(ValueError, match="no engine"):
            await pool.reconfigure(PoolPlan((HostPlan("next"),), ()), {})


async def test_the_forecast_is_zero_when_the_expert_is_free() -> None:
    async with running(FakeEngine("slot")) as pool:
        await take(pool, "a")
        assert pool.forecast("a") == 0.0
        assert pool.forecast("nobody") == math.inf


@pytest.mark.parametrize("seed", range(3))
async def test_many_callers_with_failures_and_cancellations_all_end(seed: int) -> None:
    engine = FakeEngine("slot")
    engine.script.fail("ensure_ready", *["flaky" if (i * 7 + seed) % 5 == 0 else None for i in range(60)])
    async with running(engine) as pool:
        tasks = [asyncio.create_task(take(pool, "abc"[(i * 5 + seed) % 3])) for i in range(60)]
        for i, task in enumerate(tasks):
            if i % 7 == seed:
                await asyncio.sleep(0)
                task.cancel()
        ends = await settled(*tasks)
        assert all(isinstance(e, str | asyncio.CancelledError | ExpertUnavailable) for e in ends)
        assert (pool.snapshot().queued, pool.snapshot().running) == (0, 0)


def registry(**overrides: object) -> Registry:
    pool = {
        "hosts": [
            {"id": "slot", "swap": "in_place", "max_running": 8},
            {"id": "gpu", "swap": "sleep", "memory_gb": 80, "sleep_level": 2},
            {"id": "lora", "kind": "adapter", "base": "base", "max_adapters": 3, "max_running": 6},
            {"id": "api", "kind": "remote", "url": "http://localhost:1/v1"},
        ]
    }
    experts = [
        {"id": "a", "host": "slot", "model": "m", "load_s": 0.8},
        {"id": "b", "host": "gpu", "model": "m", "memory_gb": 13.5, "max_running": 4},
        {"id": "c", "host": "lora", "model": "m"},
        {"id": "d", "host": "api", "model": "m"},
    ]
    return Registry.model_validate({"pool": pool, "experts": experts, **overrides})


def test_the_plan_follows_from_the_registry() -> None:
    plan = build_plan(registry())
    assert plan.hosts == (
        HostPlan("slot", max_running=8, reads_ahead=True, hardware="in place, gpu"),
        HostPlan("gpu", capacity=80.0, sleeps=True, sleep_level=2, reads_ahead=True, hardware="asleep, gpu"),
        HostPlan("lora", capacity=3.0, max_running=6, hardware="adapters, gpu"),
        HostPlan("api", capacity=math.inf, max_running=64, always_awake=True),
    )
    assert plan.experts == (
        ExpertPlan("a", ("slot",), footprint=1.0, max_running=8, load_s=0.8, content="m"),
        ExpertPlan("b", ("gpu",), footprint=13.5, max_running=4, weights_gb=13.5, content="m"),
        ExpertPlan("c", ("lora",), footprint=1.0, max_running=6, content="m"),
        ExpertPlan("d", ("api",), footprint=0.0, max_running=64, content="m"),
    )


async def test_the_fake_engine_answers_in_the_shape_of_openai() -> None:
    engine = FakeEngine("fake")
    await engine.start()
    await engine.ensure_ready("a")
    whole = await engine.ask("a", EngineCall("chat/completions", {"n": 2}))
    [body] = [chunk async for chunk in whole.chunks()]
    answer = json.loads(body)
    assert [c["message"]["content"] for c in answer["choices"]] == ["The answer of a."] * 2
    call = EngineCall("completions", {"stream": True, "stream_options": {"include_usage": True}})
    events = [chunk async for chunk in (await engine.ask("a", call)).chunks()]
    assert events[-1] == b"data: [DONE]\n\n"
    bodies = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    assert "".join(b["choices"][0]["text"] for b in bodies if b["choices"]) == "The answer of a."
    assert bodies[-1]["usage"]["completion_tokens"] == 4
