"""Requests that end otherwise than by an answer: cancelled, rejected, or hit by a failure."""

from __future__ import annotations

import math

import pytest

from coe.scheduler.events import (
    Arrived,
    Cancelled,
    Evict,
    Failed,
    Finished,
    Grant,
    Load,
    Ready,
    Reject,
    Slept,
    Tick,
)
from coe.scheduler.plan import ExpertPlan, HostPlan, PoolPlan
from coe.testing.scheduling import World
from tests.support.scheduling_worlds import AGEING_S, bring_in, gpu_world, slot_world

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


@pytest.mark.parametrize(("end", "failures"), [("answered", 0), ("failed", 1), ("cancelled", 1)])
def test_only_an_answer_clears_the_record(end: str, failures: int) -> None:
    world = slot_world("a", retry_s=0.1)
    world.arrive("first", "a")
    world.fail_load("a")
    world.wait(1.0)
    world.ready("a")
    if end == "cancelled":
        world.cancel("first")
    else:
        world.finish("first", ok=end == "answered")
    snapshot = world.scheduler.snapshot().expert("a")
    assert snapshot is not None
    assert [replica.failures for replica in snapshot.replicas] == [failures]


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
