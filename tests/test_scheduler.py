"""Scenarios of the scheduler, one rule each. ``World`` carries the actions out on paper."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from coe.errors import ConfigError
from coe.pool.events import (
    Arrived,
    Cancelled,
    Evict,
    Failed,
    Finished,
    Grant,
    Load,
    Ready,
    Reject,
    Sleep,
    Slept,
    Tick,
    Wake,
)
from coe.pool.plan import CLASSES as DEFAULT_CLASSES
from coe.pool.plan import ClassPlan, ExpertPlan, HostPlan, PoolPlan
from coe.pool.policies import Coe, HostView, Swap, make_policy
from coe.registry.models import Pool, VllmHost
from coe.testing.scheduling import World

AGEING_S = 10.0
CLASSES = {**DEFAULT_CLASSES, "standard": ClassPlan(slo_s=20.0, ageing_s=AGEING_S)}


def slot_world(*experts: str, batch: int = 2, **plan: Any) -> World:
    """Experts that take turns in one slot. Frames are a batch, residency half a second."""
    seats = tuple(ExpertPlan(e, ("slot",), max_running=batch) for e in experts or ("a", "b", "c"))
    pool = PoolPlan((HostPlan("slot", max_running=batch),), seats, classes=CLASSES)
    return World(replace(pool, **plan), Coe(min_residency_s=0.5, max_frame=1))


def gpu_world(**footprints: float) -> World:
    experts = tuple(
        ExpertPlan(e, ("gpu",), size, max_running=2, load_s=30, wake_s=2) for e, size in footprints.items()
    )
    host = HostPlan("gpu", capacity=24.0, sleeps=True, sleep_level=2)
    return World(PoolPlan((host,), experts, classes=CLASSES), Coe(min_residency_s=0.5))


def bring_in(world: World, expert: str) -> None:
    """Make ``expert`` awake and idle, long enough for it to be evictable."""
    world.arrive(f"first-{expert}", expert)
    world.ready(expert)
    world.finish(f"first-{expert}")
    world.wait(5.0)


# Loading and granting


def test_the_first_request_loads_its_expert_and_is_granted_when_that_is_ready() -> None:
    world = slot_world()
    assert world.arrive("r", "a") == [Load("a", "slot")]
    world.wait(0.8)
    assert world.ready("a") == [Grant("r", "a", "slot", queued_s=0.8, swap_s=0.8, wake_from="cold")]


def test_a_request_for_an_awake_expert_is_granted_at_once() -> None:
    world = slot_world()
    bring_in(world, "a")
    assert world.arrive("r", "a") == [Grant("r", "a", "slot")]


def test_swap_time_is_only_the_part_of_the_wait_in_which_the_expert_was_loading() -> None:
    world = slot_world()
    world.arrive("early", "a")
    world.wait(0.6)
    world.arrive("late", "a")
    world.wait(0.4)
    early, late = world.ready("a")
    assert isinstance(early, Grant)
    assert isinstance(late, Grant)
    assert early.swap_s == pytest.approx(1.0)
    assert late.swap_s == pytest.approx(0.4)


def test_waiting_for_batch_room_of_an_awake_expert_is_no_swap() -> None:
    world = slot_world(batch=1)
    bring_in(world, "a")
    world.arrive("one", "a")
    world.arrive("two", "a")
    world.wait(3.0)
    assert world.finish("one") == [Grant("two", "a", "slot", queued_s=3.0)]


def test_leases_never_exceed_the_batch_capacity() -> None:
    world = slot_world(batch=2)
    bring_in(world, "a")
    for request in ("r1", "r2", "r3"):
        world.arrive(request, "a")
    assert list(world.leases) == ["r1", "r2"]
    world.finish("r1")
    assert list(world.leases) == ["r2", "r3"]


def test_requests_of_one_expert_are_granted_in_the_order_of_arrival() -> None:
    world = slot_world(batch=1)
    for request in ("r1", "r2", "r3"):
        world.arrive(request, "a")
    world.ready("a")
    world.settle()
    assert world.granted("a") == ["r1", "r2", "r3"]


# Swapping


def test_requests_are_collated_by_expert_so_that_alternating_arrivals_cost_one_swap_each() -> None:
    world = slot_world("a", "b", batch=4)
    for i in range(8):
        world.arrive(f"r{i}", "ab"[i % 2])
    world.settle()
    assert world.scheduler.snapshot().swaps == 2


def test_a_swap_waits_until_the_leases_of_the_resident_are_back() -> None:
    world = slot_world()
    world.arrive("running", "a")
    world.ready("a")
    world.wait(3.0)
    assert world.arrive("waiting", "b") == []
    assert world.finish("running") == [Evict("a", "slot")]
    assert world.slept("a") == [Load("b", "slot")]
    assert [type(action) for action in world.ready("b")] == [Grant]


def test_a_draining_expert_takes_no_new_requests() -> None:
    world = slot_world()
    world.arrive("running", "a")
    world.ready("a")
    world.arrive("waiting", "b")
    world.wait(AGEING_S)
    assert world.arrive("too late", "a") == []
    world.finish("running")
    assert "too late" in world.waiting


def test_an_expert_just_loaded_serves_its_requests_before_it_may_be_closed() -> None:
    world = slot_world(batch=1)
    world.arrive("b1", "b")
    world.arrive("a1", "a")
    world.wait(AGEING_S + 5.0)
    assert [type(action) for action in world.ready("b")] == [Grant]
    assert world.granted("b") == ["b1"]


def test_a_frame_is_at_most_one_batch_so_that_a_long_queue_cannot_hold_the_slot() -> None:
    world = slot_world(batch=2)
    world.arrive("b1", "b")
    for i in range(6):
        world.wait(0.1)
        world.arrive(f"a{i}", "a")
    world.ready("b")
    world.wait(AGEING_S)
    world.finish("b1")
    world.slept("b")
    world.arrive("b2", "b")
    world.ready("a")
    world.wait(AGEING_S + 5.0)
    # a0 and a1 were the frame; the others are older than b2 and therefore still go first.
    for request in ("a0", "a1", "a2", "a3", "a4", "a5"):
        world.finish(request)
    assert world.slept("a") == [Load("b", "slot")]


def test_a_frame_ends_early_when_its_last_requests_are_cancelled() -> None:
    host = HostPlan("lora", capacity=1.0, max_running=1)
    experts = tuple(ExpertPlan(e, ("lora",), max_running=2) for e in ("a", "b"))
    world = World(PoolPlan((host,), experts))
    for request, expert in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        world.arrive(request, expert)
    world.ready("a")
    world.wait(5.0)
    world.cancel("a2")
    assert world.finish("a1") == [Evict("a", "lora")]


def test_an_expert_is_not_swapped_out_before_its_minimum_residency() -> None:
    world = slot_world()
    world.arrive("r", "a")
    world.ready("a")
    world.finish("r")
    assert world.arrive("next", "b") == []
    assert world.scheduler.next_tick() == 0.5
    assert world.wait(0.5) == [Evict("a", "slot")]


def test_a_working_expert_takes_newcomers_until_somebody_else_is_overdue() -> None:
    world = slot_world()
    world.arrive("r", "a")
    world.ready("a")
    world.arrive("next", "b")
    world.wait(AGEING_S - 0.1)
    assert world.arrive("more", "a") == [Grant("more", "a", "slot")]
    world.finish("more")
    world.wait(0.2)
    assert world.arrive("too late", "a") == []


def test_an_idle_expert_stays_until_its_room_is_needed() -> None:
    world = slot_world()
    bring_in(world, "a")
    assert world.wait(10_000.0) == []
    assert world.place("a", "slot") == "awake"
    assert world.scheduler.next_tick() == math.inf


def test_the_least_recently_used_idle_expert_makes_room() -> None:
    world = gpu_world(a=8.0, b=8.0, c=8.0, d=8.0)
    for expert in ("a", "b", "c"):
        bring_in(world, expert)
    world.arrive("a again", "a")
    world.finish("a again")
    assert world.arrive("new", "d") == [Sleep("b", "gpu", level=2)]


def test_an_idle_expert_makes_room_before_one_that_works() -> None:
    world = gpu_world(a=12.0, b=12.0, c=12.0)
    bring_in(world, "a")
    bring_in(world, "b")
    world.arrive("working", "a")
    world.wait(60.0)
    world.arrive("used later", "b")
    world.finish("used later")
    assert world.arrive("new", "c") == [Sleep("b", "gpu", level=2)]


def test_no_more_experts_are_put_away_than_the_room_requires() -> None:
    world = gpu_world(a=4.0, b=4.0, c=12.0, d=14.0)
    for expert in ("a", "b", "c"):
        bring_in(world, expert)
    assert world.arrive("new", "d") == [Sleep("c", "gpu", level=2)]


def test_a_sleeping_expert_is_woken_and_the_receipt_says_so() -> None:
    world = gpu_world(a=24.0, b=24.0)
    bring_in(world, "a")
    bring_in_b = world.arrive("b1", "b")
    assert bring_in_b == [Sleep("a", "gpu", level=2)]
    world.slept("a")
    world.ready("b")
    world.finish("b1")
    world.wait(60.0)
    world.arrive("a2", "a")
    assert world.slept("b") == [Wake("a", "gpu")]
    world.wait(2.0)
    assert world.ready("a") == [Grant("a2", "a", "gpu", queued_s=2.0, swap_s=2.0, wake_from="sleeping")]


def test_experts_that_fit_together_are_loaded_together() -> None:
    world = gpu_world(a=12.0, b=12.0)
    assert world.arrive("r1", "a") == [Load("a", "gpu")]
    assert world.arrive("r2", "b") == [Load("b", "gpu")]


def test_two_slots_with_the_same_experts_serve_two_experts_at_once() -> None:
    hosts = (HostPlan("left", max_running=1), HostPlan("right", max_running=1))
    experts = tuple(ExpertPlan(e, ("left", "right"), max_running=1) for e in ("a", "b"))
    world = World(PoolPlan(hosts, experts))
    assert world.arrive("r1", "a") == [Load("a", "left")]
    assert world.arrive("r2", "b") == [Load("b", "right")]


def test_a_second_slot_takes_an_expert_whose_queue_exceeds_a_batch() -> None:
    hosts = (HostPlan("left", max_running=1), HostPlan("right", max_running=1))
    world = World(PoolPlan(hosts, (ExpertPlan("a", ("left", "right"), max_running=1),)))
    assert world.arrive("r1", "a") == [Load("a", "left")]
    assert world.arrive("r2", "a") == [Load("a", "right")]


# Ageing


def test_an_overdue_request_closes_an_expert_that_still_has_a_queue() -> None:
    world = slot_world(batch=1)
    world = World(world.plan, Coe(max_frame=1, cut_runs=1_000.0))
    world.arrive("a0", "a")
    world.ready("a")
    world.arrive("queued", "a")
    world.arrive("b0", "b")
    for i in range(1, 40):
        world.wait(1.0)
        world.arrive(f"a{i}", "a")
        world.finish(next(iter(world.leases)))
        if world.seats("going"):
            break
    assert AGEING_S <= world.now <= AGEING_S + 1.0
    assert world.slept("a") == [Load("b", "slot")]


def test_the_longest_waiting_of_several_overdue_requests_goes_first() -> None:
    world = slot_world("a", "b", "c", batch=1)
    world.arrive("a0", "a")
    world.ready("a")
    world.arrive("b0", "b")
    world.wait(0.2)
    for i in range(3):
        world.arrive(f"c{i}", "c")
    world.wait(AGEING_S + 1.0)
    world.finish("a0")
    assert world.slept("a") == [Load("b", "slot")]


@pytest.mark.parametrize(("waited_s", "next_one"), [(0.1, "c"), (18.0, "b")])
def test_the_expert_whose_delay_would_lose_most_is_next(waited_s: float, next_one: str) -> None:
    """Nobody is in danger: the longer queue. One would soon be late: that one."""
    seats = tuple(ExpertPlan(expert, ("slot",), max_running=4) for expert in "abc")
    world = World(PoolPlan((HostPlan("slot", max_running=4),), seats, classes=DEFAULT_CLASSES), Coe())
    world.arrive("a0", "a")
    world.wait(1.0)
    world.ready("a")
    world.arrive("b0", "b")
    world.wait(waited_s)
    for i in range(3):
        world.arrive(f"c{i}", "c")
    world.wait(0.1)
    world.finish("a0")
    assert world.slept("a") == [Load(next_one, "slot")]


# Ends of a request


def test_a_request_that_is_cancelled_while_it_waits_is_never_granted() -> None:
    world = slot_world()
    world.arrive("gone", "a")
    world.arrive("stays", "a")
    world.cancel("gone")
    world.ready("a")
    assert world.granted("a") == ["stays"]


def test_cancelling_a_lease_gives_its_place_to_the_next() -> None:
    world = slot_world(batch=1)
    bring_in(world, "a")
    world.arrive("gone", "a")
    world.arrive("next", "a")
    assert [type(a) for a in world.cancel("gone")] == [Grant]


def test_cancelling_the_only_reason_for_a_swap_lets_the_resident_stay() -> None:
    world = slot_world()
    bring_in(world, "a")
    world.arrive("running", "a")
    world.arrive("gone", "b")
    world.wait(AGEING_S)
    world.arrive("waits for a", "a")
    assert [type(a) for a in world.cancel("gone")] == [Grant]
    assert world.finish("running") == []


def test_cancelling_while_the_expert_loads_leaves_it_loaded_and_idle() -> None:
    world = slot_world()
    world.arrive("gone", "a")
    world.cancel("gone")
    assert world.ready("a") == []
    assert world.place("a", "slot") == "awake"


def test_a_request_over_the_queue_limit_is_rejected() -> None:
    world = slot_world(max_queue=2)
    world.arrive("r1", "a")
    world.arrive("r2", "b")
    [reject] = world.arrive("r3", "c")
    assert isinstance(reject, Reject)
    assert reject.code == "queue_full"


def test_a_request_that_need_not_wait_is_granted_though_the_queue_is_full() -> None:
    world = slot_world(max_queue=1, batch=3)
    world.arrive("running", "a")
    world.ready("a")
    world.arrive("waits", "b")
    assert [type(a) for a in world.arrive("at once", "a")] == [Grant]


def test_an_unknown_expert_is_rejected() -> None:
    [reject] = slot_world().arrive("r", "nobody")
    assert isinstance(reject, Reject)
    assert reject.code == "expert_unavailable"


def test_a_request_cannot_arrive_twice() -> None:
    world = slot_world()
    world.arrive("r", "a")
    with pytest.raises(ValueError, match="already in the pool"):
        world.scheduler.step(Arrived("r", "b"), 0.0)


@pytest.mark.parametrize(
    "event",
    [
        Cancelled("nobody"),
        Finished("nobody"),
        Ready("a", "slot"),
        Ready("nobody", "nowhere"),
        Slept("a", "slot"),
        Failed("a", "slot", "late", "load"),
        Failed("a", "slot", "late", "sleep"),
        Failed("a", "slot", "late", "run"),
        Tick(),
    ],
)
def test_reports_that_no_longer_fit_are_ignored(event: Ready) -> None:
    assert slot_world().send(event) == []


# Failures


def test_a_failed_load_is_tried_again_after_a_growing_pause() -> None:
    world = slot_world(retry_s=1.0, max_failures=4)
    world.arrive("r", "a")
    pauses = []
    for _ in range(3):
        world.fail_load("a")
        pauses.append(world.scheduler.next_tick() - world.now)
        assert world.wait(pauses[-1]) == [Load("a", "slot")]
    assert pauses == [1.0, 2.0, 4.0]


def test_other_experts_go_on_while_one_waits_to_be_tried_again() -> None:
    world = slot_world()
    world.arrive("r", "a")
    world.arrive("other", "b")
    assert world.fail_load("a") == [Load("b", "slot")]


def test_after_three_failed_loads_those_who_wait_are_rejected_and_the_rest_goes_on() -> None:
    world = slot_world()
    world.arrive("r1", "a")
    world.arrive("r2", "a")
    for _ in range(2):
        world.fail_load("a")
        world.wait(60.0)
    world.arrive("other", "b")
    actions = world.fail_load("a")
    rejects = [action for action in actions if isinstance(action, Reject)]
    assert [(r.request, r.code) for r in rejects] == [
        ("r1", "expert_unavailable"),
        ("r2", "expert_unavailable"),
    ]
    assert Load("b", "slot") in actions


def quarantined_world() -> World:
    world = slot_world(quarantine_s=30.0)
    world.arrive("r", "a")
    for _ in range(2):
        world.fail_load("a")
        world.wait(10.0)
    world.fail_load("a")
    return world


def test_a_quarantined_expert_is_refused_at_once() -> None:
    world = quarantined_world()
    world.wait(29.0)
    assert [type(a) for a in world.arrive("too soon", "a")] == [Reject]
    assert world.scheduler.forecast("a", world.now) == math.inf


def test_after_the_quarantine_a_request_tries_again_and_success_clears_the_record() -> None:
    world = quarantined_world()
    world.wait(30.0)
    assert world.arrive("again", "a") == [Load("a", "slot")]
    world.ready("a")
    world.finish("again")
    expert = world.scheduler.snapshot().expert("a")
    assert expert is not None
    assert expert.replicas[0].failures == 0


def test_one_more_failure_after_the_quarantine_quarantines_again() -> None:
    world = quarantined_world()
    world.wait(30.0)
    world.arrive("again", "a")
    assert [type(a) for a in world.fail_load("a")] == [Reject]


def test_an_expert_that_fails_on_one_host_is_served_by_another() -> None:
    hosts = (HostPlan("left"), HostPlan("right"))
    world = World(PoolPlan(hosts, (ExpertPlan("a", ("left", "right")),)))
    world.arrive("r", "a")
    assert world.fail_load("a", "left") == [Load("a", "right")]


def test_an_expert_in_quarantine_on_one_host_is_not_refused_while_another_may_serve_it() -> None:
    world = World(PoolPlan((HostPlan("left"), HostPlan("right")), (ExpertPlan("a", ("left", "right")),)))
    world.arrive("r", "a")
    for host in ("left", "right", "left", "right", "left"):
        world.fail_load("a", host)
        world.wait(3.0)
    assert world.waiting == {"r": "a"}
    assert world.place("a", "right") == "loading"
    assert Reject in [type(action) for action in world.fail_load("a", "right")]


def test_a_lost_expert_is_loaded_again_when_its_leases_are_back() -> None:
    world = slot_world(retry_s=1.0)
    world.arrive("running", "a")
    world.ready("a")
    world.lose("a")
    world.arrive("waits", "a")
    world.wait(5.0)
    assert world.place("a", "slot") == "lost"
    assert world.finish("running", ok=False) == [Load("a", "slot")]


def test_a_failed_sleep_is_tried_again_as_an_eviction() -> None:
    world = gpu_world(a=24.0, b=24.0)
    bring_in(world, "a")
    world.arrive("r", "b")
    world.fail_sleep("a")
    assert world.wait(1.0) == [Evict("a", "gpu")]
    assert world.slept("a") == [Load("b", "gpu")]


def test_sleeps_that_keep_failing_do_not_hold_up_the_host_for_ever() -> None:
    world = slot_world()
    bring_in(world, "a")
    world.arrive("r", "b")
    world.fail_sleep("a")
    world.wait(10.0)
    world.fail_sleep("a")
    world.wait(10.0)
    assert world.fail_sleep("a") == [Load("b", "slot")]


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
    with pytest.raises(ConfigError, match="no policy 'cow'") as caught:
        make_policy(Pool(hosts=(VllmHost(id="slot"),), policy="cow"))
    assert caught.value.hint.startswith('did you mean "coe"?')


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
