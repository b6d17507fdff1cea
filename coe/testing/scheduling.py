"""A world for the scheduler: carries out its actions on paper and checks every one of them."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from coe.core.types import DeadlineClass, ExpertId, RequestId
from coe.scheduler.events import (
    Action,
    Arrived,
    Cancelled,
    Event,
    Evict,
    Expected,
    Failed,
    Finished,
    Grant,
    HostId,
    Load,
    Prefetch,
    Prefetched,
    Ready,
    Reject,
    Release,
    Sleep,
    Slept,
    Tick,
    Wake,
)
from coe.scheduler.plan import EPSILON, PoolPlan
from coe.scheduler.policies import Coe, Policy
from coe.scheduler.scheduler import Scheduler

Place = Literal["cold", "sleeping", "loading", "awake", "lost", "going", "stuck"]
"""Where an expert is on a host. ``lost``: crashed; ``going``: told to sleep; ``stuck``: failed to."""
Ended = Literal["finished", "rejected", "cancelled"]


@dataclass(frozen=True)
class Seat:
    expert: ExpertId
    host: HostId


@dataclass(frozen=True)
class Step:
    """What happened to the scheduler, and what it ordered."""

    event: Event | PoolPlan
    now: float
    actions: tuple[Action, ...]


class BrokenRuleError(AssertionError):
    """The scheduler ordered something that it never may."""


class World:
    """Sends events, keeps time, and knows the truth. Its helpers take the only seat of an expert when no
    host is given. Raises BrokenRuleError as soon as an action breaks a rule."""

    def __init__(self, plan: PoolPlan, policy: Policy | None = None) -> None:
        self.plan = plan
        self._first_plan = plan
        self.policy = policy or Coe()
        self._fresh_policy = copy.deepcopy(self.policy)
        self.scheduler = Scheduler(plan, self.policy)
        self.now = 0.0
        self.steps: list[Step] = []
        self.waiting: dict[RequestId, ExpertId] = {}
        self.alternatives: dict[RequestId, tuple[ExpertId, ...]] = {}
        self.leases: dict[RequestId, Seat] = {}
        self.ended: dict[RequestId, Ended] = {}
        self.places: dict[Seat, Place] = {}
        self._held: dict[Seat, float] = {}
        self.in_ram: dict[Seat, float] = {}
        self.reading: set[Seat] = set()
        self._goes_to: dict[Seat, Place] = {}
        self._failed_sleeps: Counter[Seat] = Counter()
        self._hosts = {host.id: host for host in plan.hosts}
        self._experts = {expert.id: expert for expert in plan.experts}

    def arrive(
        self,
        request: RequestId,
        expert: ExpertId,
        *alternatives: ExpertId,
        group: RequestId | None = None,
        deadline_class: DeadlineClass = "standard",
    ) -> list[Action]:
        self.waiting[request] = expert
        self.alternatives[request] = alternatives
        return self.send(Arrived(request, expert, deadline_class, group, alternatives))

    def expect(self, request: RequestId, expert: ExpertId, group: RequestId | None = None) -> list[Action]:
        return self.send(Expected(request, expert, group))

    def withdraw(self, request: RequestId) -> list[Action]:
        """End what :meth:`expect` announced."""
        return self.send(Cancelled(request))

    def cancel(self, request: RequestId) -> list[Action]:
        if self.waiting.pop(request, None) or self._leave(request):
            self.ended[request] = "cancelled"
        return self.send(Cancelled(request))

    def finish(self, request: RequestId, ok: bool = True) -> list[Action]:
        self._leave(request)
        self.ended[request] = "finished"
        return self.send(Finished(request, ok))

    def ready(self, expert: ExpertId, host: HostId | None = None) -> list[Action]:
        seat = self._seat(expert, host, "loading")
        self._put(seat, "awake")
        return self.send(Ready(seat.expert, seat.host))

    def slept(self, expert: ExpertId, host: HostId | None = None) -> list[Action]:
        seat = self._seat(expert, host, "going")
        self._put(seat, self._goes_to.pop(seat))
        return self.send(Slept(seat.expert, seat.host))

    def fail_load(self, expert: ExpertId, host: HostId | None = None) -> list[Action]:
        seat = self._seat(expert, host, "loading")
        self._put(seat, "cold")
        return self.send(Failed(seat.expert, seat.host, "scripted", "load"))

    def fail_sleep(self, expert: ExpertId, host: HostId | None = None) -> list[Action]:
        seat = self._seat(expert, host, "going")
        self._failed_sleeps[seat] += 1
        self._put(seat, "cold" if self._failed_sleeps[seat] >= self.plan.max_failures else "stuck")
        return self.send(Failed(seat.expert, seat.host, "scripted", "sleep"))

    def end_prefetch(self, seat: Seat, fails: bool = False) -> list[Action]:
        self.reading.remove(seat)
        if not fails:
            return self.send(Prefetched(seat.expert, seat.host))
        if self.place(seat.expert, seat.host) in ("cold", "loading"):
            self.in_ram.pop(seat, None)
        return self.send(Failed(seat.expert, seat.host, "scripted", "prefetch"))

    def lose(self, expert: ExpertId, host: HostId | None = None) -> list[Action]:
        """A resident expert crashes. Its leases come back as failed later."""
        seat = self._seat(expert, host, "awake")
        self._put(seat, "lost" if seat in self.leases.values() else "cold")
        return self.send(Failed(seat.expert, seat.host, "scripted", "run"))

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass, with a tick whenever the scheduler wants one."""
        until, actions = self.now + seconds, list[Action]()
        while self.scheduler.next_tick() <= until:
            self.now = max(self.now, self.scheduler.next_tick())
            actions += self.send(Tick())
        self.now = until
        return actions

    def reconfigure(self, plan: PoolPlan) -> list[Action]:
        self.plan = plan
        self._hosts |= {host.id: host for host in plan.hosts}
        self._experts |= {expert.id: expert for expert in plan.experts}
        return self._record(plan, self.scheduler.reconfigure(plan, self.now))

    def send(self, event: Event) -> list[Action]:
        return self._record(event, self.scheduler.step(event, self.now))

    def settle(self, max_rounds: int = 1_000) -> None:
        """Let everything succeed until no request is left. Raises BrokenRuleError when one stays."""
        for _ in range(max_rounds):
            for seat in list(self._at("loading")):
                self.ready(seat.expert, seat.host)
            for seat in list(self._at("going")):
                self.slept(seat.expert, seat.host)
            for seat in list(self.reading):
                self.end_prefetch(seat)
            for request in list(self.leases):
                self.finish(request)
            if not self.waiting and not self.leases and not self.seats("loading", "going", "stuck"):
                return
            self.wait(max(0.1, min(1.0, self.scheduler.next_tick() - self.now)))
        raise BrokenRuleError(f"requests starve: {self.waiting}")

    def place(self, expert: ExpertId, host: HostId) -> Place:
        return self.places.get(Seat(expert, host), self._rest(host))

    def seats(self, *places: Place) -> list[Seat]:
        return list(self._at(*places))

    def granted(self, expert: ExpertId) -> list[RequestId]:
        """Requests that ever got a lease on ``expert``, in order."""
        actions = (action for step in self.steps for action in step.actions)
        return [a.request for a in actions if isinstance(a, Grant) and a.expert == expert]

    def check_progress(self) -> None:
        """Someone who waits has something to wait for, and ticks lie ahead."""
        tick = self.scheduler.next_tick()
        if tick <= self.now:
            raise BrokenRuleError(f"a tick is due at {tick}, not after now ({self.now})")
        under_way = self.leases or list(self._at("loading", "going"))
        if self.waiting and not under_way and not math.isfinite(tick):
            raise BrokenRuleError(f"deadlock: {self.waiting} wait for nothing")

    def check_books(self) -> None:
        """The scheduler's own account agrees with what happened."""
        snapshot = self.scheduler.snapshot()
        if (snapshot.queued, snapshot.running) != (len(self.waiting), len(self.leases)):
            raise BrokenRuleError(f"snapshot disagrees: {snapshot} with {self.waiting} and {self.leases}")

    def replay(self, policy: Policy | None = None) -> None:
        """The same events to a new scheduler, with this policy or an equal one: it must order the same."""
        scheduler = Scheduler(self._first_plan, policy or copy.deepcopy(self._fresh_policy))
        for step in self.steps:
            again = (
                scheduler.reconfigure(step.event, step.now)
                if isinstance(step.event, PoolPlan)
                else scheduler.step(step.event, step.now)
            )
            if tuple(again) != step.actions:
                raise BrokenRuleError(f"replayed {step}, got {again}")

    def _record(self, event: Event | PoolPlan, actions: list[Action]) -> list[Action]:
        self.steps.append(Step(event, self.now, tuple(actions)))
        for action in actions:
            self._check(action)
        return actions

    def _check(self, action: Action) -> None:
        match action:
            case Grant():
                self._check_grant(action)
            case Load() | Wake():
                self._check_load(Seat(action.expert, action.host), waking=isinstance(action, Wake))
            case Sleep() | Evict():
                self._check_sleep(action)
            case Prefetch():
                seat = Seat(action.expert, action.host)
                if self.place(seat.expert, seat.host) != "cold" or seat in self.in_ram:
                    raise BrokenRuleError(f"{action}: nothing to read")
                if seat in self.reading:
                    raise BrokenRuleError(f"{action}: an earlier read is not answered")
                self.reading.add(seat)
                self._take_ram(seat)
            case Release():
                if self.in_ram.pop(Seat(action.expert, action.host), None) is None:
                    raise BrokenRuleError(f"{action}: it was not read")
            case Reject():
                if self.waiting.pop(action.request, None) is None:
                    raise BrokenRuleError(f"{action}: it does not wait")
                self.ended[action.request] = "rejected"

    def _check_grant(self, grant: Grant) -> None:
        asked = self.waiting.pop(grant.request, None)
        if asked is None or grant.expert not in (asked, *self.alternatives[grant.request]):
            raise BrokenRuleError(f"{grant}: it does not wait for this expert")
        seat = Seat(grant.expert, grant.host)
        if self.place(seat.expert, seat.host) != "awake":
            raise BrokenRuleError(f"{grant}: the expert is {self.place(seat.expert, seat.host)}")
        if not 0 <= grant.swap_s <= grant.queued_s + EPSILON:
            raise BrokenRuleError(f"{grant}: swapped for longer than it waited")
        self.leases[grant.request] = seat
        host, expert = self._hosts[seat.host], self._experts[seat.expert]
        on_host = sum(s.host == seat.host for s in self.leases.values())
        on_seat = sum(s == seat for s in self.leases.values())
        if on_seat > expert.max_running or (host.max_running is not None and on_host > host.max_running):
            raise BrokenRuleError(f"{grant}: too many leases, {on_seat} on the expert, {on_host} on the host")

    def _check_load(self, seat: Seat, waking: bool) -> None:
        expected = "sleeping" if waking else "cold"
        if self.place(seat.expert, seat.host) != expected:
            raise BrokenRuleError(f"{seat} is {self.place(seat.expert, seat.host)}, not {expected}")
        self.places[seat] = "loading"
        self._held[seat] = self._experts[seat.expert].footprint
        held = sum(size for s, size in self._held.items() if s.host == seat.host)
        if held > self._hosts[seat.host].capacity + EPSILON:
            raise BrokenRuleError(f"loading {seat} exceeds the capacity of its host: {held:g}")

    def _check_sleep(self, action: Sleep | Evict) -> None:
        seat = Seat(action.expert, action.host)
        if seat in self.leases.values():
            raise BrokenRuleError(f"{action}: it has leases out")
        allowed = ("awake", "stuck", "sleeping") if isinstance(action, Evict) else ("awake",)
        if self.place(seat.expert, seat.host) not in allowed:
            raise BrokenRuleError(f"{action}: the expert is {self.place(seat.expert, seat.host)}")
        if self.place(seat.expert, seat.host) != "stuck":
            self._failed_sleeps[seat] = 0
        if isinstance(action, Sleep) and action.level == 1:
            self._take_ram(seat)
        self.places[seat] = "going"
        self._goes_to[seat] = "cold" if isinstance(action, Evict) else "sleeping"

    def _take_ram(self, seat: Seat) -> None:
        host = self._hosts[seat.host]
        self.in_ram[seat] = self._experts[seat.expert].weights_gb
        held = sum(gb for s, gb in self.in_ram.items() if self._hosts[s.host].ram_of == host.ram_of)
        if host.ram_gb is not None and held > host.ram_gb + EPSILON:
            raise BrokenRuleError(f"{seat} exceeds the RAM of its node: {held:g}")

    def _rest(self, host: HostId) -> Place:
        return "awake" if self._hosts[host].always_awake else "cold"

    def _put(self, seat: Seat, place: Place) -> None:
        self.places[seat] = place
        if place in ("cold", "sleeping"):
            self._held.pop(seat, None)
        if place in ("cold", "awake"):
            self.in_ram.pop(seat, None)

    def _leave(self, request: RequestId) -> bool:
        """Take a lease back; the last one of a lost expert frees its place."""
        seat = self.leases.pop(request, None)
        if seat and self.places.get(seat) == "lost" and seat not in self.leases.values():
            self._put(seat, "cold")
        return seat is not None

    def _at(self, *places: Place) -> Iterator[Seat]:
        return (seat for seat, place in self.places.items() if place in places)

    def _seat(self, expert: ExpertId, host: HostId | None, place: Place) -> Seat:
        found = [s for s in self._at(place) if s.expert == expert and host in (None, s.host)]
        if len(found) != 1:
            raise ValueError(f"{expert!r} is {place} on {[s.host for s in found]}, expected one host")
        return found[0]
