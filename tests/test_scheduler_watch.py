"""A stuck scheduler is noticed: never a right one, always one that loses an order, a lease or its time."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from coe.core.types import ExpertId
from coe.registry.schema import Pool
from coe.scheduler.events import Action, Evict, Finished, Grant, Load, Ready, Sleep, Tick, Wake
from coe.scheduler.events import Event as SchedulerEvent
from coe.scheduler.plan import ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.policies import Coe, HostView, Policy, ReplicaView, Rules, Swap, make_policy
from coe.scheduler.scheduler import Scheduler
from coe.scheduler.watch import StuckWatch, UnderWay
from coe.testing.conformance_policy import PLAN, Happenings
from coe.testing.scheduling import World
from tests.support.scheduling_worlds import bring_in, gpu_world, slot_world, under_way

AFTER_S, TICK_S = 20.0, 1.0


def look(world: World, watch: StuckWatch) -> Mapping[ExpertId, str]:
    found = world.scheduler.waits_in_vain(under_way(world), world.now)
    return watch.look(found, world.now, AFTER_S + world.scheduler.idle_s)


def policy(name: str, residency_s: float = 0.5) -> Policy:
    return make_policy(Pool(hosts=(), policy=name, min_residency_s=residency_s, pinned=("b", "lora-1")))


@pytest.mark.parametrize("name", ["coe", "coe[-prewake]", "coe[-frames,-groups]", "collating-fifo", "static"])
def test_a_right_scheduler_is_never_stuck_whatever_happens(name: str) -> None:
    for seed in range(12):
        happenings, watch, chance = Happenings(policy(name)), StuckWatch(), random.Random(seed)
        for _ in range(60):
            happenings.step(chance.choice)
            assert not look(happenings.world, watch), f"seed {seed}"


@pytest.mark.parametrize("name", ["coe", "collating-fifo"])
def test_without_residency_nobody_waits_in_vain_even_for_a_moment(name: str) -> None:
    for seed in range(12):
        happenings, chance = Happenings(policy(name, residency_s=0.0)), random.Random(seed)
        for _ in range(60):
            happenings.step(chance.choice)
            world = happenings.world
            assert world.scheduler.waits_in_vain(under_way(world), world.now) == {}, f"seed {seed}"


class Faulty(Scheduler):
    """Right until ``fault`` is set; then it loses one thing, or its time for good."""

    def __init__(self, plan: PoolPlan, policy: Policy) -> None:
        super().__init__(plan, policy)
        self.fault: str | None = None

    def step(self, event: SchedulerEvent, now: float) -> list[Action]:
        if self.fault == "tick" and isinstance(event, Tick):
            return []
        for name, kind in (("release", Finished), ("report", Ready)):
            if self.fault == name and isinstance(event, kind):
                self.fault = None
                return []
        return self._without_one(super().step(event, now))

    def next_tick(self) -> float:
        return math.inf if self.fault == "tick" else super().next_tick()

    def _without_one(self, actions: list[Action]) -> list[Action]:
        kinds = {"grant": Grant, "load": Load | Wake, "sleep": Sleep | Evict}
        kind = kinds.get(self.fault or "", ())
        lost = next((action for action in actions if isinstance(action, kind)), None)
        if lost is not None:
            self.fault = None
            actions.remove(lost)
        return actions


class Silent(Coe):
    """Never decides again once it is told to be ``quiet``."""

    def __init__(self, quiet: list[str]) -> None:
        super().__init__()
        object.__setattr__(self, "quiet", quiet)

    def swap(self, view: HostView) -> Swap | None:
        return None if "swap" in self.quiet else super().swap(view)  # type: ignore[attr-defined]

    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:
        return None if "grant" in self.quiet else super().grant(view, grantable)  # type: ignore[attr-defined]


class Life:
    """A pool in which every load, sleep and lease ends within two seconds, and someone comes each second."""

    def __init__(self, seed: int) -> None:
        self.quiet: list[str] = []
        self.world = World(PLAN, Silent(self.quiet))
        self.faulty = Faulty(PLAN, self.world.policy)
        self.world.scheduler = self.faulty
        self.watch = StuckWatch()
        self.chance = random.Random(seed)
        self.since: dict[str, float] = {}
        self.number = 0
        self.tripped: float | None = None

    def second(self) -> None:
        world = self.world
        for _ in range(self.chance.choice((0, 1, 1, 2))):
            self.number += 1
            world.arrive(f"r{self.number}", self.chance.choice([e.id for e in PLAN.experts]))
        fails = self.chance.random() < 0.2
        for seat in world.seats("loading"):
            (world.fail_load if fails else world.ready)(seat.expert, seat.host)
        for seat in world.seats("going"):
            world.slept(seat.expert, seat.host)
        for seat in list(world.reading):
            world.end_prefetch(seat)
        for request in list(world.leases):
            if self.chance.random() < 0.7:
                world.finish(request)
        world.wait(TICK_S)
        self.since = {r: self.since.get(r, world.now) for r in world.waiting}
        if self.tripped is None and look(world, self.watch):
            self.tripped = world.now

    @property
    def longest_s(self) -> float:
        return self.world.now - min(self.since.values(), default=self.world.now)


RIGHT_S = 40.0
"""Nobody waits so long in the life of a right scheduler (measured below)."""
FAULTS = ("grant", "load", "sleep", "release", "report", "never swaps", "never grants")


@pytest.mark.parametrize("seed", range(3))
def test_nobody_waits_long_in_this_life_while_the_scheduler_is_right(seed: int) -> None:
    life, longest = Life(seed), 0.0
    for _ in range(150):
        life.second()
        longest = max(longest, life.longest_s)
    assert life.tripped is None
    assert longest < RIGHT_S


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_is_lost_is_noticed_before_anybody_waits_much_longer(fault: str) -> None:
    hurt = 0
    for seed in range(4):
        life = Life(seed)
        for _ in range(10 + seed * 3):
            life.second()
        if fault.startswith("never"):
            life.quiet.append(fault.removeprefix("never ").removesuffix("s"))
        else:
            life.faulty.fault = fault
        for _ in range(150):
            life.second()
            if life.longest_s > RIGHT_S + AFTER_S + TICK_S:
                hurt += 1
                assert life.tripped is not None, f"seed {seed}: waits for {life.longest_s} s"
                break
    assert hurt, "the fault hurt nobody: the test shows nothing"


def trips_after(world: World, most_s: float = 200.0) -> float:
    """How long after now the watch says that somebody is stuck, looked at every tick."""
    began, watch = world.now, StuckWatch()
    while world.now - began < most_s:
        if look(world, watch):
            return world.now - began
        world.wait(TICK_S)
    return math.inf


def faulty(world: World, fault: str) -> World:
    """With a scheduler in the same state that loses one thing from now on."""
    scheduler = Faulty(world.plan, world.policy)
    for step in world.steps:
        assert not isinstance(step.event, PoolPlan)
        scheduler.step(step.event, step.now)
    scheduler.fault = fault
    world.scheduler = scheduler
    return world


def a_grant_lost() -> World:
    world = slot_world("a", "b", batch=1)
    bring_in(world, "a")
    faulty(world, "grant").arrive("r", "a")
    return world


def a_release_lost() -> World:
    world = a_long_wait_for_work()
    faulty(world, "release").finish("first")
    return world


def a_load_lost() -> World:
    world = faulty(slot_world("a"), "load")
    world.arrive("r", "a")
    return world


def a_wake_lost() -> World:
    world = gpu_world(a=20.0, b=20.0)
    bring_in(world, "a")
    bring_in_after(world, "b", "a")
    faulty(world, "sleep").arrive("r", "a")
    return world


def bring_in_after(world: World, expert: str, former: str) -> None:
    world.arrive(f"first-{expert}", expert)
    world.slept(former)
    world.ready(expert)
    world.finish(f"first-{expert}")
    world.wait(5.0)


def a_retry_lost() -> World:
    """The load failed, and the tick at which it would be tried again never comes."""
    world = slot_world("a", retry_s=1.0)
    world.arrive("r", "a")
    world.fail_load("a")
    faulty(world, "tick").wait(1.0)
    return world


@pytest.mark.parametrize(
    "lost", [a_grant_lost, a_release_lost, a_load_lost, a_wake_lost, a_retry_lost], ids=lambda f: f.__name__
)
def test_a_loss_is_noticed_within_the_setting_and_one_tick(lost: Callable[[], World]) -> None:
    world = lost()
    limit_s = AFTER_S + world.scheduler.idle_s
    assert limit_s <= trips_after(world) <= limit_s + TICK_S


def an_idle_place(quiet: str) -> World:
    """Two slots, one of which works on; the policy gives the other to nobody."""
    words: list[str] = []
    experts = tuple(ExpertPlan(e, ("two",), max_running=1) for e in "ab")
    world = World(PoolPlan((HostPlan("two", capacity=2.0),), experts), Silent(words))
    world.arrive("working", "a")
    world.ready("a")
    if quiet == "swap":
        words.append(quiet)
    world.arrive("r", "b")
    if quiet == "grant":
        words.append(quiet)
        world.ready("b")
    return world


@pytest.mark.parametrize(
    ("quiet", "why"), [("swap", "there is room for the expert"), ("grant", "a place in the batch is free")]
)
def test_work_beside_it_excuses_no_idle_place(quiet: str, why: str) -> None:
    world = an_idle_place(quiet)
    assert AFTER_S <= trips_after(world) <= AFTER_S + TICK_S
    assert why in world.scheduler.waits_in_vain(under_way(world), world.now)["b"]


def a_long_load() -> World:
    world = slot_world("a")
    world.arrive("r", "a")
    return world


def a_long_wait_for_work() -> World:
    world = slot_world("a", "b", batch=1)
    bring_in(world, "a")
    world.arrive("first", "a")
    world.arrive("r", "b")
    return world


def a_long_drain() -> World:
    """By now the request that waits is overdue, and nothing more is granted on the expert that works."""
    world = a_long_wait_for_work()
    world.wait(AFTER_S)
    assert world.scheduler.describe(under_way(world), world.now)["hosts"]["slot"]["promised"] == ["b"]
    return world


def a_long_sleep() -> World:
    world = gpu_world(a=20.0, b=20.0)
    bring_in(world, "a")
    world.arrive("r", "b")
    assert world.place("a", "gpu") == "going"
    return world


def a_full_batch() -> World:
    world = slot_world("a", batch=1)
    bring_in(world, "a")
    world.arrive("first", "a")
    world.arrive("r", "a")
    return world


def a_quarantine() -> World:
    world = slot_world("a", "b", retry_s=1_000.0)
    world.arrive("r", "a")
    world.fail_load("a")
    return world


def nobody_waits() -> World:
    world = slot_world("a")
    bring_in(world, "a")
    return world


@pytest.mark.parametrize(
    "legal",
    [a_long_load, a_long_wait_for_work, a_long_drain, a_long_sleep, a_full_batch, a_quarantine, nobody_waits],
    ids=lambda f: f.__name__,
)
def test_a_wait_for_something_that_goes_on_is_no_fault(legal: Callable[[], World]) -> None:
    assert math.isinf(trips_after(legal()))


class Planner(Silent):
    """Says nothing of idle places, and has a plan for later."""

    @property
    def rules(self) -> Rules:
        return replace(super().rules, idle_s=math.inf, only_for_waiting=False)

    def wake_at(self, view: HostView) -> float:
        return view.now + 60.0


def test_a_policy_that_says_nothing_of_idle_places_is_only_watched_for_losses() -> None:
    experts = (ExpertPlan("a", ("slot",), max_running=1),)
    quiet = World(PoolPlan((HostPlan("slot"),), experts), Planner(["swap"]))
    quiet.arrive("r", "a")
    assert math.isinf(trips_after(quiet))
    lost = faulty(World(PoolPlan((HostPlan("slot"),), experts), Planner([])), "load")
    lost.arrive("r", "a")
    assert AFTER_S <= trips_after(lost) <= AFTER_S + TICK_S


@pytest.mark.parametrize(("wakes_in_s", "stuck"), [(60.0, False), (math.inf, True)])
def test_a_policy_that_has_no_plan_for_later_is_stuck_where_nothing_happens(
    wakes_in_s: float, stuck: bool
) -> None:
    class Sleeper(Planner):
        def wake_at(self, view: HostView) -> float:
            return view.now + wakes_in_s

    world = World(PoolPlan((HostPlan("slot"),), (ExpertPlan("a", ("slot",)),)), Sleeper(["swap"]))
    world.arrive("r", "a")
    assert math.isfinite(trips_after(world)) is stuck


def test_the_watch_forgets_who_got_on() -> None:
    watch = StuckWatch()
    assert watch.look({"a": "x", "b": "y"}, 0.0, 10.0) == {}
    assert watch.look({"b": "y"}, 6.0, 10.0) == {}
    assert watch.look({"a": "x", "b": "y"}, 10.0, 10.0) == {"b": "y"}
    assert watch.look({"a": "x"}, 15.9, 10.0) == {}
    assert watch.look({"a": "x"}, 20.0, 10.0) == {"a": "x"}


def test_the_state_is_described_with_names_and_ages() -> None:
    world = a_long_wait_for_work()
    world.wait(3.0)
    told = json.loads(json.dumps(world.scheduler.describe(under_way(world), world.now)))
    assert told["queues"] == {"b": {"queued": 1, "oldest_s": 3.0}}
    slot = told["hosts"]["slot"]
    assert (slot["leases"], slot["loads"], slot["room"]) == ({"a": 1}, [], 0.0)
    assert (slot["experts"]["a"]["state"], slot["experts"]["b"]["state"]) == ("awake", "cold")


def test_a_request_that_only_its_owner_knows_is_stuck() -> None:
    world = slot_world("a")
    found = world.scheduler.waits_in_vain(UnderWay({"r": "a"}, {}, {}, {}), 0.0)
    assert found == {"a": "a request waits that the scheduler does not know"}


@pytest.mark.parametrize("full", ["left", "right"])
def test_a_place_that_is_free_on_one_host_is_free_whatever_the_others_do(full: str) -> None:
    words: list[str] = []
    hosts = (HostPlan("left", max_running=1), HostPlan("right", max_running=1))
    world = World(PoolPlan(hosts, (ExpertPlan("a", ("left", "right"), max_running=1),)), Silent(words))
    for number in range(2):
        world.arrive(f"r{number}", "a")
    for host in ("left", "right"):
        world.ready("a", host)
    words.append("grant")
    world.arrive("waits", "a")
    assert math.isinf(trips_after(world))
    world.finish(next(request for request, seat in world.leases.items() if seat.host != full))
    assert AFTER_S <= trips_after(world) <= AFTER_S + TICK_S
