"""Copies of a node in virtual time, under the autoscaling policy that the cluster uses.

Each copy is the service's own scheduler on a simulated machine; requests go to the copy with the shortest
forecast, as gateways send them; Serve's part (who is asked when, its delays and bounds) is modelled here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coe.cluster.messages import OwnerReport
from coe.cluster.scaling import Load, ScaleByForecast
from coe.core.status import ExpertStatus
from coe.core.types import ExpertId
from coe.simulate.baselines import make_policy
from coe.simulate.cluster import Cluster
from coe.simulate.driver import Simulation
from coe.simulate.workload import Workload

POLL_S = 1.0


@dataclass(frozen=True)
class Scaling:
    """Bounds, and what a node's ``autoscaling_config`` has: see :mod:`coe.cluster.serve_config`.

    ``start_s``: from the decision until a new copy takes requests.
    """

    low: int
    high: int
    target_wait_s: float = 10.0
    start_s: float = 60.0
    up_delay_s: float = 5.0
    down_delay_s: float = 120.0


@dataclass(frozen=True)
class Result:
    """``latencies``: seconds from arrival to last token, by request. ``copy_s``: time that copies were held,
    their starts included."""

    latencies: tuple[float, ...]
    copy_s: float
    most: int
    span_s: float
    swaps: int

    def within(self, slo_s: float) -> float:
        """Share of the requests that ended in time."""
        return sum(latency <= slo_s for latency in self.latencies) / len(self.latencies)


@dataclass
class _Copy:
    machine: Simulation
    held_from: float
    ready_at: float
    leaving: bool = False

    def load(self, now: float) -> Load:
        experts = self.machine.snapshot().experts
        shown = {e.expert: ExpertStatus(e.shown, e.queued, e.running) for e in experts}
        waits = {e.expert: self.machine.forecast(e.expert, now) for e in experts}
        return Load.of(OwnerReport("", 1, {}, shown, waits, 0))


@dataclass
class _Context:
    """What Serve tells a policy (:class:`coe.cluster.scaling.ScalingContext`)."""

    current_num_replicas: int
    target_num_replicas: int
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    total_num_requests: float
    aggregated_metrics: Mapping[str, Mapping[Any, float]] = field(default_factory=dict)


class Fleet:
    """One run of a workload. Use once."""

    def __init__(self, cluster: Cluster, workload: Workload, scaling: Scaling) -> None:
        self._cluster, self._workload, self._scaling = cluster, workload, scaling
        self._policy = ScaleByForecast(scaling.target_wait_s)
        self._copies: list[_Copy] = []
        self._gone: list[_Copy] = []
        self._waiting: list[int] = []
        self._target, self._wish, self._wish_since = scaling.low, 0, math.inf
        self._copy_s, self._most = 0.0, 0
        for _ in range(scaling.low):
            self._start(0.0, ready_at=0.0)

    def run(self) -> Result:
        now, poll, following = 0.0, 0.0, 0
        arrivals = self._workload.arrivals
        while following < len(arrivals) or self._busy():
            arrival = arrivals[following] if following < len(arrivals) else math.inf
            copy = min(self._copies, key=lambda c: c.machine.next_at(), default=None)
            own = copy.machine.next_at() if copy else math.inf
            now = min(own, arrival, poll)
            if copy is not None and own <= min(arrival, poll):
                copy.machine.proceed()
            elif arrival <= poll:
                self._send(following, now)
                following += 1
            else:
                self._poll(now)
                poll += POLL_S
        return self._result(now)

    def _busy(self) -> bool:
        return bool(self._waiting) or any(_working(copy) for copy in self._copies)

    def _send(self, request: int, now: float) -> None:
        """To the copy with the shortest wait; with none there it waits for the first."""
        expert: ExpertId = self._workload.experts[request]
        there = [c for c in self._copies if c.ready_at <= now and not c.leaving]
        if there:
            min(there, key=lambda c: c.machine.forecast(expert, now)).machine.arrive(request, now)
        else:
            self._waiting.append(request)

    def _poll(self, now: float) -> None:
        """Serve looks: copies that are ready take who waits, those that left and are done go, and the policy
        is asked."""
        for copy in [c for c in self._copies if c.leaving and not _working(c)]:
            self._copies.remove(copy)
            self._gone.append(copy)
            self._copy_s += now - copy.held_from
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._send(request, now)
        self._decide(self._wanted(now), now)

    def _wanted(self, now: float) -> int:
        there = [c for c in self._copies if c.ready_at <= now and not c.leaving]
        loads = [copy.load(now) for copy in there]
        context = _Context(
            current_num_replicas=len(there),
            target_num_replicas=self._target,
            capacity_adjusted_min_replicas=self._scaling.low,
            capacity_adjusted_max_replicas=self._scaling.high,
            total_num_requests=float(len(self._waiting)),
            aggregated_metrics={
                "wait_s": dict(enumerate(load.wait_s for load in loads)),
                "busy": dict(enumerate(load.busy for load in loads)),
            },
        )
        return self._policy(context)[0]

    def _decide(self, wanted: int, now: float) -> None:
        """Serve acts on a wish only when it has lasted; from nothing it starts the first copy at once."""
        direction = (wanted > self._target) - (wanted < self._target)
        if direction != self._wish:
            self._wish, self._wish_since = direction, now
        if direction == 0:
            return
        delay = self._scaling.up_delay_s if direction > 0 else self._scaling.down_delay_s
        if now - self._wish_since < delay and self._target > 0:
            return
        for _ in range(wanted - self._target):
            self._start(now, now + self._scaling.start_s)
        for copy in self._stayers()[wanted:]:
            copy.leaving = True
        self._target, self._wish = wanted, 0

    def _stayers(self) -> Sequence[_Copy]:
        return [copy for copy in self._copies if not copy.leaving]

    def _start(self, now: float, ready_at: float) -> None:
        machine = Simulation(self._cluster, self._workload, make_policy(self._cluster.pool))
        self._copies.append(_Copy(machine, now, ready_at))
        self._most = max(self._most, len(self._copies))

    def _result(self, now: float) -> Result:
        copy_s = self._copy_s + sum(now - copy.held_from for copy in self._copies)
        outcomes = [copy.machine.close() for copy in (*self._gone, *self._copies)]
        finished = map(min, zip(*(outcome.finished for outcome in outcomes), strict=True))
        latencies = (end - arrival for end, arrival in zip(finished, self._workload.arrivals, strict=True))
        swaps = sum(outcome.loads + outcome.wakes for outcome in outcomes)
        return Result(tuple(latencies), copy_s, self._most, now, swaps)


def _working(copy: _Copy) -> bool:
    return any(expert.queued or expert.running for expert in copy.machine.snapshot().experts)
