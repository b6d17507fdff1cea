"""The offline optimum of small instances by constraint programming (OR-tools CP-SAT).

It knows the future. Requests of one expert start in order of arrival, as the scheduler grants them; on a
host, work of different experts is separated by a sleep and a load; at most a batch runs together. How a
batch slows its members down (a convex function of its size) is replaced by the chord from 1 to the largest
size possible, times are rounded down to milliseconds: so the figure never exceeds what a policy can
reach, and it is the optimum itself where batches are of one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations
from typing import TYPE_CHECKING, Literal

from coe.core.types import ExpertId
from coe.scheduler.events import HostId
from coe.simulate.bounds import first_load_costs
from coe.simulate.cluster import Cluster
from coe.simulate.machine import batch_speed
from coe.simulate.workload import Workload

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, IntVar

MAX_REQUESTS, MAX_EXPERTS, MAX_HOSTS = 40, 5, 2
PER_SECOND = 1_000
CHORD_SCALE = 10_000

Status = Literal["optimal", "not proved", "too large", "not applicable", "off", "no solver"]


@dataclass(frozen=True)
class Exact:
    """``mean`` (seconds of latency) only when proved optimal; otherwise it is between ``bound``, which was
    proved, and ``best``, which was found."""

    status: Status
    mean: float | None = None
    bound: float | None = None
    best: float | None = None


def solve_exact(
    workload: Workload, cluster: Cluster, limit_s: float, known_mean: float | None = None, seed: int = 0
) -> Exact:
    """The least possible mean latency. Deterministic: ``limit_s`` is the solver's deterministic time.

    ``known_mean`` is that of some policy: a bound that makes the search shorter.
    """
    if limit_s <= 0:
        return Exact("off")
    if any(host.swapping not in ("slot", "in_place") for host in cluster.hosts.values()):
        return Exact("not applicable")
    experts = set(workload.experts)
    if len(workload) > MAX_REQUESTS or len(experts) > MAX_EXPERTS or len(cluster.hosts) > MAX_HOSTS:
        return Exact("too large")
    if any(set(plan.hosts) != set(cluster.hosts) for plan in cluster.plan.experts if plan.id in experts):
        return Exact("not applicable")
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        return Exact("no solver")
    problem = _Problem(cp_model.CpModel(), workload, cluster)
    problem.build(known_mean)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = limit_s
    status = solver.status_name(solver.solve(problem.model))
    bound = problem.mean_latency(solver.best_objective_bound)
    best = problem.mean_latency(solver.objective_value) if status in ("OPTIMAL", "FEASIBLE") else None
    if status == "OPTIMAL":
        return Exact("optimal", best, bound, best)
    return Exact("not proved", None, bound, best)


class _Problem:
    """The integer programme; all times in whole ticks of 1 ms: finer ones make the proof much longer."""

    def __init__(self, model: CpModel, workload: Workload, cluster: Cluster) -> None:
        self.model = model
        self._workload, self._cluster = workload, cluster
        self._hosts: tuple[HostId, ...] = tuple(cluster.hosts)
        self._arrivals = [_ticks(t) for t in workload.arrivals]
        self._work = [_ticks(seconds) for seconds in workload.work]
        self._requests: dict[ExpertId, list[int]] = defaultdict(list)
        for request, expert in enumerate(workload.experts):
            self._requests[expert].append(request)
        self._batch = max(host.batch for host in cluster.hosts.values())
        self._starts: list[IntVar] = []
        self._ends: list[IntVar] = []
        self._runs: list[IntVar] = []
        self._second: list[IntVar] = []
        """With two hosts: whether the request runs on the second."""
        self._same: dict[tuple[int, int], IntVar] = {}

    def mean_latency(self, objective: float) -> float:
        return max(0.0, (objective / PER_SECOND - sum(self._workload.arrivals)) / len(self._workload))

    def build(self, known_mean: float | None) -> None:
        horizon = self._horizon()
        loads = first_load_costs(self._workload, self._cluster)
        for request, expert in enumerate(self._workload.experts):
            first_ready = self._arrivals[self._requests[expert][0]] + _ticks(loads[expert])
            earliest = max(self._arrivals[request], first_ready)
            self._add_request(request, earliest, horizon, self._largest_batch(expert))
        if len(self._hosts) == 2:
            self._second = [self.model.new_bool_var("") for _ in self._work]
            self.model.add(self._second[0] == 0)
        for requests in self._requests.values():
            self._in_order(requests)
            self._slow_down(requests, horizon)
        self._separate_experts()
        if known_mean is not None:
            total = known_mean * len(self._workload) + sum(self._workload.arrivals)
            self.model.add(sum(self._ends) <= math.ceil(total * PER_SECOND))
        self.model.minimize(sum(self._ends))

    def _horizon(self) -> int:
        """Serving one request after the other, each after a swap, ends before this."""
        swap = max(self._swap_ticks(a, b) for a in self._requests for b in self._requests)
        loads = first_load_costs(self._workload, self._cluster)
        swap = max(swap, *(_ticks(cost) for cost in loads.values()))
        slowest = sum(work / batch_speed(self._batch) for work in self._work)
        return self._arrivals[-1] + math.ceil(slowest) + (swap + 2) * len(self._work)

    def _largest_batch(self, expert: ExpertId) -> int:
        return min(self._batch, len(self._requests[expert]))

    def _swap_ticks(self, out: ExpertId, back: ExpertId) -> int:
        host = self._hosts[0]
        return _ticks(self._cluster.sleep_s(out, host)) + _ticks(self._cluster.load_s(back, host))

    def _add_request(self, request: int, earliest: int, horizon: int, batch: int) -> None:
        work = self._work[request]
        longest = math.ceil(work / batch_speed(batch)) + 1
        start = self.model.new_int_var(earliest, horizon, f"start{request}")
        end = self.model.new_int_var(earliest + work, horizon, f"end{request}")
        run = self.model.new_int_var(work, longest, f"run{request}")
        self.model.add(start + run == end)
        self._starts.append(start)
        self._ends.append(end)
        self._runs.append(run)

    def _in_order(self, requests: Sequence[int]) -> None:
        """Starts in order of arrival; the one a batch (on every host) further waits for some end."""
        for earlier, later in pairwise(requests):
            self.model.add(self._starts[earlier] <= self._starts[later])
        places = self._batch * len(self._hosts)
        if len(requests) > places:
            intervals = [
                self.model.new_interval_var(self._starts[r], self._runs[r], self._ends[r], "")
                for r in requests
            ]
            self.model.add_cumulative(intervals, [1] * len(requests), places)

    def _slow_down(self, requests: Sequence[int], horizon: int) -> None:
        """Every tick together with another request on the host costs the chord's slope."""
        largest = min(self._batch, len(requests))
        if largest < 2:
            return
        slope = math.floor(CHORD_SCALE * (1.0 - batch_speed(largest)) / (largest - 1))
        overlaps: dict[int, list[IntVar]] = defaultdict(list)
        for earlier, later in combinations(requests, 2):
            first_end = self.model.new_int_var(0, horizon, "")
            self.model.add_min_equality(first_end, [self._ends[earlier], self._ends[later]])
            overlap = self.model.new_int_var(0, horizon, "")
            rule = self.model.add(overlap >= first_end - self._starts[later])
            if self._second:
                rule.only_enforce_if(self._together(earlier, later))
            overlaps[earlier].append(overlap)
            overlaps[later].append(overlap)
        for request, shared in overlaps.items():
            spoilt = slope * (sum(shared) - len(shared))
            run, work = self._runs[request], self._work[request]
            self.model.add(CHORD_SCALE * run >= CHORD_SCALE * (work - 1) + spoilt)

    def _separate_experts(self) -> None:
        before: dict[tuple[int, int], IntVar] = {}
        for one, other in permutations(range(len(self._work)), 2):
            expert, other_expert = self._workload.experts[one], self._workload.experts[other]
            if expert == other_expert:
                continue
            before[one, other] = first = self.model.new_bool_var("")
            swap = self._swap_ticks(expert, other_expert)
            self.model.add(self._ends[one] + swap <= self._starts[other]).only_enforce_if(first)
        for (one, other), first in before.items():
            if one < other:
                apart = [self._together(one, other).negated()] if self._second else []
                self.model.add_bool_or(first, before[other, one], *apart)
                self.model.add_bool_or(first.negated(), before[other, one].negated())
        self._keep_in_order(before)

    def _keep_in_order(self, before: Mapping[tuple[int, int], IntVar]) -> None:
        """Implied, but they shorten the proof: what is before a request of another expert on its host has
        its own expert's earlier ones there before it too, and that expert's later ones after it."""
        for requests in self._requests.values():
            for earlier, later in pairwise(requests):
                apart = [self._together(earlier, later).negated()] if self._second else []
                for other, expert in enumerate(self._workload.experts):
                    if expert == self._workload.experts[earlier]:
                        continue
                    mixed = [self._together(later, other).negated(), *apart] if self._second else []
                    self.model.add_bool_or(before[later, other].negated(), before[earlier, other], *mixed)
                    self.model.add_bool_or(before[other, earlier].negated(), before[other, later], *mixed)

    def _together(self, one: int, other: int) -> IntVar:
        """Whether both run on the same host."""
        pair = (min(one, other), max(one, other))
        same = self._same.get(pair)
        if same is None:
            same = self._same[pair] = self.model.new_bool_var("")
            self.model.add(self._second[one] == self._second[other]).only_enforce_if(same)
            self.model.add(self._second[one] != self._second[other]).only_enforce_if(same.negated())
        return same


def _ticks(seconds: float) -> int:
    """Rounded down: a real schedule stays feasible when all its times are rounded down."""
    return math.floor(seconds * PER_SECOND + 1e-6)
