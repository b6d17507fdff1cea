"""Rules of the scheduler that hold for any order of events. ``World`` checks every action as it comes:
grants only to those who wait, never two, batch bounds, budgets, nothing put away with leases out."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from coe.core.types import ExpertId
from coe.registry.scheduling_settings import Mechanisms
from coe.registry.schema import Pool
from coe.scheduler.events import Action, Evict, Grant, Load, Sleep, Wake
from coe.scheduler.plan import CLASSES, ClassPlan, ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.policies import Coe, HostView, Policy, ReplicaView, Rules, Swap
from coe.simulate.baselines import POLICIES, make_policy
from coe.testing.conformance_policy import Happenings
from coe.testing.scheduling import World
from tests.support.scheduling_time import Course


@dataclass(frozen=True)
class Erratic:
    """A policy without sense: any legal answer, chosen by a number that changes with time."""

    seed: int
    name: str = "erratic"
    across_hosts: bool = False

    @property
    def rules(self) -> Rules:
        return Rules(timely_first=True, prefetch=True, groups=True, reroute=True)

    def _pick(self, view: HostView, salt: int) -> int:
        return hash((self.seed, view.now, len(view.residents), len(view.candidates), salt))

    def swap(self, view: HostView) -> Swap | None:
        number = self._pick(view, 1)
        if number % 3 == 0 and view.residents:
            return Swap(None, (view.residents[number % len(view.residents)].expert.id,))
        if not view.candidates or number % 3 == 1:
            return None
        wanted = view.candidates[number % len(view.candidates)]
        missing, victims = wanted.footprint - view.room, list[ExpertId]()
        for resident in view.residents:
            if missing > 0:
                victims.append(resident.expert.id)
                missing -= resident.footprint
        return Swap(wanted.expert.id, tuple(victims)) if missing <= 0 else None

    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:
        number = self._pick(view, 2)
        return grantable[number % len(grantable)].expert.id if number % 4 else None

    def frame(self, replica: ReplicaView) -> int:
        return replica.max_running

    def wake_at(self, view: HostView) -> float:
        return view.now + 0.5


class AlwaysAsked(Coe):
    """Asked even where nobody waits, and no request is granted without it: as if there were no short way."""

    @property
    def rules(self) -> Rules:
        return replace(super().rules, only_for_waiting=False)


class AnyOrder(RuleBasedStateMachine):
    """Everything that can happen to the pool, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.use(Coe(min_residency_s=0.5))

    def use(self, policy: Policy) -> None:
        self.policy, self.happenings = policy, Happenings(policy)

    @rule(seed=st.integers(0, 1_000_000))  # one draw a step: more take twice as long
    def happen(self, seed: int) -> None:
        self.happenings.step(random.Random(seed).choice)

    def teardown(self) -> None:
        self.happenings.end(serves_everyone=not isinstance(self.policy, Erratic))
        if isinstance(self.policy, Coe):
            asked = AlwaysAsked(self.policy.mechanisms, self.policy.min_residency_s)
            self.happenings.world.replay(asked)


class AnyOrderWithAnySwitches(AnyOrder):
    """The mechanisms of the policy coe can be switched off in any combination."""

    @initialize(off=st.sets(st.sampled_from(sorted(Mechanisms.model_fields))))
    def choose_policy(self, off: set[str]) -> None:
        self.use(Coe(mechanisms=Mechanisms(**dict.fromkeys(off, False))))


class AnyOrderWithoutSense(AnyOrder):
    """The rules hold whatever the policy answers."""

    @initialize(seed=st.integers(0, 1_000))
    def choose_policy(self, seed: int) -> None:
        self.use(Erratic(seed))


class AnyOrderUnderAnyPolicy(AnyOrder):
    """Every policy of the table serves everyone in the end, and keeps the rules."""

    @initialize(name=st.sampled_from(sorted(POLICIES)))
    def choose_policy(self, name: str) -> None:
        self.use(make_policy(Pool(hosts=(), policy=name, pinned=("b", "lora-1"))))


BUDGET = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = BUDGET
TestAnyOrderUnderAnyPolicy = pytest.mark.slow(AnyOrderUnderAnyPolicy.TestCase)
TestAnyOrderUnderAnyPolicy.settings = settings(BUDGET, max_examples=60)
TestAnyOrderWithAnySwitches = pytest.mark.slow(AnyOrderWithAnySwitches.TestCase)
TestAnyOrderWithAnySwitches.settings = settings(BUDGET, max_examples=60)
TestAnyOrderWithoutSense = pytest.mark.slow(AnyOrderWithoutSense.TestCase)
TestAnyOrderWithoutSense.settings = settings(BUDGET, max_examples=60)


