"""Single runs, and what a search over runs finds: the arrival rate that a machine sustains."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from coe.core.types import ExpertId
from coe.scheduler.plan import EPSILON
from coe.scheduler.policies import Policy
from coe.simulate.baselines import make_policy, under_policy
from coe.simulate.baselines.coserve import CoServe
from coe.simulate.cluster import Cluster
from coe.simulate.driver import Simulation
from coe.simulate.metrics import Row, measure
from coe.simulate.replan import Replanning
from coe.simulate.workload import Workload

REFERENCE_POLICY = "collating-fifo"
"""What measures the capacity without switching costs: simple, and it does not change when ours does."""

SUSTAINED_GOODPUT = 0.9
SAMPLE = 4_000
"""Requests (the first ones) that measure a capacity."""

LEAST_LOAD = 0.125
"""Of one request at a time on each host: where the search begins."""


def named_policy(name: str, workload: Workload, cluster: Cluster) -> Policy:
    """The policy as the service would make it. Two know the trace: ``static`` pins what an operator who knew
    it would, ``coserve`` how often each expert is used."""
    pinned = cluster.pool.pinned or _pinned_by_load(workload, cluster)
    pool = under_policy(cluster.pool, name).model_copy(update={"pinned": pinned})
    policy = make_policy(pool, cluster.folder)
    return replace(policy, usage=Counter(workload.experts)) if isinstance(policy, CoServe) else policy


def _pinned_by_load(workload: Workload, cluster: Cluster) -> tuple[ExpertId, ...]:
    """What an operator who knows the trace would pin: the experts with the most work, as long as their hosts
    keep room for the largest one besides."""
    work: dict[ExpertId, float] = defaultdict(float)
    for expert, seconds in zip(workload.experts, workload.work, strict=True):
        work[expert] += seconds
    plans = {plan.id: plan for plan in cluster.plan.experts}
    capacities = {plan.id: plan.capacity for plan in cluster.plan.hosts}
    largest: dict[tuple[str, ...], float] = defaultdict(float)
    for plan in plans.values():
        largest[plan.hosts] = max(largest[plan.hosts], plan.footprint)
    room = {hosts: sum(capacities[host] for host in hosts) - size for hosts, size in largest.items()}
    pinned = []
    for expert in sorted(work, key=lambda one: (-work[one], one)):
        plan = plans[expert]
        if plan.footprint <= room[plan.hosts] + EPSILON:
            room[plan.hosts] -= plan.footprint
            pinned.append(expert)
    return tuple(pinned)


def run_policy(
    name: str, cluster: Cluster, workload: Workload, slo_s: float, replan_s: float | None = None
) -> Row:
    """``replan_s``: seconds of virtual time after which experts are placed anew (None: never)."""
    replan = None if replan_s is None else Replanning(cluster, replan_s)
    outcome = Simulation(cluster, workload, named_policy(name, workload, cluster), replan).run()
    return measure(name, outcome, workload, cluster, slo_s)


def sustained_rate(
    policy: str, cluster: Cluster, workload: Workload, slo_s: float, precision: float
) -> float:
    """Work (seconds at batch 1) per second, as these requests bring it at an even pace, that ``policy``
    takes with 90% of the requests within the SLO. 0 when not even an eighth of what hosts do one request
    at a time; at most what full batches do. ``precision`` is relative."""
    alone = _speed(cluster, 1)
    full = sum(host.capacity for host in cluster.hosts.values())
    sustains = partial(_sustains, policy, cluster, workload, slo_s)
    return _greatest(sustains, LEAST_LOAD * alone, full, precision)


def switch_free_capacity(cluster: Cluster, workload: Workload, slo_s: float) -> float:
    """Work per second at load 1: what the machine sustains when swapping costs nothing.

    Where the requests cannot show it (nearly all miss the SLO at any rate, or all arrive at once) it is what
    hosts do that run one request at a time.
    """
    sample = workload.first(SAMPLE)
    alone = _speed(cluster, 1)
    if not sample.span_s or not sample.total_work:
        return alone
    free = cluster.without_switching_costs()
    return sustained_rate(REFERENCE_POLICY, free, sample, slo_s, precision=0.08) or alone


def _sustains(policy: str, cluster: Cluster, workload: Workload, slo_s: float, rate: float) -> bool:
    paced = workload.at_rate(rate)
    pace = Pace(paced.arrivals, slo_s, SUSTAINED_GOODPUT)
    Simulation(cluster, paced, named_policy(policy, paced, cluster), watch=pace).run()
    return pace.kept


class Pace:
    """Watches whether a share ``goodput`` of all requests ends within the SLO, until that is certain."""

    def __init__(self, arrivals: Sequence[float], slo_s: float, goodput: float) -> None:
        self._arrivals, self._slo_s = arrivals, slo_s
        self._needed = next(n for n in range(len(arrivals) + 1) if n / len(arrivals) >= goodput)
        self._good = self._late = 0

    def ended(self, request: int, now: float) -> None:
        if now - self._arrivals[request] <= self._slo_s:
            self._good += 1
        # Of those whose time is over no more were good than of all so far.
        self._late = bisect_left(self._arrivals, now - self._slo_s) - self._good

    @property
    def kept(self) -> bool:
        return self._good >= self._needed

    @property
    def settled(self) -> bool:
        return self.kept or len(self._arrivals) - self._late < self._needed


def _greatest(holds: Callable[[float], bool], low: float, high: float, precision: float) -> float:
    """The greatest value from ``low`` to ``high`` that holds, 0 when ``low`` does not."""
    if not holds(low):
        return 0.0
    while high / low > 1.0 + precision:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def with_capacities(
    clusters: Sequence[Cluster], workload: Workload, slo_s: float, load_batch: int | None
) -> list[Cluster]:
    """The clusters with what load 1 means on them: measured on the first (the others in proportion to their
    hosts), or hosts that always run ``load_batch`` at once."""
    if load_batch is not None:
        return [replace(c, work_per_s=_speed(c, load_batch)) for c in clusters]
    per_host = switch_free_capacity(clusters[0], workload, slo_s) / _speed(clusters[0], 1)
    return [replace(c, work_per_s=per_host * _speed(c, 1)) for c in clusters]


def _speed(cluster: Cluster, batch: int) -> float:
    return sum(host.speed(batch) for host in cluster.hosts.values())
