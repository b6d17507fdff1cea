"""Re-planning in virtual time: counts the work that comes, and asks whether experts should move."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from coe.placement import Plan
from coe.placing import hosts_in, managed, on_hosts, registry_problem
from coe.pool.events import HostId
from coe.pool.plan import PoolPlan, build_plan
from coe.replanning import Observed, Replanner
from coe.simulate.cluster import Cluster
from coe.simulate.errors import SimulationError
from coe.types import ExpertId


@dataclass(frozen=True)
class Change:
    """The pool's next plan, and how many experts move."""

    plan: PoolPlan
    moves: int


class Replanning:
    """Every ``every_s`` seconds, by the work that came since the last time: experts move between hosts that
    are alike when that saves more within ``every_s`` than the loads take. Of one run."""

    def __init__(self, cluster: Cluster, every_s: float) -> None:
        if cluster.registry is None:
            raise SimulationError("only a registry has hosts to move experts between", hint="give --registry")
        self._cluster, self._every_s = cluster, every_s
        problem = registry_problem(cluster.registry, managed(cluster.registry, free=True), {})
        self._replanner = Replanner(problem.experts, problem.nodes, horizon_s=every_s)
        on: dict[HostId, frozenset[ExpertId]] = {
            node.id: frozenset(e.id for e in cluster.registry.experts_on(node.id)) for node in problem.nodes
        }
        self._present = Plan(on, on)
        self._work: dict[ExpertId, float] = defaultdict(float)
        self.next_at = every_s

    def arrived(self, expert: ExpertId, work: float) -> None:
        self._work[expert] += work

    def judge(self, now: float) -> Change | None:
        """None: stay. The next time is ``every_s`` later."""
        self.next_at = now + self._every_s
        loads = {expert: work / self._every_s for expert, work in self._work.items()}
        self._work.clear()
        hosts = hosts_in(self._present)
        move_s = {expert: self._cluster.load_s(expert, host) for expert, host in hosts.items()}
        verdict = self._replanner.judge(self._present, Observed(loads, move_s))
        if verdict.plan is None or self._cluster.registry is None:
            return None
        self._present = verdict.plan
        plan = build_plan(on_hosts(self._cluster.registry, hosts_in(verdict.plan)))
        before = self._cluster.plan
        return Change(replace(before, hosts=plan.hosts, experts=plan.experts), len(verdict.moved))
