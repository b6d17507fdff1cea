"""Which node keeps which expert, by an exact integer programme (OR-tools CP-SAT).

Balanced load and experts that are recruited together on different nodes, so that they run side by side and
do not displace each other (the placement of MoETuner and ExFlow, for whole experts instead of layers). A
plan is only changed when that gains more than a stated amount for each expert that moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from coe.core.errors import ConfigError
from coe.core.types import ExpertId

NodeId = str
Status = Literal["optimal", "time limit", "greedy"]
SCALE = 10_000
"""Shares of the load in whole numbers: the solver's unit."""


@dataclass(frozen=True)
class PlacedExpert:
    """``load``: work per second, in any unit. ``replicas``: nodes that keep it; they share its load.
    ``nodes``: where it may be (None: anywhere)."""

    id: ExpertId
    memory_gb: float
    load: float
    replicas: int = 1
    pinned: bool = False
    nodes: tuple[NodeId, ...] | None = None

    def may_be_on(self, node: NodeId) -> bool:
        return self.nodes is None or node in self.nodes


@dataclass(frozen=True)
class Node:
    """``memory_gb`` for experts that are awake, ``ram_gb`` for all that it keeps, awake ones included."""

    id: NodeId
    memory_gb: float
    ram_gb: float


@dataclass(frozen=True)
class Recruited:
    """Two experts that one request uses together, ``share`` of all requests do (0..1)."""

    one: ExpertId
    other: ExpertId
    share: float


@dataclass(frozen=True)
class Plan:
    """Experts on each node: ``kept`` (awake or asleep) and, among them, ``awake``."""

    kept: Mapping[NodeId, frozenset[ExpertId]]
    awake: Mapping[NodeId, frozenset[ExpertId]]


@dataclass(frozen=True)
class PlacementProblem:
    """``move_gain``: how much of the cost (see :func:`cost`) a moved expert must gain at least."""

    experts: Sequence[PlacedExpert]
    nodes: Sequence[Node]
    recruited: Sequence[Recruited] = ()
    previous: Plan | None = None
    move_gain: float = 0.02


@dataclass(frozen=True)
class Placement:
    """``bound``: no plan costs less. ``moved``: experts that come to a node where they were not."""

    plan: Plan
    status: Status
    cost: float
    bound: float
    moved: int = field(default=0)

    @property
    def gap(self) -> float:
        return max(0.0, self.cost - self.bound)


def cost(problem: PlacementProblem, plan: Plan) -> float:
    """What a plan is judged by, in shares of the load: the busiest node's, plus that of experts which are
    not awake where they are kept, plus the requests whose experts share a node, plus the moves."""
    return _cost_units(problem, plan) / SCALE


def place(problem: PlacementProblem, limit_s: float = 10.0, seed: int = 0) -> Placement:
    """The best plan. Deterministic: ``limit_s`` is the solver's deterministic time.

    Where that does not suffice for a proof, the best plan found or the greedy one, whichever costs less,
    with the bound that was proved. Raises :class:`ConfigError` when the experts do not fit at all.
    """
    _check(problem)
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    kept = {(e.id, n.id): model.new_bool_var("") for e in problem.experts for n in problem.nodes}
    awake = {place: model.new_bool_var("") for place in kept}
    for place, is_awake in awake.items():
        model.add_implication(is_awake, kept[place])
    for expert in problem.experts:
        model.add(sum(kept[expert.id, n.id] for n in problem.nodes) == expert.replicas)
        model.add(sum(kept[expert.id, n.id] for n in problem.nodes if not expert.may_be_on(n.id)) == 0)
        if expert.pinned:
            for node in problem.nodes:
                model.add_implication(kept[expert.id, node.id], awake[expert.id, node.id])
    peak = model.new_int_var(0, SCALE * len(problem.experts), "")
    parts = _parts(problem)
    for node in problem.nodes:
        megabytes = {e.id: _megabytes(e.memory_gb, up=True) for e in problem.experts}
        model.add(sum(megabytes[e] * awake[e, node.id] for e in megabytes) <= _megabytes(node.memory_gb))
        model.add(sum(megabytes[e] * kept[e, node.id] for e in megabytes) <= _megabytes(node.ram_gb))
        model.add(sum(parts[e] * kept[e, node.id] for e in parts) <= peak)
    asleep = sum(parts[e] * (kept[e, n] - awake[e, n]) for e, n in kept)
    together = []
    for pair in problem.recruited:
        for node in problem.nodes:
            both = model.new_bool_var("")
            model.add(both >= kept[pair.one, node.id] + kept[pair.other, node.id] - 1)
            together.append(round(SCALE * pair.share) * both)
    moves = sum(kept[place] for place in kept if not _was_there(problem, *place))
    per_move = round(SCALE * problem.move_gain) if problem.previous else 0
    model.minimize(peak + asleep + sum(together) + per_move * moves)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = limit_s
    status = solver.status_name(solver.solve(model))
    if status == "INFEASIBLE":
        raise ConfigError(
            "the experts do not fit on the nodes",
            hint="more nodes or memory, fewer replicas or pinned experts",
        )
    bound = max(0.0, solver.best_objective_bound) / SCALE
    found = None
    if status in ("OPTIMAL", "FEASIBLE"):
        chosen = {pair for pair in kept if solver.value(kept[pair])}
        found = _plan(problem, chosen, {pair for pair in chosen if solver.value(awake[pair])})
    return _judged(problem, found, status == "OPTIMAL", bound)


