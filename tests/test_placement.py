"""Placement of experts on nodes: against brute force on small instances, and its rules."""

from __future__ import annotations

import itertools
import random

import pytest

from coe.core.errors import ConfigError
from coe.placement.solver import (
    Node,
    PlacedExpert,
    PlacementProblem,
    Plan,
    Recruited,
    cost,
    place,
    place_greedily,
)

NODES = (Node("n0", memory_gb=20.0, ram_gb=40.0), Node("n1", memory_gb=20.0, ram_gb=40.0))


def on(plan: Plan, expert: str) -> set[str]:
    return {node for node, experts in plan.kept.items() if expert in experts}


def brute_force(problem: PlacementProblem) -> float:
    """The least cost over every set of nodes for each expert, and every set of awake ones."""
    names = [node.id for node in problem.nodes]
    choices = [list(itertools.combinations(names, e.replicas)) for e in problem.experts]
    best = float("inf")
    for chosen in itertools.product(*choices):
        pairs = [(e, node) for e, nodes in zip(problem.experts, chosen, strict=True) for node in nodes]
        for flags in itertools.product((False, True), repeat=len(pairs)):
            awake = [pair for pair, flag in zip(pairs, flags, strict=True) if flag]
            if any(e.pinned and (e, n) not in awake for e, n in pairs):
                continue
            if all(
                sum(e.memory_gb for e, n in pairs if n == node.id) <= node.ram_gb
                and sum(e.memory_gb for e, n in awake if n == node.id) <= node.memory_gb
                for node in problem.nodes
            ):
                kept = {n: frozenset(e.id for e, at in pairs if at == n) for n in names}
                up = {n: frozenset(e.id for e, at in awake if at == n) for n in names}
                best = min(best, cost(problem, Plan(kept, up)))
    return best


@pytest.mark.parametrize("seed", range(8))
def test_the_plan_costs_what_brute_force_finds(seed: int) -> None:
    drawn = random.Random(seed)
    experts = tuple(
        PlacedExpert(f"e{i}", drawn.choice([4.0, 8.0, 13.5]), drawn.uniform(0.1, 5), pinned=i == 0)
        for i in range(4)
    )
    recruited = (Recruited("e0", "e1", 0.3), Recruited("e2", "e3", drawn.random()))
    problem = PlacementProblem(experts, NODES, recruited)
    placement = place(problem)
    assert placement.status == "optimal"
    assert placement.cost == pytest.approx(brute_force(problem))
    assert placement.gap == pytest.approx(0.0)


def test_experts_that_are_recruited_together_go_to_different_nodes() -> None:
    experts = tuple(PlacedExpert(name, 8.0, 1.0) for name in "abcd")
    plan = place(PlacementProblem(experts, NODES, (Recruited("a", "b", 0.5), Recruited("c", "d", 0.5)))).plan
    assert on(plan, "a") != on(plan, "b")
    assert on(plan, "c") != on(plan, "d")


def test_a_hot_expert_has_replicas_and_a_pinned_one_is_awake() -> None:
    experts = (PlacedExpert("hot", 8.0, 6.0, replicas=2), PlacedExpert("rare", 13.0, 0.1, pinned=True))
    plan = place(PlacementProblem(experts, NODES)).plan
    assert on(plan, "hot") == {"n0", "n1"}
    [home] = on(plan, "rare")
    assert "rare" in plan.awake[home]


def test_a_plan_is_kept_unless_each_move_gains_enough() -> None:
    experts = tuple(PlacedExpert(name, 8.0, load) for name, load in (("a", 1.0), ("b", 1.1), ("c", 1.0)))
    before = Plan(
        {"n0": frozenset("ab"), "n1": frozenset("c")}, {"n0": frozenset("ab"), "n1": frozenset("c")}
    )
    patient = place(PlacementProblem(experts, NODES, previous=before, move_gain=0.1))
    assert patient.plan.kept == before.kept
    assert patient.moved == 0
    eager = place(PlacementProblem(experts, NODES, previous=before, move_gain=0.0))
    assert on(eager.plan, "b") not in (on(eager.plan, "a"), on(eager.plan, "c"))


def test_without_time_the_greedy_plan_comes_with_its_gap() -> None:
    drawn = random.Random(1)
    experts = tuple(PlacedExpert(f"e{i}", 2.0, drawn.uniform(0.1, 5)) for i in range(14))
    problem = PlacementProblem(experts, NODES)
    placement = place(problem, limit_s=1e-9)
    greedy = place_greedily(problem)
    assert greedy is not None
    assert placement.cost <= cost(problem, greedy) + 1e-9
    assert placement.bound <= placement.cost
    assert placement.status in ("greedy", "time limit")


def test_experts_that_do_not_fit_are_refused_with_a_way_out() -> None:
    experts = tuple(PlacedExpert(f"e{i}", 30.0, 1.0) for i in range(3))
    with pytest.raises(ConfigError, match="do not fit") as caught:
        place(PlacementProblem(experts, NODES))
    assert "memory" in (caught.value.hint or "")
