"""What goes wrong on engines, and what becomes of the requests: retried, sent elsewhere or refused with a
clear error, while the rest goes on. Scripted engines, and real processes that die or lie."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from coe.core.errors import EngineError, ExpertUnavailable
from coe.core.types import EngineCall
from coe.engines.vllm.in_place import InPlaceEngine
from coe.pool.pool import Pool
from coe.registry.hosts import VllmHost
from coe.scheduler.plan import CLASSES, ClassPlan, ExpertPlan, HostPlan, PoolPlan
from coe.testing.engines import FakeEngine
from tests.support.engine_hosts import CPU, FAKE, experts, kill_command, process_of, slot
from tests.support.pools import running_pool, settled, take
from tests.support.tiny_models import TinyFamily
from tests.support.waiting import until

CALL = EngineCall("completions", {"prompt": "Once", "max_tokens": 5})
PLAN = PoolPlan(
    (HostPlan("slot", max_running=2),),
    tuple(ExpertPlan(e, ("slot",), max_running=2) for e in "abc"),
    retry_s=0.001,
    quarantine_s=60.0,
)


def running(
    engine: FakeEngine, plan: PoolPlan = PLAN, load_timeout_s: float = 5.0
) -> AbstractAsyncContextManager[Pool]:
    return running_pool(plan, {engine.id: engine}, load_timeout_s)


def state(pool: Pool, expert: str) -> str:
    found = pool.snapshot().expert(expert)
    assert found is not None
    return found.shown


async def hold_and_lose(pool: Pool, expert: str, crashed: asyncio.Event) -> None:
    """A caller whose engine's process dies under it."""
    async with pool.lease("holder", expert):
        await crashed.wait()
        raise EngineError("connection closed")


async def test_a_failed_load_is_tried_again() -> None:
    engine = FakeEngine("slot")
    engine.script.fail("ensure_ready", "out of luck", None)
    async with running(engine) as pool:
        assert await take(pool, "a") == "cold"
        assert engine.called("ensure_ready") == ["a", "a"]


async def test_a_process_that_dies_while_it_loads_is_started_again_for_the_next_attempt() -> None:
    engine = FakeEngine("slot")
    engine.script.die("ensure_ready", "killed: out of memory", "killed: out of memory")
    async with running(engine) as pool:
        assert await take(pool, "a") == "cold"
        assert engine.called("ensure_ready") == ["a"] * 3
        assert len(engine.called("start")) == 3


async def test_experts_that_a_dying_load_took_with_it_are_loaded_again_before_they_are_asked() -> None:
    engine = FakeEngine("loras", capacity=2)
    plan = replace(
        PLAN,
        hosts=(HostPlan("loras", capacity=2.0),),
        experts=tuple(ExpertPlan(e, ("loras",)) for e in "ab"),
    )
    async with running(engine, plan) as pool:
        await take(pool, "a")
        engine.script.die("ensure_ready", "killed: out of memory")
        assert await take(pool, "b") == "cold"
        await until(lambda: state(pool, "a") == "cold")
        assert await take(pool, "a") == "cold"
        assert engine.called("ensure_ready") == ["a", "b", "b", "a"]


@pytest.mark.parametrize(
    ("failure", "message"),
    [("bad checkpoint", "bad checkpoint"), ("The canary of a failed", "The canary of a failed")],
)
async def test_an_expert_that_cannot_be_loaded_is_refused_with_its_reason_and_others_go_on(
    failure: str, message: str
) -> None:
    engine = FakeEngine("slot")
    engine.script.fail("ensure_ready", *[failure] * 3)
    async with running(engine) as pool:
        first, second = await settled(take(pool, "a"), take(pool, "a"))
        for error in (first, second):
            assert isinstance(error, ExpertUnavailable)
            assert message in error.message
        assert engine.called("ensure_ready") == ["a"] * 3
        assert state(pool, "a") == "quarantined"
        with pytest.raises(ExpertUnavailable, match=r"could not be loaded and is tried again in \d+ s"):
            await take(pool, "a")
        assert await take(pool, "b") == "cold"


