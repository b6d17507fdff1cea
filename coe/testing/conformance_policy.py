"""The contract of :class:`coe.scheduler.policies.protocol.Policy`, as a check that built-in and third-party
policies run: whatever happens to a pool, in any order, the scheduler's guarantees hold."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from coe.core.types import ExpertId
from coe.scheduler.plan import CLASSES, ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.policies import HostView, Policy, ReplicaView, Rules, Swap
from coe.testing.scheduling import BrokenRuleError, World

HOSTS = (
    HostPlan("slot", capacity=1.0, max_running=2, ram_gb=5.0, node="node", reads_ahead=True),
    HostPlan("twin", capacity=1.0, max_running=3, ram_gb=5.0, node="node", reads_ahead=True),
    HostPlan("gpu", capacity=24.0, sleeps=True, ram_gb=25.0),
    HostPlan("adapters", capacity=2.0, max_running=3),
    HostPlan("remote", capacity=math.inf, max_running=2, always_awake=True),
)
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
PLAN = PoolPlan(HOSTS, EXPERTS, max_queue=12, retry_s=0.5, quarantine_s=10.0)
"""Slots, a GPU whose experts sleep, adapters and an API elsewhere: every way to hold experts."""

T = TypeVar("T")
Pick = Callable[[Sequence[Any]], Any]
"""Chooses one of several."""
_NAMES = [expert.id for expert in EXPERTS]
_GROUPS = ("g1", "g2")
_FAILS = (False, False, True)


class PolicyContractError(AssertionError):
    """A policy that does not keep its contract; the message says which part."""


def check_policy(policy: Policy, runs: int = 60, steps: int = 40, seed: int = 0) -> None:
    """Raises PolicyContractError where ``policy`` breaks its contract.

    ``runs`` pools go through ``steps`` random events each (arrivals, ends, failures, crashes, changes of
    the registry, time). Its answers must be possible and the same for the same view; no work in flight is
    killed, no budget exceeded, and everyone is served in the end. One whose rules say ``only_for_waiting``
    is also asked where nobody waits, which must change nothing. The same ``seed``, the same events.
    """
    _require(isinstance(policy.name, str) and policy.name != "", "name is a non-empty text")
    _require(isinstance(policy.rules, Rules), "rules is a Rules")
    _require(isinstance(policy.across_hosts, bool), "across_hosts is true or false")
    for run in range(runs):
        happenings = Happenings(Watched(policy))
        chance = random.Random(f"{seed} {run}")
        try:
            for _ in range(steps):
                happenings.step(chance.choice)
            happenings.end()
            if policy.rules.only_for_waiting:
                happenings.world.replay(Watched(policy, replace(policy.rules, only_for_waiting=False)))
        except PolicyContractError:
            raise
        except Exception as error:
            what = str(error) if isinstance(error, BrokenRuleError | ValueError) else repr(error)
            last = ", ".join(str(step.event) for step in happenings.world.steps[-3:])
            raise PolicyContractError(f"broken in run {run}: {what}; the last events: {last}") from error


class Watched:
    """``policy``, asked twice each time, with its answers looked at."""

    def __init__(self, policy: Policy, rules: Rules | None = None) -> None:
        self._policy = policy
        self.name, self.rules = policy.name, rules or policy.rules
        self.across_hosts = policy.across_hosts

    def swap(self, view: HostView) -> Swap | None:
        return self._same("swap", self._policy.swap, view)

    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:
        chosen = self._same("grant", self._policy.grant, view, grantable)
        _require(
            chosen is None or chosen in [replica.expert.id for replica in grantable],
            "grant names one of those that are grantable, or None",
        )
        return chosen

    def frame(self, replica: ReplicaView) -> int:
        frame = self._same("frame", self._policy.frame, replica)
        _require(isinstance(frame, int) and frame >= 0, "frame is a whole number, at least 0")
        return frame

    def wake_at(self, view: HostView) -> float:
        moment = self._same("wake_at", self._policy.wake_at, view)
        _require(moment > view.now, f"wake_at lies after now ({view.now:g}), not at {moment:g}")
        return moment

    def _same(self, method: str, ask: Callable[..., T], *seen: Any) -> T:
        answer = ask(*seen)
        _require(answer == ask(*seen), f"{method} answers the same to the same view")
        return answer


class Happenings:
    """All that can happen to a pool under ``policy``, in any order; each step checks the world's rules."""

    def __init__(self, policy: Policy) -> None:
        self.world = World(PLAN, policy)
        self._numbers = itertools.count()
        self._arrived: list[str] = []
        self._announced: list[tuple[str, ExpertId]] = []

    def step(self, pick: Pick) -> None:
        """One thing that can happen now. ``pick`` chooses which, and all that is open about it."""
        pick(self._possible())(pick)
        self.world.check_progress()
        self.world.check_books()

    def end(self, serves_everyone: bool = True) -> None:
        """Let everything succeed: then nobody waits, what was removed is gone, and a replay does the same."""
        if serves_everyone:
            self.world.settle()
            if sorted(self.world.ended) != sorted(self._arrived):
                raise BrokenRuleError("a request ended twice, or never")
            self._check_the_removed_are_gone()
        self.world.replay()

    def _possible(self) -> list[Callable[[Pick], None]]:
        world = self.world
        conditions: list[tuple[Callable[[Pick], None], object]] = [
            (self._arrive, True),
            (self._arrive_with_alternatives, True),
            (self._expect, True),
            (self._end_expectation, self._announced),
            (self._finish, world.leases),
            (self._cancel, world.waiting or world.leases),
            (self._end_load, world.seats("loading")),
            (self._end_sleep, world.seats("going")),
            (self._end_prefetch, world.reading),
            (self._crash, world.seats("awake")),
            (self._end_what_is_under_way, True),
            (self._wait, True),
            (self._tick, math.isfinite(world.scheduler.next_tick())),
            (self._reconfigure, True),
        ]
        return [happening for happening, possible in conditions if possible]

    def _request(self) -> str:
        self._arrived.append(f"r{next(self._numbers)}")
        return self._arrived[-1]

    def _arrive(self, pick: Pick) -> None:
        expert = pick(_NAMES)
        for _ in range(pick((1, 2, 3, 4))):
            self.world.arrive(self._request(), expert)

    def _arrive_with_alternatives(self, pick: Pick) -> None:
        experts: list[ExpertId] = []
        for _ in range(pick((1, 2, 3))):
            experts.append(pick([name for name in _NAMES if name not in experts]))
        urgency = pick(sorted(CLASSES))
        self.world.arrive(self._request(), *experts, group=pick(_GROUPS), deadline_class=urgency)

    def _expect(self, pick: Pick) -> None:
        request, expert = f"r{next(self._numbers)}", pick(_NAMES)
        self.world.expect(request, expert, pick(_GROUPS))
        self._announced.append((request, expert))

    def _end_expectation(self, pick: Pick) -> None:
        request, expert = self._announced.pop(0)
        if pick((True, False)):
            self._arrived.append(request)
            self.world.arrive(request, expert)
        else:
            self.world.withdraw(request)

    def _finish(self, pick: Pick) -> None:
        self.world.finish(pick(list(self.world.leases)), pick((True, False)))

    def _cancel(self, pick: Pick) -> None:
        self.world.cancel(pick([*self.world.waiting, *self.world.leases]))

    def _end_load(self, pick: Pick) -> None:
        seat = pick(self.world.seats("loading"))
        (self.world.fail_load if pick(_FAILS) else self.world.ready)(seat.expert, seat.host)

    def _end_sleep(self, pick: Pick) -> None:
        seat = pick(self.world.seats("going"))
        (self.world.fail_sleep if pick(_FAILS) else self.world.slept)(seat.expert, seat.host)

    def _end_prefetch(self, pick: Pick) -> None:
        seats = sorted(self.world.reading, key=lambda seat: (seat.expert, seat.host))
        self.world.end_prefetch(pick(seats), pick(_FAILS))

    def _crash(self, pick: Pick) -> None:
        seat = pick(self.world.seats("awake"))
        self.world.lose(seat.expert, seat.host)

    def _end_what_is_under_way(self, pick: Pick) -> None:  # noqa: ARG002
        """Leads further than single ends in the same number of steps."""
        for request in list(self.world.leases):
            self.world.finish(request)
        for seat in self.world.seats("loading"):
            self.world.ready(seat.expert, seat.host)
        for seat in self.world.seats("going"):
            self.world.slept(seat.expert, seat.host)

    def _wait(self, pick: Pick) -> None:
        self.world.wait(pick((0.01, 0.1, 0.5, 1.0, 6.0, 40.0)))

    def _tick(self, pick: Pick) -> None:  # noqa: ARG002
        self.world.wait(self.world.scheduler.next_tick() - self.world.now)

    def _reconfigure(self, pick: Pick) -> None:
        mask = pick(range(1, 1 << len(_NAMES)))
        kept = {name for bit, name in enumerate(_NAMES) if mask >> bit & 1}
        moved, content = pick((True, False)), pick(("", "trained anew"))
        experts = [replace(e, hosts=e.hosts[-1:]) if moved else e for e in EXPERTS if e.id in kept]
        used = {host for expert in experts for host in expert.hosts}
        self.world.reconfigure(
            replace(
                PLAN,
                experts=tuple(replace(expert, content=content) for expert in experts),
                hosts=tuple(host for host in HOSTS if host.id in used),
            )
        )

    def _check_the_removed_are_gone(self) -> None:
        kept = {expert.id for expert in self.world.plan.experts}
        hosts = {host.id for host in self.world.plan.hosts}
        known = {expert.expert for expert in self.world.scheduler.snapshot().experts}
        if known != kept or set(self.world.scheduler.hosts()) != hosts:
            raise BrokenRuleError("what was removed from the registry is still there")


def _require(condition: bool, promise: str) -> None:
    if not condition:
        raise PolicyContractError(f"broken: {promise}")
