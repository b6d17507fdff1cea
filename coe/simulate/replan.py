"""Re-planning in virtual time: looks at the work that was done, and asks whether experts should move."""

from __future__ import annotations

from dataclasses import replace

from coe.placement.assign import on_hosts
from coe.placement.rebalance import Looks, relocate
from coe.scheduler.estimates import WorkDone
from coe.scheduler.plan import PoolPlan, build_plan
from coe.simulate.cluster import Cluster
from coe.simulate.errors import SimulationError


class Replanning:
    """Every ``every_s`` seconds, as the service does it, though experts whose host is written move too. Of
    one run."""

    def __init__(self, cluster: Cluster, every_s: float) -> None:
        if cluster.registry is None:
            raise SimulationError("only a registry has hosts to move experts between", hint="give --registry")
        self._plan, self._registry, self._every_s = cluster.plan, cluster.registry, every_s
        self._looks = Looks()
        self.next_at = every_s

    def judge(self, done: WorkDone, now: float) -> tuple[PoolPlan, int] | None:
        """The pool's next plan, and how many experts move; None: stay. The next time is ``every_s`` later."""
        self.next_at = now + self._every_s
        self._looks.add(done, now)
        everybody = [expert.id for expert in self._registry.experts]
        moves = relocate(self._registry, everybody, self._looks(), horizon_s=self._every_s)
        if not moves.hosts:
            return None
        self._looks.begin(done, now)
        self._registry = on_hosts(self._registry, moves.hosts)
        plan = build_plan(self._registry)
        return replace(self._plan, hosts=plan.hosts, experts=plan.experts), len(moves.hosts)
