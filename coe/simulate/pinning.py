"""Which experts an operator who knows the trace would pin: for the policy ``static``."""

from __future__ import annotations

from collections import defaultdict

from coe.core.types import ExpertId
from coe.scheduler.plan import EPSILON
from coe.simulate.cluster import Cluster
from coe.simulate.workload import Workload


def pinned_by_load(workload: Workload, cluster: Cluster) -> tuple[ExpertId, ...]:
    """The experts with the most work, as long as their hosts keep room for the largest one besides."""
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
