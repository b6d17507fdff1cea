"""The most requests in time that any schedule could reach on small instances, beside what policies reach.

One slot with batches of one. The schedule knows every arrival and run time beforehand and need not serve
what would be late. So no policy can do better: not with other orders, other groups, or lingering.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from coe.simulate.cluster import Cluster, slots_cluster
from coe.simulate.hardware import find_preset
from coe.simulate.runs import run_policy
from coe.simulate.workload import Workload

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, LiteralT

INSTANCES, REQUESTS, EXPERTS = 10, 24, 4
SLO_S, RATE = 6.0, 0.6
PER_SECOND = 1_000


@dataclass(frozen=True)
class Optimum:
    """Shares of the requests in time, means over ``instances``; ``best`` is proved."""

    instances: int
    ours: float
    theirs: float
    best: float

    @property
    def closed(self) -> float:
        """How much of the gap between ``theirs`` and ``best`` is closed by ``ours``."""
        return (self.ours - self.theirs) / (self.best - self.theirs)


def small_instances(count: int = INSTANCES) -> Iterator[tuple[Workload, Cluster]]:
    """Poisson arrivals of exponential work with mean 1 s, skewed over a few experts."""
    for seed in range(count):
        drawn = random.Random(1_000 + seed)
        experts = tuple(f"expert-{i}" for i in range(EXPERTS))
        gaps = [drawn.expovariate(RATE) for _ in range(REQUESTS)]
        arrivals = tuple(sum(gaps[: i + 1]) - gaps[0] for i in range(REQUESTS))
        chosen = tuple(drawn.choices(experts, weights=(6, 3, 2, 1), k=REQUESTS))
        work = tuple(drawn.expovariate(1.0) for _ in range(REQUESTS))
        cluster = slots_cluster(experts, 1, find_preset("h100"), max_batch=1).with_slo(SLO_S)
        yield Workload(arrivals, chosen, work), cluster


def goodput_beside_the_optimum(
    theirs: str = "collating-fifo", count: int = INSTANCES, limit_s: float = 20.0
) -> Optimum:
    """Of instances whose optimum was proved within the solver's deterministic time ``limit_s``."""
    found = []
    for workload, cluster in small_instances(count):
        best = most_in_time(workload, cluster, SLO_S, limit_s)
        if best is not None:
            ours = run_policy("coe", cluster, workload, SLO_S).goodput
            other = run_policy(theirs, cluster, workload, SLO_S).goodput
            found.append((ours, other, best / len(workload)))
    means = [sum(column) / len(found) for column in zip(*found, strict=True)]
    return Optimum(len(found), *means)


def most_in_time(workload: Workload, cluster: Cluster, slo_s: float, limit_s: float) -> int | None:
    """How many requests can be answered within ``slo_s`` on the first slot, one at a time; None when that is
    not proved. Times are rounded down to milliseconds, so it is never less than what is possible.

    A tour through the requests that are in time: the one after another starts when that has ended, after a
    sleep and a load where their experts differ.
    """
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    count = len(workload)
    host = next(iter(cluster.hosts))
    starts, taken = [], []
    arcs: list[tuple[int, int, LiteralT]] = []
    for request, arrived in enumerate(workload.arrivals):
        work, expert = workload.work[request], workload.experts[request]
        latest = max(arrived, arrived + slo_s - work)
        start = model.new_int_var(_ticks(arrived), _ticks(latest), "")
        chosen = model.new_bool_var("")
        if work > slo_s:
            model.add(chosen == 0)
        first = model.new_bool_var("")
        loaded = _first_asked(workload, expert) + cluster.load_s(expert, host)
        model.add(start >= _ticks(loaded)).only_enforce_if(first)
        arcs += [(0, request + 1, first), (request + 1, 0, model.new_bool_var(""))]
        arcs.append((request + 1, request + 1, chosen.negated()))
        starts.append(start)
        taken.append(chosen)
    for one, other in permutations(range(count), 2):
        follows = model.new_bool_var("")
        pause = _between(workload.experts[one], workload.experts[other], cluster, host)
        model.add(starts[other] >= starts[one] + _ticks(workload.work[one]) + _ticks(pause)).only_enforce_if(
            follows
        )
        arcs.append((one + 1, other + 1, follows))
    arcs.append((0, 0, model.new_bool_var("")))
    model.add_circuit(arcs)
    model.maximize(sum(taken))
    return _proved(model, limit_s)


def _proved(model: CpModel, limit_s: float) -> int | None:
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = limit_s
    status = solver.status_name(solver.solve(model))
    return round(solver.objective_value) if status == "OPTIMAL" else None


def _first_asked(workload: Workload, expert: str) -> float:
    return next(t for t, e in zip(workload.arrivals, workload.experts, strict=True) if e == expert)


def _between(one: str, other: str, cluster: Cluster, host: str) -> float:
    return 0.0 if one == other else cluster.sleep_s(one, host) + cluster.load_s(other, host)


def _ticks(seconds: float) -> int:
    return int(seconds * PER_SECOND + 1e-6)