class CalmDays(RuleBasedStateMachine):
    """Few experts that mostly are awake with room: most requests are granted at once."""

    HOSTS = (
        HostPlan("slot", capacity=2.0, max_running=3),
        HostPlan("twin", capacity=1.0, sleeps=True, ram_gb=3.0),
        HostPlan("remote", capacity=math.inf, max_running=2, always_awake=True),
    )
    EXPERTS = (
        ExpertPlan("a", ("slot",), max_running=2),
        ExpertPlan("b", ("slot", "twin"), max_running=2, weights_gb=2.0),
        ExpertPlan("c", ("twin",), max_running=2, weights_gb=2.0),
        ExpertPlan("d", ("slot",), max_running=1),
        ExpertPlan("api", ("remote",), footprint=0.0),
    )

    def __init__(self) -> None:
        super().__init__()
        self.world = World(PoolPlan(self.HOSTS, self.EXPERTS), Coe(min_residency_s=0.5))
        self.numbers = itertools.count()

    @rule(
        experts=st.permutations("abcd"),
        others=st.sampled_from([0, 0, 0, 2]),
        times=st.integers(1, 4),
        seconds=st.sampled_from([0.1, 3.0]),
    )
    def ask(self, experts: list[ExpertId], others: int, times: int, seconds: float) -> None:
        """One after the other."""
        for _ in range(times):
            request = f"r{next(self.numbers)}"
            self.world.arrive(request, *experts[: 1 + others])
            self.bring_in()
            self.world.wait(seconds)
            if request in self.world.leases:
                self.world.finish(request)
                self.bring_in()

    @rule(experts=st.permutations("abcd"))
    def arrive(self, experts: list[ExpertId]) -> None:
        self.world.arrive(f"r{next(self.numbers)}", *experts[:2])
        self.bring_in()

    @rule()
    def call_api(self) -> None:
        self.world.arrive(f"r{next(self.numbers)}", "api")

    @precondition(lambda self: self.world.leases)
    @rule(data=st.data(), ok=st.booleans())
    def finish(self, data: st.DataObject, ok: bool) -> None:
        self.world.finish(data.draw(st.sampled_from(list(self.world.leases))), ok)
        self.bring_in()

    @precondition(lambda self: self.world.seats("awake"))
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from(self.world.seats("awake")))
        self.world.lose(seat.expert, seat.host)

    def bring_in(self) -> None:
        while self.world.seats("loading") or self.world.seats("going"):
            for seat in self.world.seats("loading"):
                self.world.ready(seat.expert, seat.host)
            for seat in self.world.seats("going"):
                self.world.slept(seat.expert, seat.host)

    def teardown(self) -> None:
        self.world.replay(AlwaysAsked(min_residency_s=0.5))


TestCalmDays = CalmDays.TestCase
TestCalmDays.settings = settings(BUDGET, max_examples=60)


RUN_S, LOAD_S, SLEEP_S, AGEING_S, RESIDENCY_S = 2.0, 0.8, 0.1, 5.0, 0.5
AGED = {**CLASSES, "standard": ClassPlan(slo_s=2.0, ageing_s=AGEING_S)}


class Feed:
    """Experts that always have ``depth`` requests waiting, on hosts where everything takes its time."""

    def __init__(self, plan: PoolPlan, fed: Sequence[ExpertId], depth: int) -> None:
        self.world = World(plan, Coe(min_residency_s=RESIDENCY_S))
        self.fed = frozenset(fed)
        self.numbers = itertools.count()
        self.course = Course(self.world, self.carry_out)
        for expert in fed:
            for _ in range(depth):
                self.arrive(expert)

    def arrive(self, expert: ExpertId) -> str:
        request = f"{expert}-{next(self.numbers)}"
        self.carry_out(self.world.arrive(request, expert))
        return request

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Load | Wake):
                self.course.ends_in(LOAD_S, action)
            elif isinstance(action, Sleep | Evict):
                self.course.ends_in(SLEEP_S, action)
            elif isinstance(action, Grant):
                self.course.ends_in(RUN_S, action)
                if action.expert in self.fed:
                    self.arrive(action.expert)


@pytest.mark.parametrize("fed", [["a"], ["a", "d"], ["d", "e", "f"]])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(depth=st.integers(1, 7), arrives=st.floats(0.0, 20.0))
def test_no_one_waits_beyond_the_bound_while_others_are_fed_without_end(
    fed: list[ExpertId], depth: int, arrives: float
) -> None:
    batch = 2
    experts = tuple(ExpertPlan(e, ("slot",), max_running=batch) for e in [*fed, "rare"])
    feed = Feed(PoolPlan((HostPlan("slot", max_running=batch),), experts, classes=AGED), fed, depth)
    feed.course.run(arrives)
    request = feed.arrive("rare")
    turn_s = RESIDENCY_S + SLEEP_S + LOAD_S + (math.ceil(depth / batch) + 2) * RUN_S
    feed.course.run(arrives + AGEING_S + (len(fed) + 1) * turn_s)
    assert request not in feed.world.waiting


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(depth=st.integers(1, 5), arrives=st.floats(0.0, 20.0))
def test_a_large_expert_gets_its_room_while_small_ones_are_fed_without_end(
    depth: int, arrives: float
) -> None:
    host = HostPlan("gpu", capacity=24.0, sleeps=True)
    small = [ExpertPlan(f"small-{i}", ("gpu",), footprint=6.0, max_running=2) for i in range(6)]
    large = ExpertPlan("large", ("gpu",), footprint=24.0, max_running=2)
    feed = Feed(PoolPlan((host,), (*small, large), classes=AGED), [e.id for e in small], depth)
    feed.course.run(arrives)
    request = feed.arrive("large")
    turn_s = RESIDENCY_S + SLEEP_S + LOAD_S + (math.ceil(depth / 2) + 2) * RUN_S
    feed.course.run(arrives + AGEING_S + (len(small) + 1) * turn_s)
    assert request not in feed.world.waiting
