"""The bound on waiting, against random orders of events with every mechanism of the default policy on.

Nothing fails here, and everything takes a random time up to a known longest one: within that, no accepted
request may wait longer than was promised, and whoever cannot be promised his wait is refused at once.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coe.core.types import DeadlineClass, ExpertId
from coe.scheduler.events import Action, Cancelled, Evict, Grant, Load, Prefetch, Reject, Sleep, Wake
from coe.scheduler.plan import CLASSES, ClassPlan, ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.policies import Coe
from coe.testing.scheduling import World
from tests.support.scheduling_time import Course

NAMES = ("a", "b", "c", "d", "e", "f")
BATCH = 2
LONGEST_RUN_S, LONGEST_SLEEP_S = 2.0, 0.5
CLASS_PLANS = {
    **CLASSES,
    "interactive": ClassPlan(slo_s=3.0, ageing_s=6.0, max_wait_s=150.0),
    "standard": ClassPlan(slo_s=5.0, ageing_s=12.0),
    "batch": ClassPlan(slo_s=20.0, ageing_s=40.0),
}


def slots(count: int, batch: int = BATCH) -> PoolPlan:
    """``count`` slots on one node, each of which may serve every expert."""
    ids = tuple(f"slot-{i}" for i in range(count))
    hosts = tuple(HostPlan(i, max_running=batch, ram_gb=5.0, node="node", reads_ahead=True) for i in ids)
    experts = tuple(ExpertPlan(e, ids, max_running=batch, weights_gb=2.0, load_s=1.0) for e in NAMES)
    return PoolPlan(hosts, experts, classes=CLASS_PLANS)


def gpu() -> PoolPlan:
    """Two places in one GPU whose experts sleep in RAM that holds three of them."""
    host = HostPlan("gpu", capacity=2.0, sleeps=True, ram_gb=6.0, node="node")
    experts = tuple(ExpertPlan(e, ("gpu",), max_running=BATCH, weights_gb=2.0, load_s=1.0) for e in NAMES)
    return PoolPlan((host,), experts, classes=CLASS_PLANS)


PLANS = {"one slot": slots(1), "two slots": slots(2), "one at a time": slots(2, batch=1), "gpu": gpu()}


@dataclass(frozen=True)
class Promise:
    """``granted_by``: when the request has its lease at the latest."""

    granted_by: float


class Waits(RuleBasedStateMachine):
    """Requests come, go and wait while loads, runs and reads end at times of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()
        self.start("one slot", 0, 1.5)

    @initialize(
        plan=st.sampled_from(sorted(PLANS)), seed=st.integers(0, 1_000), load_s=st.sampled_from([1.5, 6.0])
    )
    def start(self, plan: str, seed: int, load_s: float) -> None:
        self.longest_load_s = load_s
        self.plan = PLANS[plan]
        self.places = int(sum(host.capacity for host in self.plan.hosts))
        self.world = World(self.plan, Coe())
        self.drawn = random.Random(seed)
        self.course = Course(self.world, self.carry_out)
        self.promises: dict[str, Promise] = {}
        self.announced: list[tuple[str, ExpertId]] = []

    @rule(
        experts=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
        count=st.integers(1, 8),
        deadline_class=st.sampled_from(["interactive", "standard", "standard", "batch"]),
    )
    def arrive(self, experts: list[ExpertId], count: int, deadline_class: DeadlineClass) -> None:
        """The first is asked for, the others would do as well."""
        for _ in range(count):
            self.admit(f"r{next(self.numbers)}", experts, None, deadline_class)

    @rule(
        names=st.integers(2, len(NAMES)), burst=st.sampled_from([1, 3, 20]), load=st.sampled_from([1.0, 3.0])
    )
    def flood(self, names: int, burst: int, load: float) -> None:
        """More than can be served, for a while."""
        for _ in range(20):
            for _ in range(self.drawn.randint(1, burst)):
                kind: DeadlineClass = self.drawn.choice(["interactive", "standard", "batch"])
                self.admit(f"r{next(self.numbers)}", [self.drawn.choice(NAMES[:names])], None, kind)
            self.course.run(self.world.now + self.drawn.expovariate(load) * burst)

    @rule(legs=st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True))
    def arrive_together(self, legs: list[ExpertId]) -> None:
        """One request with several legs; the last one, which combines their answers, is announced."""
        group = f"g{next(self.numbers)}"
        for expert in legs[:-1]:
            self.admit(f"r{next(self.numbers)}", [expert], group, "standard")
        request = f"r{next(self.numbers)}"
        self.announced.append((request, legs[-1]))
        self.carry_out(self.world.expect(request, legs[-1], group))

    @precondition(lambda self: self.announced)
    @rule(comes=st.booleans())
    def end_expectation(self, comes: bool) -> None:
        request, expert = self.announced.pop(0)
        if comes:
            self.admit(request, [expert], None, "standard")
        else:
            self.carry_out(self.world.send(Cancelled(request)))

    @precondition(lambda self: self.world.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.carry_out(self.world.cancel(data.draw(st.sampled_from(list(self.world.waiting)))))

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0, 10.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.course.run(self.world.now + seconds)

    @invariant()
    def nobody_waits_longer_than_was_promised(self) -> None:
        for request in self.world.waiting:
            assert self.world.now <= self.promises[request].granted_by + 1e-6

    def teardown(self) -> None:
        while self.world.waiting:
            self.course.run(self.world.now + 5.0)
            self.nobody_waits_longer_than_was_promised()

    def admit(
        self, request: str, experts: list[ExpertId], group: str | None, deadline_class: DeadlineClass
    ) -> None:
        now, bound_s = self.world.now, self.bound(experts[0], deadline_class, self.places)
        refused_over_s = self.bound(experts[0], deadline_class, len(self.plan.hosts))
        self.promises[request] = Promise(now + bound_s)
        actions = self.world.arrive(request, *experts, group=group, deadline_class=deadline_class)
        for reject in [a for a in actions if isinstance(a, Reject)]:
            assert (reject.request, reject.code) == (request, "wait_not_promised")
            assert refused_over_s > CLASS_PLANS[deadline_class].max_wait_s - 1e-6
            assert "cannot be promised within 150 s" in reject.message
            assert reject.retry_after_s
        self.carry_out([a for a in actions if not isinstance(a, Reject)])

    def bound(self, expert: ExpertId, deadline_class: DeadlineClass, places: int) -> float:
        """The formula of docs/explanation/scheduling.md with the true extremes."""
        wanted = Counter([expert, *self.world.waiting.values(), *(name for _, name in self.announced)])
        turns = {name: math.ceil(count / self.plan.experts[0].max_running) for name, count in wanted.items()}
        rounds = turns[expert] + (sum(turns.values()) - turns[expert]) // places
        swap_s = LONGEST_SLEEP_S + self.longest_load_s
        issued = rounds * (2.0 * LONGEST_RUN_S + swap_s)
        begun_before = max(0.0, self.longest_load_s - rounds * LONGEST_RUN_S)
        return CLASS_PLANS[deadline_class].ageing_s + issued + begun_before

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Load() | Wake() | Prefetch():
                    self.begin(self.longest_load_s, action)
                case Sleep() | Evict():
                    self.begin(LONGEST_SLEEP_S, action)
                case Grant():
                    self.begin(LONGEST_RUN_S, action)
                    assert self.world.now <= self.promises[action.request].granted_by + 1e-6
                case Reject():
                    raise AssertionError(f"{action}: not at once, but after it was accepted")

    def begin(self, longest_s: float, action: Action) -> None:
        self.course.ends_in(self.drawn.choice([self.drawn.random(), 1.0]) * longest_s, action)


TestWaits = pytest.mark.slow(Waits.TestCase)
TestWaits.settings = settings(max_examples=40, stateful_step_count=25, deadline=None, derandomize=True)
