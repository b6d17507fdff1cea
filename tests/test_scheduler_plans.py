"""Hosts that hold everything, plans that change while requests wait, forecasts, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from coe.core.errors import ConfigError
from coe.registry.hosts import VllmHost
from coe.registry.schema import Pool
from coe.scheduler.events import (
    Evict,
    Grant,
    Load,
    Reject,
)
from coe.scheduler.plan import ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.policies import Coe, HostView, Swap
from coe.simulate.baselines import make_policy
from coe.testing.scheduling import World
from tests.support.scheduling_worlds import bring_in, gpu_world, slot_world

# Hosts that load nothing


def remote_world() -> World:
    host = HostPlan("api", capacity=math.inf, max_running=2, always_awake=True)
    experts = tuple(ExpertPlan(e, ("api",), footprint=0.0, max_running=2) for e in ("x", "y"))
    return World(PoolPlan((host,), experts))


def test_a_remote_expert_is_granted_without_a_load() -> None:
    assert remote_world().arrive("r", "x") == [Grant("r", "x", "api")]


def test_the_bound_of_a_remote_host_holds_over_all_its_experts() -> None:
    world = remote_world()
    world.arrive("r1", "x")
    world.arrive("r2", "y")
    assert world.arrive("r3", "x") == []
    assert [type(a) for a in world.finish("r2")] == [Grant]


# Another plan at run time


def without(world: World, *experts: str) -> PoolPlan:
    return replace(world.plan, experts=tuple(e for e in world.plan.experts if e.id not in experts))


def test_a_removed_expert_serves_its_queue_and_then_leaves() -> None:
    world = slot_world(batch=1)
    bring_in(world, "a")
    world.arrive("running", "a")
    world.arrive("queued", "a")
    world.reconfigure(without(world, "a"))
    assert [type(a) for a in world.arrive("new", "a")] == [Reject]
    assert [type(a) for a in world.finish("running")] == [Grant]
    assert world.finish("queued") == [Evict("a", "slot")]
    world.slept("a")
    assert world.scheduler.snapshot().expert("a") is None


def test_a_removed_expert_that_is_cold_and_idle_is_gone_at_once() -> None:
    world = slot_world()
    assert world.reconfigure(without(world, "a")) == []
    assert world.scheduler.snapshot().expert("a") is None


def test_a_removed_expert_that_sleeps_is_evicted() -> None:
    world = gpu_world(a=24.0, b=24.0)
    bring_in(world, "a")
    world.arrive("r", "b")
    world.slept("a")
    assert world.reconfigure(without(world, "a")) == [Evict("a", "gpu")]


def test_an_added_expert_can_be_asked() -> None:
    world = slot_world("a")
    world.reconfigure(replace(world.plan, experts=(*world.plan.experts, ExpertPlan("new", ("slot",)))))
    assert world.arrive("r", "new") == [Load("new", "slot")]


def test_an_expert_that_comes_back_while_it_leaves_is_served_again() -> None:
    world = slot_world()
    plan = world.plan
    bring_in(world, "a")
    world.arrive("running", "a")
    world.reconfigure(without(world, "a"))
    world.reconfigure(plan)
    world.arrive("again", "a")
    world.settle()
    assert "again" in world.granted("a")


def test_an_expert_with_another_content_finishes_its_work_and_is_loaded_anew() -> None:
    world = slot_world(batch=2)
    bring_in(world, "a")
    world.arrive("running", "a")
    assert world.reconfigure(renewed(world, "a")) == []
    assert world.arrive("next", "a") == []
    assert world.finish("running") == [Evict("a", "slot")]
    assert world.slept("a") == [Load("a", "slot")]
    world.ready("a")
    assert world.granted("a")[-1] == "next"


def test_a_former_content_that_sleeps_is_evicted_and_not_woken() -> None:
    world = gpu_world(a=24.0, b=24.0)
    bring_in(world, "a")
    world.arrive("r", "b")
    world.slept("a")
    assert world.reconfigure(renewed(world, "a")) == [Evict("a", "gpu")]
    world.slept("a")
    assert world.scheduler.snapshot().expert("a") is not None


def renewed(world: World, expert: str) -> PoolPlan:
    experts = tuple(replace(e, content="new") if e.id == expert else e for e in world.plan.experts)
    return replace(world.plan, experts=experts)


def test_an_expert_that_moves_is_served_on_its_new_host() -> None:
    hosts = (HostPlan("left"), HostPlan("right"))
    plan = PoolPlan(hosts, (ExpertPlan("a", ("left",)),))
    world = World(plan)
    bring_in(world, "a")
    assert world.reconfigure(replace(plan, experts=(ExpertPlan("a", ("right",)),))) == [Evict("a", "left")]
    assert world.arrive("r", "a") == [Load("a", "right")]


@pytest.mark.parametrize("waiting", [1, 2, 5])
def test_an_expert_moved_while_it_is_being_loaded_is_loaded_at_its_new_host_at_once(waiting: int) -> None:
    plan = PoolPlan((HostPlan("left"), HostPlan("right")), (ExpertPlan("a", ("left",), max_running=8),))
    world = World(plan)
    for number in range(waiting):
        world.arrive(f"r{number}", "a")
    moved = replace(plan, experts=(ExpertPlan("a", ("right",), max_running=8),))
    assert world.reconfigure(moved) == [Load("a", "right")]
    world.ready("a", "right")
    assert len(world.granted("a")) == waiting
    assert world.ready("a", "left") == [Evict("a", "left")]


def test_a_removed_host_is_in_use_until_its_last_expert_has_left() -> None:
    hosts = (HostPlan("left"), HostPlan("right"))
    plan = PoolPlan(hosts, (ExpertPlan("a", ("left",)), ExpertPlan("b", ("right",))))
    world = World(plan)
    bring_in(world, "a")
    world.reconfigure(PoolPlan(hosts[1:], plan.experts[1:]))
    assert world.scheduler.hosts() == ("left", "right")
    world.slept("a")
    assert world.scheduler.hosts() == ("right",)


def test_a_host_cannot_become_one_of_another_kind() -> None:
    world = slot_world()
    host = replace(world.plan.hosts[0], always_awake=True)
    with pytest.raises(ConfigError, match="cannot change its kind"):
        world.scheduler.reconfigure(replace(world.plan, hosts=(host,)), 0.0)


# Forecast and plan


def test_the_forecast_of_an_awake_and_free_expert_is_zero() -> None:
    world = slot_world()
    bring_in(world, "a")
    assert world.scheduler.forecast("a", world.now) == 0.0


def test_the_forecast_follows_the_loads_and_runs_that_were_seen() -> None:
    world = slot_world()
    world.arrive("r", "a")
    world.wait(7.0)
    world.ready("a")
    world.wait(3.0)
    world.finish("r")
    bring_in_b = world.arrive("b", "b")
    assert bring_in_b == [Evict("a", "slot")]
    world.slept("a")
    world.ready("b")
    world.finish("b")
    assert world.scheduler.forecast("a", world.now) == pytest.approx(7.0)


@pytest.mark.parametrize("first", ["left", "right"])
def test_the_forecast_is_that_of_the_best_host(first: str) -> None:
    hosts = (HostPlan("left", max_running=1), HostPlan("right", max_running=1))
    experts = tuple(ExpertPlan(e, ("left", "right"), max_running=1, load_s=9.0) for e in "ab")
    world = World(PoolPlan(tuple(sorted(hosts, key=lambda h: h.id != first)), experts))
    world.arrive("r", "a")
    world.ready("a")
    world.finish("r")
    assert world.scheduler.forecast("a", world.now) == 0.0
    assert world.scheduler.forecast("b", world.now) == pytest.approx(9.0)


def test_the_forecast_counts_older_work_of_other_experts() -> None:
    world = slot_world()
    world.arrive("b", "b")
    before = world.scheduler.forecast("a", world.now)
    for i in range(6):
        world.arrive(f"c{i}", "c")
    world.arrive("a", "a")
    assert world.scheduler.forecast("a", world.now) > before > 0.0


def test_the_forecast_while_loading_shrinks_with_time() -> None:
    world = slot_world()
    world.arrive("r", "a")
    first = world.scheduler.forecast("a", 0.0)
    assert world.scheduler.forecast("a", 0.4) == pytest.approx(first - 0.4)


def test_an_expert_that_can_never_fit_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="needs 30 but host 'gpu' has 24") as caught:
        gpu_world(a=30.0)
    assert caught.value.hint


def test_an_unknown_policy_lists_or_suggests_the_right_name() -> None:
    with pytest.raises(ConfigError, match='unknown policy kind "cow"; did you mean "coe"'):
        make_policy(Pool(hosts=(VllmHost(id="slot"),), policy="cow"))


class Greedy(Coe):
    """Wants what is not possible."""

    def swap(self, view: HostView) -> Swap | None:
        return Swap("b") if view.residents else super().swap(view)


def test_a_policy_that_asks_for_the_impossible_is_stopped() -> None:
    plan = slot_world().plan
    world = World(plan, Greedy())
    world.arrive("r", "a")
    with pytest.raises(ValueError, match="cannot be loaded now"):
        world.ready("a")