async def test_running_out_of_memory_every_time_quarantines_the_expert_and_not_its_host() -> None:
    engine = FakeEngine("slot")
    async with running(engine) as pool:
        await take(pool, "b")
        engine.script.die("ensure_ready", *["killed: out of memory"] * 3)
        with pytest.raises(ExpertUnavailable, match="out of memory"):
            await take(pool, "a")
        assert await take(pool, "b") == "cold"
        assert (state(pool, "a"), state(pool, "b")) == ("quarantined", "awake")


async def test_loads_that_take_too_long_are_given_up_and_others_go_on() -> None:
    engine = FakeEngine("slot")
    gate = engine.script.hold("ensure_ready")
    async with running(engine, load_timeout_s=0.02) as pool:
        with pytest.raises(ExpertUnavailable, match=r"not ready within 0\.02 s"):
            await take(pool, "a")
        assert engine.called("ensure_ready") == ["a"] * 3
        gate.set()
        assert await take(pool, "b") == "cold"


async def test_a_sleep_that_fails_is_tried_again_and_the_room_is_not_given_twice() -> None:
    engine = FakeEngine("slot")
    engine.script.fail("sleep", "busy", "busy", None)
    async with running(engine) as pool:
        await take(pool, "a")
        assert await take(pool, "b") == "cold"
        assert engine.called("sleep") == ["a"] * 3


async def test_a_sleep_that_never_ends_holds_up_nobody_for_ever() -> None:
    engine = FakeEngine("slot", capacity=2)  # the process does free the room, it only says nothing
    engine.script.hold("sleep")
    async with running(engine, load_timeout_s=0.02) as pool:
        await take(pool, "a")
        assert await take(pool, "b") == "cold"


async def test_a_host_that_did_not_start_is_started_again_by_the_next_load() -> None:
    engine = FakeEngine("slot")
    engine.script.fail("start", "port in use", None)
    async with running(engine) as pool:
        assert await take(pool, "a") == "cold"
        assert len(engine.called("start")) == 2


async def test_a_crash_fails_the_leases_that_are_out_and_nobody_who_waits() -> None:
    engine, crashed = FakeEngine("slot"), asyncio.Event()
    async with running(engine) as pool:
        holders = [asyncio.create_task(hold_and_lose(pool, "a", crashed)) for _ in range(2)]
        await until(lambda: pool.snapshot().running == 2)
        waiting = [asyncio.create_task(take(pool, expert)) for expert in "ab"]
        await until(lambda: pool.snapshot().queued == 2)
        engine.crash()
        crashed.set()
        assert [type(end) for end in await settled(*holders)] == [EngineError] * 2
        assert await asyncio.gather(*waiting) == ["cold", "cold"]
        assert engine.called("sleep").count("a") <= 1  # never for what the crash took


async def test_a_crash_while_it_drains_frees_the_room_without_a_sleep() -> None:
    engine, crashed = FakeEngine("slot"), asyncio.Event()
    hurried = {**CLASSES, "standard": ClassPlan(ageing_s=0.01)}  # overdue at once, so that a is closed for b
    async with running(engine, replace(PLAN, classes=hurried)) as pool:
        holder = asyncio.create_task(hold_and_lose(pool, "a", crashed))
        await until(lambda: pool.snapshot().running)
        waiting = asyncio.create_task(take(pool, "b"))
        await until(lambda: state(pool, "a") == "draining")
        engine.crash()
        crashed.set()
        assert isinstance((await settled(holder))[0], EngineError)
        assert await waiting == "cold"
        assert engine.called("sleep") == []
        assert len(engine.called("start")) == 2


async def test_a_crash_is_followed_by_the_next_request_of_the_same_expert() -> None:
    engine = FakeEngine("slot")
    async with running(engine) as pool:
        with pytest.raises(EngineError):
            async with pool.lease("r", "a"):
                engine.crash()
                raise EngineError("connection closed")
        assert await take(pool, "a") == "cold"
        assert engine.called("ensure_ready") == ["a", "a"]
        assert engine.called("sleep") == []


async def test_an_error_of_a_request_alone_leaves_the_expert_in_place() -> None:
    engine = FakeEngine("slot")
    async with running(engine) as pool:
        with pytest.raises(EngineError):
            async with pool.lease("r", "a"):
                raise EngineError("bad answer")
        assert await take(pool, "a") == "awake"


