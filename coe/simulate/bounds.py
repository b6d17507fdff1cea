"""What no policy can beat on a workload and a cluster.

The bounds hold for policies that answer every request and that load an expert only when a request for it
has arrived. Hosts and experts fall into groups that share nothing; each bound is the worst of its groups.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from coe.core.types import ExpertId
from coe.scheduler.events import HostId
from coe.simulate.cluster import Cluster
from coe.simulate.workload import Workload

BISECTIONS = 60


@dataclass(frozen=True)
class LowerBounds:
    """``lb1`` bounds the mean latency: every request runs alone at full speed, and the first of an expert
    waits for its load. ``lb3`` bounds it too: one machine as fast as all hosts together, shortest remaining
    work first. ``lb2``: hosts needed at least, ``sum(rho_i + f_i tau_i)`` with each expert loaded once; above
    ``hosts`` the queue grows. ``lb4`` bounds the longest wait until the grant."""

    lb1: float
    lb2: float
    lb3: float
    lb4: float


@dataclass(frozen=True)
class _Group:
    """Requests (in order of arrival) of experts that share hosts."""

    hosts: tuple[HostId, ...]
    requests: tuple[int, ...]


def lower_bounds(workload: Workload, cluster: Cluster) -> LowerBounds:
    first_loads = first_load_costs(workload, cluster)
    alone = sum(workload.work) + sum(first_loads.values())
    groups = _groups(workload, cluster)
    return LowerBounds(
        lb1=alone / len(workload),
        lb2=sum(_hosts_needed(group, workload, cluster, first_loads) for group in groups),
        lb3=sum(_shortest_first(group, workload, cluster) for group in groups) / len(workload),
        lb4=max(_longest_wait(group, workload, cluster, first_loads) for group in groups),
    )


def first_load_costs(workload: Workload, cluster: Cluster) -> dict[ExpertId, float]:
    """Seconds from the first arrival of each expert that is used until it can run, at best."""
    in_ram = set(cluster.in_ram_at_start())
    hosts = {plan.id: plan.hosts for plan in cluster.plan.experts}
    costs: dict[ExpertId, float] = {}
    for expert in dict.fromkeys(workload.experts):
        loads = []
        for host in hosts[expert]:
            from_disk = expert not in in_ram and cluster.uses_ram(expert, host)
            loads.append(cluster.load_s(expert, host) + (cluster.disk_s(expert) if from_disk else 0.0))
        costs[expert] = min(loads)
    return costs


def reload_cost(expert: ExpertId, hosts: tuple[HostId, ...], cluster: Cluster) -> float:
    """Host time that putting an expert away and bringing it back takes at best."""
    costs = []
    for host in hosts:
        back = cluster.load_s(expert, host)
        if cluster.hosts[host].swapping == "sleep":
            back = min(back, cluster.wake_s(expert))
        costs.append(cluster.sleep_s(expert, host) + back)
    return min(costs)


def _groups(workload: Workload, cluster: Cluster) -> list[_Group]:
    """Connected parts of the graph of experts and hosts."""
    leader: dict[HostId, HostId] = {host: host for host in cluster.hosts}

    def find(host: HostId) -> HostId:
        while leader[host] != host:
            host = leader[host]
        return host

    of_expert: dict[ExpertId, HostId] = {}
    for plan in cluster.plan.experts:
        of_expert[plan.id] = plan.hosts[0]
        for host in plan.hosts[1:]:
            leader[find(host)] = find(plan.hosts[0])
    requests: dict[HostId, list[int]] = defaultdict(list)
    for request, expert in enumerate(workload.experts):
        requests[find(of_expert[expert])].append(request)
    return [
        _Group(tuple(host for host in cluster.hosts if find(host) == head), tuple(members))
        for head, members in requests.items()
    ]


def _capacity(group: _Group, cluster: Cluster) -> float:
    return sum(cluster.hosts[host].capacity for host in group.hosts)


def _one_at_a_time(group: _Group, cluster: Cluster) -> bool:
    """Whether every host holds one expert, so that a load stops its work."""
    return all(cluster.hosts[host].swapping in ("slot", "in_place") for host in group.hosts)


def _hosts_needed(
    group: _Group, workload: Workload, cluster: Cluster, first_loads: Mapping[ExpertId, float]
) -> float:
    if not workload.span_s:
        return float(len(group.hosts))
    work = sum(workload.work[r] for r in group.requests) / _capacity(group, cluster) * len(group.hosts)
    used = {workload.experts[r] for r in group.requests}
    loads = sum(first_loads[expert] for expert in used) if _one_at_a_time(group, cluster) else 0.0
    return (work + loads) / workload.span_s


def _shortest_first(group: _Group, workload: Workload, cluster: Cluster) -> float:
    """Sum of latencies on one machine with the group's capacity, preemptive, least remaining work first:
    optimal there, and that machine can imitate any schedule of the hosts."""
    speed = _capacity(group, cluster)
    waiting: list[tuple[float, float]] = []
    total, now = 0.0, 0.0
    arrivals = [(workload.arrivals[r], workload.work[r] / speed) for r in group.requests]
    for index, (arrived, seconds) in enumerate(arrivals):
        now = max(now, arrived)
        heapq.heappush(waiting, (seconds, arrived))
        until = arrivals[index + 1][0] if index + 1 < len(arrivals) else float("inf")
        while waiting and now < until:
            left, since = heapq.heappop(waiting)
            if now + left > until:
                heapq.heappush(waiting, (left - (until - now), since))
                now = until
            else:
                now += left
                total += now - since
    return total


def _longest_wait(
    group: _Group, workload: Workload, cluster: Cluster, first_loads: Mapping[ExpertId, float]
) -> float:
    """The least D for which ``every request is granted within D of its arrival`` is not impossible.

    Between the grants of two requests of one expert, in order, it stays (and holds its place for the gap
    less D at least) or is put away and brought back. All that happens before the last grant, and all work
    before the last possible end.
    """
    switches = any(cluster.hosts[host].swapping != "none" for host in group.hosts)
    held = _Residency(group, workload, cluster, first_loads) if switches else None
    capacity = _capacity(group, cluster)
    work = sum(workload.work[r] for r in group.requests) / capacity
    loads = 0.0
    if held and _one_at_a_time(group, cluster):
        loads = sum(cost for cost in held.first_loads) / len(group.hosts)
    longest = max(
        workload.work[r] * max(cluster.hosts[h].batch / cluster.hosts[h].capacity for h in group.hosts)
        for r in group.requests
    )
    last, first = workload.arrivals[group.requests[-1]], workload.arrivals[group.requests[0]]

    def possible(wait: float) -> bool:
        if work + loads > last - first + wait + longest:
            return False
        return held is None or held.needed(wait) <= held.places * (last - first + wait)

    low, high = 0.0, work + loads + (held.needed(0.0) / held.places if held else 0.0)
    if possible(0.0):
        return 0.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if possible(middle) else (middle, high)
    return low


class _Residency:
    """Place-time (capacity of hosts x seconds) that a group's experts need when no wait exceeds D."""

    def __init__(
        self, group: _Group, workload: Workload, cluster: Cluster, first_loads: Mapping[ExpertId, float]
    ) -> None:
        import numpy as np

        footprints = {plan.id: plan.footprint for plan in cluster.plan.experts}
        capacities = {plan.id: plan.capacity for plan in cluster.plan.hosts}
        self.places = sum(capacities[host] for host in group.hosts)
        by_expert: dict[ExpertId, list[float]] = defaultdict(list)
        for request in group.requests:
            by_expert[workload.experts[request]].append(workload.arrivals[request])
        self.first_loads = [first_loads[expert] for expert in by_expert]
        self._fixed = sum(first_loads[expert] * footprints[expert] for expert in by_expert)
        gaps, reloads, sizes = [], [], []
        for expert, arrivals in by_expert.items():
            gaps.append(np.diff(np.asarray(arrivals)))
            reloads.append(np.full(len(arrivals) - 1, reload_cost(expert, group.hosts, cluster)))
            sizes.append(np.full(len(arrivals) - 1, footprints[expert]))
        self._gaps, self._reloads = np.concatenate(gaps), np.concatenate(reloads)
        self._sizes = np.concatenate(sizes)

    def needed(self, wait: float) -> float:
        import numpy as np

        kept = np.minimum(np.maximum(0.0, self._gaps - wait), self._reloads)
        return self._fixed + float((kept * self._sizes).sum())
