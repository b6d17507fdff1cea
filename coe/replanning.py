"""Re-planning of a placement, slowly: a move must gain more than it costs. Pure: no clock, no log.

What is observed comes in, another plan or the word to stay goes out. While the load stays as it is, a plan
that was taken up is not left again: each move must lower the cost of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coe.errors import ConfigError
from coe.placement import SCALE, Node, PlacedExpert, Plan, Problem, Recruited, cost, place
from coe.types import ExpertId


@dataclass(frozen=True)
class Observed:
    """``loads``: seconds of work that each expert's requests bring in a second. ``move_s``: what it takes to
    bring an expert in on another node, in seconds of that node (0 where there is none)."""

    loads: Mapping[ExpertId, float]
    move_s: Mapping[ExpertId, float]
    recruited: Sequence[Recruited] = ()


@dataclass(frozen=True)
class Verdict:
    """``plan``: the one to go over to, None: stay. ``gain_s``: node time that it saves within the horizon,
    ``moves_s``: what the moves take; both of the best plan that was found, taken up or not."""

    plan: Plan | None
    gain_s: float
    moves_s: float
    moved: tuple[ExpertId, ...] = ()


@dataclass(frozen=True)
class Replanner:
    """``experts``: with any load, for it is observed. ``horizon_s``: for how long the load is taken to stay
    as it was observed. ``limit_s``: deterministic time of the solver for each of its two runs."""

    experts: Sequence[PlacedExpert]
    nodes: Sequence[Node]
    horizon_s: float = 3_600.0
    limit_s: float = 1.0

    def judge(self, present: Plan, seen: Observed, before: Observed | None = None) -> Verdict:
        """Whether to leave ``present`` for the plan that is best for what was ``seen``. Deterministic.

        The gain is the difference of the costs (:func:`coe.placement.cost` without moves, in shares of the
        load) times the load times the horizon: node time. It must be more than what the moves take, also by
        what was seen ``before`` where that is given: what came by chance pays only once. Both plans are
        judged with the best choice of who is awake. Raises ConfigError where nothing fits."""
        verdict = self._best(present, seen)
        if verdict.plan is None or before is None:
            return verdict
        problem = self._problem(before)
        saved = self._awake_in(problem, present) - self._awake_in(problem, verdict.plan)
        if saved * self._work(before) * self.horizon_s > sum(
            before.move_s.get(e, 0.0) for e in verdict.moved
        ):
            return verdict
        return replace(verdict, plan=None, moved=())

    def _best(self, present: Plan, seen: Observed) -> Verdict:
        work = self._work(seen)
        if work <= 0:
            return Verdict(None, 0.0, 0.0)
        problem = self._problem(seen)
        now = self._awake_in(problem, present)
        dearest = max((seen.move_s.get(e.id, 0.0) for e in self.experts), default=0.0)
        too_much = 3.0 + sum(pair.share for pair in seen.recruited)  # no plan costs so much
        per_move = too_much
        if dearest < too_much * work * self.horizon_s:
            per_move = max(dearest / (work * self.horizon_s), 1.0 / SCALE)
        best = place(replace(problem, previous=present, move_gain=per_move), self.limit_s)
        moved = _moved(present, best.plan)
        gain_s = (now - cost(problem, best.plan)) * work * self.horizon_s
        moves_s = sum(seen.move_s.get(expert, 0.0) for expert in moved)
        # On a tie with staying the solver may answer either: staying is what keeps a plan from flapping.
        if not moved or best.cost >= now or gain_s <= moves_s:
            return Verdict(None, gain_s, moves_s)
        return Verdict(best.plan, gain_s, moves_s, moved)

    def _work(self, seen: Observed) -> float:
        return sum(seen.loads.get(expert.id, 0.0) for expert in self.experts)

    def _problem(self, seen: Observed) -> Problem:
        experts = tuple(replace(e, load=seen.loads.get(e.id, 0.0)) for e in self.experts)
        return Problem(experts, self.nodes, seen.recruited)

    def _awake_in(self, problem: Problem, plan: Plan) -> float:
        """What ``plan`` costs at least, with the best choice of who is awake."""
        fixed = tuple(replace(e, nodes=_nodes_of(e.id, plan)) for e in problem.experts)
        return place(replace(problem, experts=fixed), self.limit_s).bound


def _nodes_of(expert: ExpertId, plan: Plan) -> tuple[str, ...]:
    nodes = tuple(node for node, experts in plan.kept.items() if expert in experts)
    if not nodes:
        raise ConfigError(f"expert {expert!r} is on no node of the present plan", hint="place it first")
    return nodes


def _moved(before: Plan, after: Plan) -> tuple[ExpertId, ...]:
    """Experts that come to a node, once for each."""
    none: frozenset[ExpertId] = frozenset()
    return tuple(
        expert for node in after.kept for expert in sorted(after.kept[node] - before.kept.get(node, none))
    )
