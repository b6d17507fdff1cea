"""Rules of the scheduler that hold for any order of events. ``World`` checks every action as it comes:
grants only to those who wait, never two, batch bounds, budgets, nothing put away with leases out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coe.core.types import DeadlineClass, ExpertId
from coe.registry.scheduling_settings import Mechanisms
from coe.registry.schema import Pool
from coe.scheduler.events import Action, Cancelled, Evict, Grant, Load, Sleep, Wake
from coe.scheduler.plan import CLASSES, ClassPlan, ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.policies import Coe, HostView, Policy, ReplicaView, Rules, Swap
from coe.simulate.baselines import POLICIES, make_policy
from tests.support.scheduling import World
from tests.support.scheduling_time import Course

SLOT = HostPlan("slot", capacity=1.0, max_running=2, ram_gb=5.0, node="node", reads_ahead=True)
TWIN = HostPlan("twin", capacity=1.0, max_running=3, ram_gb=5.0, node="node", reads_ahead=True)
GPU = HostPlan("gpu", capacity=24.0, sleeps=True, ram_gb=25.0)
ADAPTERS = HostPlan("adapters", capacity=2.0, max_running=3)
REMOTE = HostPlan("remote", capacity=math.inf, max_running=2, always_awake=True)

EXPERTS = (
    ExpertPlan("a", ("slot",), max_running=2, weights_gb=2.0, size="2B"),
    ExpertPlan("b", ("slot", "twin"), max_running=2, weights_gb=2.0, size="2B"),
    ExpertPlan("c", ("slot", "twin"), max_running=1, load_s=3.0, weights_gb=4.0),
    ExpertPlan("d", ("twin",), max_running=3, weights_gb=2.0),
    ExpertPlan("small", ("gpu",), footprint=5.1, weights_gb=5.0, max_running=2, load_s=4.0, wake_s=0.5),
    ExpertPlan("medium", ("gpu",), footprint=9.7, weights_gb=9.0, max_running=2, load_s=8.0, wake_s=1.0),
    ExpertPlan("large", ("gpu",), footprint=23.9, weights_gb=23.0, max_running=1, load_s=20.0, wake_s=2.0),
    ExpertPlan("lora-1", ("adapters",), max_running=3, load_s=0.05),
    ExpertPlan("lora-2", ("adapters",), max_running=3, load_s=0.05),
    ExpertPlan("lora-3", ("adapters",), max_running=2, load_s=0.05),
    ExpertPlan("api", ("remote",), footprint=0.0, max_running=2),
)
PLAN = PoolPlan((SLOT, TWIN, GPU, ADAPTERS, REMOTE), EXPERTS, max_queue=12, retry_s=0.5, quarantine_s=10.0)
NAMES = [expert.id for expert in EXPERTS]


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

    policy: Policy = Coe(min_residency_s=0.5)

    def __init__(self) -> None:
        super().__init__()
        self.world = World(PLAN, self.policy)
        self.numbers = itertools.count()
        self.arrived: list[str] = []
        self.announced: list[tuple[str, ExpertId]] = []

    @rule(expert=st.sampled_from(NAMES), count=st.integers(1, 4))
    def arrive(self, expert: ExpertId, count: int) -> None:
        for _ in range(count):
            request = f"r{next(self.numbers)}"
            self.arrived.append(request)
            self.world.arrive(request, expert)

    @rule(
        experts=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
        group=st.sampled_from(["g1", "g2"]),
        deadline_class=st.sampled_from(sorted(CLASSES)),
    )
    def arrive_with_alternatives(
        self, experts: list[ExpertId], group: str, deadline_class: DeadlineClass
    ) -> None:
        request = f"r{next(self.numbers)}"
        self.arrived.append(request)
        self.world.arrive(request, *experts, group=group, deadline_class=deadline_class)

    @rule(expert=st.sampled_from(NAMES), group=st.sampled_from(["g1", "g2"]))
    def expect(self, expert: ExpertId, group: str) -> None:
        request = f"r{next(self.numbers)}"
        self.world.expect(request, expert, group)
        self.announced.append((request, expert))

    @precondition(lambda self: self.announced)
    @rule(comes=st.booleans())
    def end_expectation(self, comes: bool) -> None:
        request, expert = self.announced.pop(0)
        if comes:
            self.arrived.append(request)
            self.world.arrive(request, expert)
        else:
            self.world.send(Cancelled(request))

    @precondition(lambda self: self.world.leases)
    @rule(data=st.data(), ok=st.booleans())
    def finish(self, data: st.DataObject, ok: bool) -> None:
        self.world.finish(data.draw(st.sampled_from(list(self.world.leases))), ok)

    @precondition(lambda self: self.world.waiting or self.world.leases)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.world.cancel(data.draw(st.sampled_from([*self.world.waiting, *self.world.leases])))

    @precondition(lambda self: self.world.seats("loading"))
    @rule(data=st.data(), fails=st.sampled_from([False, False, True]))
    def end_load(self, data: st.DataObject, fails: bool) -> None:
        seat = data.draw(st.sampled_from(self.world.seats("loading")))
        (self.world.fail_load if fails else self.world.ready)(seat.expert, seat.host)

    @precondition(lambda self: self.world.seats("going"))
    @rule(data=st.data(), fails=st.sampled_from([False, False, True]))
    def end_sleep(self, data: st.DataObject, fails: bool) -> None:
        seat = data.draw(st.sampled_from(self.world.seats("going")))
        (self.world.fail_sleep if fails else self.world.slept)(seat.expert, seat.host)

    @precondition(lambda self: self.world.reading)
    @rule(data=st.data(), fails=st.sampled_from([False, False, True]))
    def end_prefetch(self, data: st.DataObject, fails: bool) -> None:
        seats = sorted(self.world.reading, key=lambda seat: (seat.expert, seat.host))
        self.world.end_prefetch(data.draw(st.sampled_from(seats)), fails)

    @precondition(lambda self: self.world.seats("awake"))
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from(self.world.seats("awake")))
        self.world.lose(seat.expert, seat.host)

    @rule()
    def end_what_is_under_way(self) -> None:
        """Leads further than single ends in the same number of steps."""
        for request in list(self.world.leases):
            self.world.finish(request)
        for seat in self.world.seats("loading"):
            self.world.ready(seat.expert, seat.host)
        for seat in self.world.seats("going"):
            self.world.slept(seat.expert, seat.host)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 1.0, 6.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @precondition(lambda self: math.isfinite(self.world.scheduler.next_tick()))
    @rule()
    def tick(self) -> None:
        self.world.wait(self.world.scheduler.next_tick() - self.world.now)

    @rule(
        kept=st.sets(st.sampled_from(NAMES), min_size=1),
        moved=st.booleans(),
        content=st.sampled_from(["", "trained anew"]),
    )
    def reconfigure(self, kept: set[ExpertId], moved: bool, content: str) -> None:
        experts = [replace(e, hosts=e.hosts[-1:]) if moved else e for e in EXPERTS if e.id in kept]
        experts = [replace(e, content=content) for e in experts]
        used = {host for expert in experts for host in expert.hosts}
        self.world.reconfigure(
            replace(PLAN, experts=tuple(experts), hosts=tuple(h for h in PLAN.hosts if h.id in used))
        )

    @invariant()
    def someone_who_waits_has_something_to_wait_for(self) -> None:
        self.world.check_progress()
        self.world.check_books()

    def teardown(self) -> None:
        if not isinstance(self.policy, Erratic):
            self.world.settle()
            assert sorted(self.world.ended) == sorted(self.arrived)
            self.check_the_removed_are_gone()
        self.world.replay()
        if isinstance(self.policy, Coe):
            self.world.replay(AlwaysAsked(self.policy.mechanisms, self.policy.min_residency_s))

    def check_the_removed_are_gone(self) -> None:
        kept = {expert.id for expert in self.world.plan.experts}
        assert {e.expert for e in self.world.scheduler.snapshot().experts} == kept
        assert set(self.world.scheduler.hosts()) == {host.id for host in self.world.plan.hosts}


class AnyOrderWithAnySwitches(AnyOrder):
    """The mechanisms of the policy coe can be switched off in any combination."""

    @initialize(off=st.sets(st.sampled_from(sorted(Mechanisms.model_fields))))
    def choose_policy(self, off: set[str]) -> None:
        self.policy = Coe(mechanisms=Mechanisms(**dict.fromkeys(off, False)))
        self.world = World(PLAN, self.policy)


class AnyOrderWithoutSense(AnyOrder):
    """The rules hold whatever the policy answers."""

    @initialize(seed=st.integers(0, 1_000))
    def choose_policy(self, seed: int) -> None:
        self.policy = Erratic(seed)
        self.world = World(PLAN, self.policy)


class AnyOrderUnderAnyPolicy(AnyOrder):
    """Every policy of the table serves everyone in the end, and keeps the rules."""

    @initialize(name=st.sampled_from(sorted(POLICIES)))
    def choose_policy(self, name: str) -> None:
        self.policy = make_policy(Pool(hosts=(), policy=name, pinned=("b", "lora-1")))
        self.world = World(PLAN, self.policy)


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
        REMOTE,
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
