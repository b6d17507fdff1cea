"""The shell around the scheduler in virtual time: a heap of what will happen, and a machine model.

The scheduler is the service's own object: it gets the same events and its actions are carried out with
simulated durations. Nothing here depends on the policy.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from coe.core.errors import CoeError
from coe.core.types import ExpertId
from coe.scheduler.events import (
    Action,
    Arrived,
    Event,
    Evict,
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
from coe.scheduler.policies import Policy
from coe.scheduler.scheduler import Scheduler
from coe.scheduler.snapshot import PoolSnapshot
from coe.simulate.cluster import Cluster
from coe.simulate.machine import HostMachine
from coe.simulate.memory import Ram
from coe.simulate.replan import Replanning
from coe.simulate.workload import Workload

MAX_IDLE_TICKS = 100_000
"""Ticks in a row without anything else happening before a policy is taken to be stuck."""

REQUEST_ENDS = None
"""Payload of a heap entry that announces the next end on a host."""


class StuckError(CoeError):
    """The policy left requests waiting for ever: a defect of the policy."""


@dataclass
class Outcome:
    """What happened. Times in seconds of virtual time; ``inf`` where it never did (rejected).

    ``switching_s``: time with a load, wake or sleep under way, summed over hosts. ``gb_seconds``: integral
    of the weights that hosts held; ``ram_peak_gb``: the most weights in RAM, asleep or read from disk.
    ``moves``: experts that another placement brought to another host.
    ``decision_s``: processor time of this thread inside ``Scheduler.step``
    (what else the machine does is left out), in ``steps`` calls.
    """

    granted: list[float]
    finished: list[float]
    rejected: int = 0
    loads: int = 0
    wakes: int = 0
    switching_s: float = 0.0
    gb_seconds: float = 0.0
    peak_gb: float = 0.0
    ram_peak_gb: float = 0.0
    prefetches: int = 0
    moves: int = 0
    end: float = 0.0
    decision_s: float = 0.0
    steps: int = 0


@dataclass(slots=True)
class _Switching:
    """Transitions under way on one host."""

    under_way: int = 0
    since: float = 0.0


@dataclass(order=True, slots=True)
class _Entry:
    at: float
    order: int
    host: HostId = field(compare=False)
    version: int = field(compare=False)
    event: Event | None = field(compare=False)


class Watch(Protocol):
    """Sees when a request ends, by its number, and says when it has seen enough."""

    def ended(self, request: int, now: float) -> None: ...

    @property
    def settled(self) -> bool: ...


class Simulation:
    """One run of a workload on a cluster under a policy. Use once. ``watch`` may end it early."""

    def __init__(
        self,
        cluster: Cluster,
        workload: Workload,
        policy: Policy,
        replan: Replanning | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._cluster, self._workload, self._replan, self._watch = cluster, workload, replan, watch
        self._scheduler = Scheduler(cluster.plan, policy)
        self._policy_name = policy.name
        self._machines = {host: HostMachine(model) for host, model in cluster.hosts.items()}
        self._ram = Ram(cluster)
        self._in_ram: set[tuple[ExpertId, HostId]] = set()
        self._leaving_ram: set[tuple[ExpertId, HostId]] = set()
        self._switching = {host: _Switching() for host in cluster.hosts}
        self._heap: list[_Entry] = []
        self._order = 0
        self._now = 0.0
        self._open = len(workload)
        self._held_gb = 0.0
        self._held_since = 0.0
        never = [math.inf] * len(workload)
        self._outcome = Outcome(granted=never, finished=list(never))
        self._carry_out: dict[type[Action], Callable[..., None]] = {
            Grant: self._grant,
            Load: self._load,
            Wake: self._load,
            Sleep: self._sleep,
            Evict: self._sleep,
            Prefetch: self._prefetch,
            Release: self._release,
            Reject: self._reject,
        }

    def run(self) -> Outcome:
        """Until every request has ended, or the watch has seen enough. Raises :class:`StuckError` when some
        never would."""
        arrivals = self._workload.arrivals
        count, following, idle_ticks = len(arrivals), 0, 0
        while self._open and not (self._watch and self._watch.settled):
            next_arrival = arrivals[following] if following < count else math.inf
            next_entry = self._heap[0].at if self._heap else math.inf
            next_tick = self._scheduler.next_tick()
            idle_ticks += 1
            next_event = min(next_entry, next_arrival, next_tick)
            if self._replan is not None and self._replan.next_at <= next_event < math.inf:
                self._place_anew(self._replan)
            elif next_entry <= next_arrival and next_entry <= next_tick and next_entry < math.inf:
                idle_ticks = 0
                self.proceed()
            elif next_arrival <= next_tick and next_arrival < math.inf:
                idle_ticks = 0
                self.arrive(following, next_arrival)
                following += 1
            elif next_tick == math.inf or idle_ticks > MAX_IDLE_TICKS:
                raise StuckError(
                    f"policy {self._policy_name!r} leaves {self._open} requests waiting for ever"
                )
            else:
                self.proceed()
        return self.close()

    def next_at(self) -> float:
        """When something happens here by itself; ``inf`` if nothing does before a request arrives."""
        return min(self._heap[0].at if self._heap else math.inf, self._scheduler.next_tick())

    def proceed(self) -> None:
        """What happens here next by itself."""
        next_tick = self._scheduler.next_tick()
        if self._heap and self._heap[0].at <= next_tick:
            self._happen(heapq.heappop(self._heap))
        else:
            self._now = max(self._now, next_tick)
            self._step(Tick())

    def arrive(self, request: int, now: float) -> None:
        """A request of the workload, by its number. Nothing before ``now`` may be left to happen."""
        self._now = now
        expert = self._workload.experts[request]
        self._step(Arrived(str(request), expert))

    def forecast(self, expert: ExpertId, now: float) -> float:
        """See :meth:`Scheduler.forecast`."""
        return self._scheduler.forecast(expert, now)

    def snapshot(self) -> PoolSnapshot:
        return self._scheduler.snapshot()

    def _happen(self, entry: _Entry) -> None:
        if entry.event is not REQUEST_ENDS:
            self._now = entry.at
            self._account(entry.event)
            self._step(entry.event)
            return
        machine = self._machines[entry.host]
        if entry.version != machine.version:
            return
        self._now = entry.at
        ended = machine.end(entry.at)
        for request in ended:
            self._outcome.finished[request] = self._now
            self._open -= 1
            if self._watch:
                self._watch.ended(request, self._now)
        for request in ended:
            self._step(Finished(str(request)))
        self._announce_end(entry.host)

    def _account(self, event: Event | None) -> None:
        """What the end of a transition changes on the accelerator. Those in RAM alone change nothing."""
        if isinstance(event, Slept) and (event.expert, event.host) in self._leaving_ram:
            self._leaving_ram.remove((event.expert, event.host))
        elif isinstance(event, Slept | Ready):
            self._transition_over(event.host)
            if isinstance(event, Slept):
                self._hold(-self._cluster.experts[event.expert].size.weights_gb)

    def _place_anew(self, replan: Replanning) -> None:
        self._now = replan.next_at
        change = replan.judge(self._scheduler.work_done(self._now), self._now)
        if change is not None:
            plan, moves = change
            self._outcome.moves += moves
            self._act(self._scheduler.reconfigure(plan, self._now))

    def _step(self, event: Event) -> None:
        """One step of the scheduler, and its actions."""
        started = time.thread_time()
        actions = self._scheduler.step(event, self._now)
        self._outcome.decision_s += time.thread_time() - started
        self._outcome.steps += 1
        self._act(actions)

    def _act(self, actions: list[Action]) -> None:
        busy: set[HostId] = set()
        for action in actions:
            self._carry_out[type(action)](action)
            if isinstance(action, Grant):
                busy.add(action.host)
        for host in sorted(busy):
            self._announce_end(host)

    def _grant(self, grant: Grant) -> None:
        request = int(grant.request)
        self._outcome.granted[request] = self._now
        self._machines[grant.host].start(request, grant.expert, self._workload.work[request], self._now)

    def _load(self, action: Load | Wake) -> None:
        cluster, expert, host = self._cluster, action.expert, action.host
        seconds = 0.0
        if isinstance(action, Wake):
            self._outcome.wakes += 1
            seconds = cluster.wake_s(expert)
        else:
            self._outcome.loads += 1
            seconds = cluster.load_s(expert, host)
        kept = (expert, host) in self._in_ram
        from_disk = isinstance(action, Load) or not kept
        if from_disk and cluster.uses_ram(expert, host):
            seconds += self._ram.read(expert, self._now)
        self._let_go((expert, host))
        self._hold(cluster.experts[expert].size.weights_gb)
        self._transition(host, seconds, Ready(expert, host))

    def _sleep(self, action: Sleep | Evict) -> None:
        seat = action.expert, action.host
        seconds = self._cluster.sleep_s(*seat)
        if isinstance(action, Sleep) and action.level == 1:
            self._in_ram.add(seat)
            self._ram.keep(action.expert, self._now)
        elif self._let_go(seat):
            self._leaving_ram.add(seat)
            self._push(self._now, action.host, 0, Slept(*seat))
            return
        self._transition(action.host, seconds, Slept(action.expert, action.host))

    def _prefetch(self, action: Prefetch) -> None:
        expert, host = action.expert, action.host
        self._outcome.prefetches += 1
        self._in_ram.add((expert, host))
        seconds = self._ram.prefetch(expert, self._now) if self._cluster.uses_ram(expert, host) else 0.0
        self._push(self._now + seconds, host, 0, Prefetched(expert, host))

    def _release(self, action: Release) -> None:
        self._let_go((action.expert, action.host))

    def _let_go(self, seat: tuple[ExpertId, HostId]) -> bool:
        """Whether the scheduler kept weights in RAM there, which it does no longer."""
        if seat not in self._in_ram:
            return False
        self._in_ram.remove(seat)
        self._ram.let_go(seat[0])
        return True

    def _reject(self, action: Reject) -> None:  # noqa: ARG002
        self._outcome.rejected += 1
        self._open -= 1

    def _announce_end(self, host: HostId) -> None:
        machine = self._machines[host]
        at = machine.next_end()
        if at < math.inf:
            self._push(at, host, machine.version, REQUEST_ENDS)

    def _transition(self, host: HostId, seconds: float, event: Event) -> None:
        switching = self._switching[host]
        if not switching.under_way:
            switching.since = self._now
        switching.under_way += 1
        self._push(self._now + seconds, host, 0, event)

    def _transition_over(self, host: HostId) -> None:
        switching = self._switching[host]
        switching.under_way -= 1
        if not switching.under_way:
            self._outcome.switching_s += self._now - switching.since

    def _push(self, at: float, host: HostId, version: int, event: Event | None) -> None:
        self._order += 1
        heapq.heappush(self._heap, _Entry(at, self._order, host, version, event))

    def _hold(self, gb: float) -> None:
        outcome = self._outcome
        outcome.gb_seconds += self._held_gb * (self._now - self._held_since)
        self._held_since = self._now
        self._held_gb += gb
        outcome.peak_gb = max(outcome.peak_gb, self._held_gb)

    def close(self) -> Outcome:
        """What has happened."""
        self._hold(0.0)
        for switching in self._switching.values():
            if switching.under_way:
                self._outcome.switching_s += self._now - switching.since
        self._outcome.end = self._now
        self._outcome.ram_peak_gb = self._ram.peak_gb
        return self._outcome