def place_greedily(problem: PlacementProblem) -> Plan | None:
    """Experts with most load first, each on the nodes with room where it costs least; None where that ends
    without room for one (a plan may exist all the same)."""
    parts, chosen = _parts(problem), set[tuple[ExpertId, NodeId]]()
    asleep_ids: set[tuple[ExpertId, NodeId]] = set()
    ram = {node.id: node.ram_gb for node in problem.nodes}
    memory = {node.id: node.memory_gb for node in problem.nodes}
    for expert in sorted(problem.experts, key=lambda e: (not e.pinned, -parts[e.id], e.id)):
        for _ in range(expert.replicas):
            best: tuple[int, NodeId] | None = None
            for node in ram:
                fits = ram[node] >= expert.memory_gb and (
                    not expert.pinned or memory[node] >= expert.memory_gb
                )
                if fits and expert.may_be_on(node) and (expert.id, node) not in chosen:
                    trial = _plan(
                        problem, chosen | {(expert.id, node)}, (chosen - asleep_ids) | {(expert.id, node)}
                    )
                    best = min(filter(None, (best, (_cost_units(problem, trial), node))))
            if best is None:
                return None
            pair = (expert.id, best[1])
            chosen.add(pair)
            ram[best[1]] -= expert.memory_gb
            if memory[best[1]] >= expert.memory_gb:
                memory[best[1]] -= expert.memory_gb
            else:
                asleep_ids.add(pair)
    return _plan(problem, chosen, chosen - asleep_ids)


def _judged(problem: PlacementProblem, found: Plan | None, proved: bool, bound: float) -> Placement:
    status: Status = "optimal" if proved else "time limit"
    if not proved:
        greedy = place_greedily(problem)
        if greedy and (found is None or _cost_units(problem, greedy) < _cost_units(problem, found)):
            found, status = greedy, "greedy"
    if found is None:
        raise ConfigError("no placement was found in the time given", hint="allow more time, or more memory")
    moved = sum(not _was_there(problem, e, n) for n, experts in found.kept.items() for e in experts)
    return Placement(found, status, cost(problem, found), bound, moved if problem.previous else 0)


def _cost_units(problem: PlacementProblem, plan: Plan) -> int:
    parts = _parts(problem)
    loads = [sum(parts[e] for e in plan.kept[node.id]) for node in problem.nodes]
    asleep = sum(parts[e] for n in problem.nodes for e in plan.kept[n.id] - plan.awake[n.id])
    together = sum(
        round(SCALE * pair.share)
        for pair in problem.recruited
        for node in problem.nodes
        if {pair.one, pair.other} <= plan.kept[node.id]
    )
    moved = sum(not _was_there(problem, e, n.id) for n in problem.nodes for e in plan.kept[n.id])
    per_move = round(SCALE * problem.move_gain) if problem.previous else 0
    return max(loads) + asleep + together + per_move * moved


def _parts(problem: PlacementProblem) -> dict[ExpertId, int]:
    """Load that an expert brings to each node that keeps it, as a share of all."""
    total = sum(e.load for e in problem.experts) or 1.0
    return {e.id: round(SCALE * e.load / total / e.replicas) for e in problem.experts}


def _was_there(problem: PlacementProblem, expert: ExpertId, node: NodeId) -> bool:
    return problem.previous is not None and expert in problem.previous.kept.get(node, frozenset())


def _plan(
    problem: PlacementProblem, kept: set[tuple[ExpertId, NodeId]], awake: set[tuple[ExpertId, NodeId]]
) -> Plan:
    def on(pairs: set[tuple[ExpertId, NodeId]]) -> dict[NodeId, frozenset[ExpertId]]:
        return {node.id: frozenset(e for e, n in pairs if n == node.id) for node in problem.nodes}

    return Plan(on(kept), on(awake))


def _megabytes(gb: float, up: bool = False) -> int:
    """Needs are rounded up and room down, so that a plan always fits."""
    return int(-(-gb * 1000 // 1)) if up else int(gb * 1000)


def _check(problem: PlacementProblem) -> None:
    known = {expert.id for expert in problem.experts}
    if not known or not problem.nodes:
        raise ConfigError("nothing to place", hint="give at least one expert and one node")
    for pair in problem.recruited:
        for name in (pair.one, pair.other):
            if name not in known:
                raise ConfigError(f"no expert {name!r} to place", hint="name experts of the problem only")
    for expert in problem.experts:
        possible = sum(expert.may_be_on(node.id) for node in problem.nodes)
        if not 1 <= expert.replicas <= possible:
            raise ConfigError(
                f"expert {expert.id!r} cannot have {expert.replicas} replicas",
                hint=f"it may be on {possible} nodes, and each keeps it once",
            )