async def test_requests_of_an_expert_that_is_given_up_go_to_their_alternatives() -> None:
    bad, good = FakeEngine("slot"), FakeEngine("next")
    bad.script.fail("ensure_ready", *["bad checkpoint"] * 3)
    plan = replace(
        PLAN,
        hosts=(HostPlan("slot"), HostPlan("next")),
        experts=(ExpertPlan("a", ("slot",)), ExpertPlan("b", ("next",), load_s=90.0)),
    )
    async with running_pool(plan, {"slot": bad, "next": good}) as pool:
        up = good.script.hold("ensure_ready")  # nobody is free sooner: it waits for its own expert
        with_choice = asyncio.create_task(take(pool, "a", None, "b"))
        without = asyncio.create_task(take(pool, "a"))
        [error] = await settled(without)
        assert isinstance(error, ExpertUnavailable)
        assert not with_choice.done()
        up.set()
        assert await with_choice == "cold"
        async with pool.lease("later", "a", alternatives=("b",)) as lease:
            assert (lease.expert, lease.asked_for) == ("b", "a")


async def test_a_quarantine_ends_by_itself_and_success_forgets_it() -> None:
    engine = FakeEngine("slot")
    engine.script.fail("ensure_ready", *["bad checkpoint"] * 3)
    async with running(engine, replace(PLAN, quarantine_s=0.05)) as pool:
        with pytest.raises(ExpertUnavailable):
            await take(pool, "a")
        assert pool.forecast("a") == math.inf
        await until(lambda: math.isfinite(pool.forecast("a")))
        assert await take(pool, "a") == "cold"
        assert state(pool, "a") == "awake"


async def test_an_expert_whose_entry_names_another_checkpoint_is_tried_at_once() -> None:
    engine = FakeEngine("slot")
    engine.script.fail("ensure_ready", *["bad checkpoint"] * 3)
    async with running(engine) as pool:
        with pytest.raises(ExpertUnavailable):
            await take(pool, "a")
        repaired = tuple(replace(e, content="repaired") if e.id == "a" else e for e in PLAN.experts)
        await pool.reconfigure(replace(PLAN, experts=repaired), {})
        assert await take(pool, "a") == "cold"


async def test_a_real_process_that_runs_out_of_memory_in_a_swap_is_replaced(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    plan = replace(PLAN, experts=PLAN.experts[:2])
    engine = slot(tiny_family, tmp_path, "die_at_reload")
    async with running_pool(plan, {"slot": engine}, load_timeout_s=60.0) as pool:
        async with pool.lease("one", "a", timeout_s=60.0):
            first = process_of(engine._life)
        async with pool.lease("two", "b", timeout_s=60.0) as lease:
            assert lease.wake_from == "cold"
            assert not first.running
            second = process_of(engine._life)
        kill_command(second)
        await until(lambda: engine.stats().state == "failed")
        with pytest.raises(EngineError):
            async with pool.lease("three", "b", timeout_s=60.0) as lease:
                await lease.engine.ask("b", CALL)
        async with pool.lease("four", "b", timeout_s=60.0) as lease:
            assert lease.wake_from == "cold"


async def test_a_real_swap_whose_canary_always_fails_quarantines_that_expert_alone(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    for name in ("good", "wrong"):
        shutil.copytree(tiny_family.a if name == "good" else tiny_family.b, tmp_path / name)
    (tmp_path / "wrong" / "canary.json").write_text(json.dumps({"prompt": "x", "top_logprobs": {"1": 5.0}}))
    host = VllmHost(id="slot", start_timeout_s=60, **CPU)
    engine = InPlaceEngine(host, experts(TinyFamily(tmp_path), "good", "wrong"), tmp_path, program=FAKE)
    plan = replace(PLAN, experts=tuple(ExpertPlan(e, ("slot",)) for e in ("good", "wrong")))
    async with running_pool(plan, {"slot": engine}, load_timeout_s=60.0) as pool:
        async with pool.lease("one", "good", timeout_s=60.0):
            pass
        with pytest.raises(ExpertUnavailable, match=r"The canary of .*wrong failed"):
            async with pool.lease("two", "wrong", timeout_s=60.0):
                pass
        async with pool.lease("three", "good", timeout_s=60.0) as lease:
            assert (await lease.engine.ask("good", CALL)).status == 200
        assert state(pool, "wrong") == "quarantined"
