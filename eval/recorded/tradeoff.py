"""Cost against quality: what a router reaches when a wrong answer is worth more or less money.

For a weight w the expert with the highest P(right) - w * price is asked, price being the expert's mean cost
on learning questions over the dearest one's. Where no prices are known the best single expert costs 1 and
every other one 0, so that cost is the share of calls to it (RouteLLM's measure, arXiv 2406.18665).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coe.eval.recorded.methods import expert_accuracy
from coe.eval.recorded.study import Study
from coe.eval.report.curves import Point, cost_at, hull
from coe.outcomes.combiner_fits import available_top
from coe.outcomes.outcome_set import Floats, Indices

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
    scores, costs = study.outcomes.scores, answer_costs(study)[0][study.rows]
    estimates, prices = np.zeros(scores.shape), np.zeros(scores.shape)
    for number, fold in enumerate(study.plan.folds):
        estimates[fold.test] = study.fitted(router, number)[0].test
        prices[fold.test] = _learned_prices(study, number)
    points = []
    for weight in WEIGHTS:
        asked = available_top((estimates - weight * prices)[study.rows], study.tested.scores, 1)
        quality = float(paid(study.tested.scores, asked).mean())
        points.append(Point(float(paid(costs, asked).mean()), quality, f"weight {weight:.3g}"))
    return curve_of(study, router, points)


def curve_of(study: Study, name: str, points: Sequence[Point]) -> Tradeoff:
    """The hull of these ways to run, beside the best single expert."""
    costs, unit = answer_costs(study)
    best = study.asked("static", "first", 1)
    best_cost = float(paid(costs[study.rows], best.experts).mean())
    reached = cost_at(hull(points), KEPT_SHARE * float(best.scores.mean()))
    share = None if reached is None or not best_cost else reached / best_cost
    return Tradeoff(name, unit, list(hull(points)), best_cost, share)


def unread_share(study: Study) -> float | None:
    """The share when experts are drawn at random, without reading the question."""
    scores = study.tested.scores
    costs = np.where(np.isfinite(scores), answer_costs(study)[0][study.rows], np.nan)
    means = zip(np.nanmean(costs, axis=0), np.nanmean(scores, axis=0), strict=True)
    return curve_of(study, "unread", [Point(float(cost), float(score)) for cost, score in means]).share


def paid(table: Floats, asked: Indices) -> Floats:
    """(n,) sums of ``table`` (n, m) over the experts asked (n, k; -1: nobody)."""
    picked = np.take_along_axis(table, np.maximum(asked, 0), axis=1)
    sums: Floats = np.where(asked >= 0, picked, 0.0).sum(axis=1)
    return sums


def _learned_prices(study: Study, fold: int) -> Floats:
    """(m,) relative to the dearest, from learning questions only."""
    means = np.nanmean(learned_costs(study, fold), axis=0)
    return np.asarray(means / means.max(), dtype=np.float64)


def learned_costs(study: Study, fold: int) -> Floats:
    """(train, m) as :func:`answer_costs`, of the learning questions and from them alone."""
    train = study.plan.folds[fold].train
    if _priced(study):
        return study.outcomes.costs[train] * 1000
    return np.tile(_only_best(study, fold), (len(train), 1))


def _only_best(study: Study, fold: int) -> Floats:
    accuracy = expert_accuracy(study.outcomes.scores[study.plan.folds[fold].train])
    best: Floats = np.equal(accuracy, accuracy.max()).astype(np.float64)
    return best


def _priced(study: Study) -> bool:
    """Whether every answer of the set has a price."""
    asked = np.isfinite(study.outcomes.scores)
    return bool(np.isfinite(study.outcomes.costs[asked]).all())


def answer_costs(study: Study) -> tuple[Floats, str]:
    """(n, m) cost of each answer of the set, and its unit."""
    if _priced(study):
        return study.outcomes.costs * 1000, "US dollars for 1,000 questions"
    shares = np.zeros(study.outcomes.scores.shape)
    for number, fold in enumerate(study.plan.folds):
        shares[fold.test] = _only_best(study, number)
    return shares, "share of calls to the best single expert"
