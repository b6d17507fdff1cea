"""Scenarios of the scheduler, one rule each: loads, grants and swaps. ``World`` carries the actions out."""

from __future__ import annotations

import math

import pytest

from coe.scheduler.events import (
    Evict,
    Grant,
    Load,
    Prefetch,
    Sleep,
    Wake,
)
from coe.scheduler.plan import CLASSES as DEFAULT_CLASSES
from coe.scheduler.plan import ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.policies import Coe
from coe.testing.scheduling import Seat, World
from tests.support.scheduling_worlds import AGEING_S, bring_in, gpu_world, slot_world

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


# Reading ahead


def reading_world() -> World:
    """a is awake and works, and the weights of b, whose request waits, are being read."""
    host = HostPlan("slot", max_running=1, ram_gb=5.0, reads_ahead=True)
    experts = tuple(ExpertPlan(expert, ("slot",), max_running=1, weights_gb=2.0) for expert in "ab")
    world = World(PoolPlan((host,), experts, classes=DEFAULT_CLASSES), Coe())
    world.arrive("a0", "a")
    world.ready("a")
    assert Prefetch("b", "slot") in world.arrive("b0", "b")
    return world


def test_the_receipt_says_that_the_weights_were_read_ahead() -> None:
    world = reading_world()
    world.end_prefetch(Seat("b", "slot"))
    world.finish("a0")
    world.slept("a")
    world.wait(0.5)
    (grant,) = world.ready("b")
    assert isinstance(grant, Grant)
    assert grant.wake_from == "ram"


@pytest.mark.parametrize("fails", [False, True])
def test_weights_are_not_read_again_before_the_former_read_has_been_answered(fails: bool) -> None:
    """b is loaded, serves and leaves while its first read still runs: the answer is not the second one's."""
    world = reading_world()
    world.finish("a0")
    world.slept("a")
    world.wait(0.5)
    assert [a.wake_from for a in world.ready("b") if isinstance(a, Grant)] == ["cold"]
    world.arrive("a1", "a")
    world.end_prefetch(Seat("a", "slot"))
    world.finish("b0")
    world.slept("b")
    world.ready("a")
    assert Prefetch("b", "slot") not in world.arrive("b1", "b")
    assert world.end_prefetch(Seat("b", "slot"), fails) == [Prefetch("b", "slot")]
    world.settle()


def test_a_read_that_failed_is_not_tried_again_before_the_expert_was_loaded() -> None:
    world = reading_world()
    assert world.end_prefetch(Seat("b", "slot"), fails=True) == []
    assert world.arrive("b1", "b") == []
    world.settle()
