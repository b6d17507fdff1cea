"""Cost against quality: what a router reaches when a wrong answer is worth more or less money.

For a weight w the expert with the highest P(right) - w * price is asked, price being the expert's mean cost
on learning questions over the dearest one's. Where no prices are known the best single expert costs 1 and
every other one 0, so that cost is the share of calls to it (RouteLLM's measure, arXiv 2406.18665).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.curves import Point, cost_at, hull
from eval.recorded.methods import expert_accuracy
from eval.recorded.outcomes import Floats, Indices
from eval.recorded.ranking import available_top
from eval.recorded.study import Study

WEIGHTS = (0.0, *np.geomspace(0.005, 20.0, 60).tolist())
KEPT_SHARE = 0.95


@dataclass(frozen=True)
class Tradeoff:
    """``unit`` says what costs are; ``share`` is the least cost at 95% of the best single expert's accuracy
    over what that expert costs, None where the curve does not get there."""

    router: str
    unit: str
    points: list[Point]
    best_cost: float
    share: float | None


def tradeoff(study: Study, router: str) -> Tradeoff:
    """The curve of one router that asks one expert a question."""
    costs, unit = _test_costs(study)
    found = [_point(study, router, weight, costs) for weight in WEIGHTS]
    best = study.asked("static", "first", 1)
    best_cost = float(_of_experts(costs, best.experts[:, 0]).mean())
    reached = cost_at(hull(found), KEPT_SHARE * float(best.scores.mean()))
    share = None if reached is None or not best_cost else reached / best_cost
    return Tradeoff(router, unit, list(hull(found)), best_cost, share)


def _point(study: Study, router: str, weight: float, costs: Floats) -> Point:
    scores = study.outcomes.scores
    ranking = np.zeros(scores.shape)
    for number, fold in enumerate(study.plan.folds):
        estimates = study.fitted(router, number)[0].test
        ranking[fold.test] = estimates - weight * _learned_prices(study, number)
    tested = study.tested.scores
    first = available_top(ranking[study.rows], tested, 1)[:, 0]
    cost = float(_of_experts(costs, first).mean())
    return Point(cost, float(_of_experts(tested, first).mean()), f"weight {weight:.3g}")


def _of_experts(table: Floats, columns: Indices) -> Floats:
    picked: Floats = table[np.arange(len(table)), columns]
    return picked


def _learned_prices(study: Study, fold: int) -> Floats:
    """(m,) relative to the dearest, from learning questions only."""
    train = study.plan.folds[fold].train
    means = np.nanmean(study.outcomes.costs[train], axis=0) if _priced(study) else _only_best(study, fold)
    return np.asarray(means / means.max(), dtype=np.float64)


def _only_best(study: Study, fold: int) -> Floats:
    accuracy = expert_accuracy(study.outcomes.scores[study.plan.folds[fold].train])
    best: Floats = np.equal(accuracy, accuracy.max()).astype(np.float64)
    return best


def _priced(study: Study) -> bool:
    """Whether every answer of the set has a price."""
    asked = np.isfinite(study.outcomes.scores)
    return bool(np.isfinite(study.outcomes.costs[asked]).all())


def _test_costs(study: Study) -> tuple[Floats, str]:
    """(n, m) cost of each answer to a test question, and its unit."""
    if _priced(study):
        return study.tested.costs * 1000, "US dollars for 1,000 questions"
    shares = np.zeros(study.outcomes.scores.shape)
    for number, fold in enumerate(study.plan.folds):
        shares[fold.test] = _only_best(study, number)
    return shares[study.rows], "share of calls to the best single expert"
