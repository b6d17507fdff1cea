"""A cascade on recorded answers: a cheap expert answers first, a strong one where going on is likely to pay
(Mowst, arXiv 2311.05185, at the level of requests).

The confidence is judged after the first answer, as there: by the router's probabilities of both experts,
whether an answer could be read, and how long it is. Where the question goes on both experts are paid for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coe.eval.recorded.methods import BLEND, CASCADE, STATIC
from coe.eval.recorded.study import Asked, Study
from coe.eval.recorded.tradeoff import (
    WEIGHTS,
    Tradeoff,
    answer_costs,
    curve_of,
    learned_costs,
    paid,
    tradeoff,
)
from coe.eval.report.curves import Point
from coe.outcomes.outcome_set import Floats, Indices, OutcomeSet

_PENALTY = 1.0


@dataclass(frozen=True)
class Stage:
    """Ask ``weak``; go on to ``strong`` where the gain expected of it is above a price.

    ``weak`` equal to ``strong``: that expert answers everything.
    """

    weak: int
    strong: int
    weights: Floats
    length: tuple[float, float]
    """mean and deviation of the logarithm of the weak expert's answer length"""

    def gains(self, part: OutcomeSet, chances: Floats) -> Floats:
        """(n,) by how much the strong expert's score is expected to be higher."""
        if self.weak == self.strong:
            return np.full(len(part), -np.inf)
        expected: Floats = _seen(part, chances, self) @ self.weights
        return expected


def fit_stage(part: OutcomeSet, chances: Floats, weak: int, strong: int) -> Stage:
    """Ridge regression of the difference between the two experts' scores on what is seen after the first."""
    length = _log_length(part, weak)
    stage = Stage(weak, strong, np.zeros(0), (float(length.mean()), float(length.std()) or 1.0))
    both = np.isfinite(part.scores[:, weak]) & np.isfinite(part.scores[:, strong])
    seen = _seen(part, chances, stage)[both]
    target = part.scores[both, strong] - part.scores[both, weak]
    penalty = _PENALTY * np.eye(seen.shape[1])
    penalty[0, 0] = 0.0
    weights: Floats = np.linalg.lstsq(seen.T @ seen + penalty, seen.T @ target, rcond=None)[0]
    return Stage(weak, strong, weights, stage.length)


def _seen(part: OutcomeSet, chances: Floats, stage: Stage) -> Floats:
    weak, (mean, deviation) = stage.weak, stage.length
    length = (_log_length(part, weak) - mean) / deviation
    unread = np.zeros(len(part))
    if part.answers is not None:
        unread = np.asarray([answer is None for answer in part.answers[:, weak]], dtype=np.float64)
    columns = [np.ones(len(part)), chances[:, weak], chances[:, stage.strong], unread, length, length**2]
    return np.stack(columns, axis=1)


def _log_length(part: OutcomeSet, expert: int) -> Floats:
    """(n,) logarithm of the answer's tokens, the mean where it is unknown; 0 where none are recorded."""
    if part.tokens is None:
        return np.zeros(len(part))
    length: Floats = np.log1p(part.tokens[:, expert])
    known = np.isfinite(length)
    return np.where(known, length, length[known].mean() if known.any() else 0.0)


def _route(part: OutcomeSet, stage: Stage, on: npt.NDArray[np.bool_]) -> Indices:
    """(n, 2) columns asked, the last one answering; -1: nobody. ``on`` (n,) says where the question goes on.

    An expert without an outcome is as one that is down: the other one of the two is asked, else anybody.
    """
    known = np.isfinite(part.scores)
    weak, strong = known[:, stage.weak], known[:, stage.strong]
    first = np.where(weak, stage.weak, np.where(strong, stage.strong, known.argmax(axis=1)))
    second = np.where(on & weak & strong, stage.strong, -1)
    return np.stack([first, second], axis=1).astype(np.intp)


def _scores(part: OutcomeSet, asked: Indices) -> Floats:
    last = np.where(asked[:, 1] >= 0, asked[:, 1], asked[:, 0])
    scores: Floats = part.scores[np.arange(len(part)), last]
    return scores


@dataclass(frozen=True)
class Tried:
    """A cascade at one weight on cost: on learning questions, and whom it asks of the test questions."""

    accuracy: float
    cost: float
    asked: Indices
    """(test, 2)"""


class Cascades:
    """The cascades of one fold, one for each first expert, fitted on its learning questions.

    The strong expert is the one that is best on learning questions.
    """

    def __init__(self, study: Study, fold: int) -> None:
        rows, costs = study.plan.folds[fold], learned_costs(study, fold)
        self._learned, self._test = study.outcomes.rows(rows.train), study.outcomes.rows(rows.test)
        chances = study.fitted(BLEND, fold)[0]
        self.strong = int(study.fitted(STATIC, fold)[0].held_out[0].argmax())
        self._costs = costs / (float(np.nanmean(costs, axis=0).max()) or 1.0)
        self._price = float(np.nanmean(self._costs[:, self.strong]))
        experts = range(costs.shape[1])
        self._stages = [fit_stage(self._learned, chances.held_out, weak, self.strong) for weak in experts]
        self._gains = [stage.gains(self._learned, chances.held_out) for stage in self._stages]
        self._test_gains = [stage.gains(self._test, chances.test) for stage in self._stages]

    def at(self, weight: float) -> Tried:
        """The cascade of highest utility, accuracy - weight * cost, on learning questions."""
        return max(
            (self._try(number, weight) for number in range(len(self._stages))),
            key=lambda tried: tried.accuracy - weight * tried.cost,
        )

    def _try(self, number: int, weight: float) -> Tried:
        stage, floor = self._stages[number], weight * self._price
        learned = _route(self._learned, stage, self._gains[number] > floor)
        return Tried(
            accuracy=float(_scores(self._learned, learned).mean()),
            cost=float(paid(self._costs, learned).mean()),
            asked=_route(self._test, stage, self._test_gains[number] > floor),
        )

    def as_good(self) -> Tried:
        """The cheapest one that is no worse than the strong expert alone on learning questions."""
        alone = _route(self._learned, self._stages[self.strong], np.zeros(len(self._learned), dtype=bool))
        floor = float(_scores(self._learned, alone).mean())
        enough = [tried for weight in WEIGHTS if (tried := self.at(weight)).accuracy >= floor]
        return min(enough, key=lambda tried: tried.cost)


def alone(study: Study, router: str) -> Asked:
    """``router`` where one answer is taken and nothing combined: one expert a question, or a cascade."""
    return cascaded(study) if router == CASCADE else study.asked(router, "first", 1)


def curve(study: Study, router: str) -> Tradeoff:
    """Cost against quality of ``router``, or of cascades."""
    return cascade_tradeoff(study) if router == CASCADE else tradeoff(study, router)


def cascaded(study: Study) -> Asked:
    """Each fold's cheapest cascade that is no worse than its best single expert on learning questions."""
    started = time.perf_counter()
    return _asked(study, [fold.as_good() for fold in _folds(study)], started)


def cascade_tradeoff(study: Study) -> Tradeoff:
    """As :func:`coe.eval.recorded.tradeoff.tradeoff`, of cascades; the cost is of all experts asked."""
    folds, costs, points = _folds(study), answer_costs(study)[0][study.rows], []
    for weight in WEIGHTS:
        asked = _asked(study, [fold.at(weight) for fold in folds], time.perf_counter())
        cost = float(paid(costs, asked.experts).mean())
        points.append(Point(cost, float(asked.scores.mean()), f"weight {weight:.3g}"))
    return curve_of(study, CASCADE, points)


def _folds(study: Study) -> list[Cascades]:
    return [Cascades(study, fold) for fold in range(len(study.plan.folds))]


def _asked(study: Study, folds: Sequence[Tried], started: float) -> Asked:
    n, m = study.outcomes.scores.shape
    experts, probabilities, scores = np.full((n, 2), -1, dtype=np.intp), np.zeros((n, m)), np.zeros(n)
    for number, (fold, tried) in enumerate(zip(study.plan.folds, folds, strict=True)):
        experts[fold.test] = tried.asked
        probabilities[fold.test] = study.fitted(BLEND, number)[0].test
        scores[fold.test] = _scores(study.outcomes.rows(fold.test), tried.asked)
    spent = time.perf_counter() - started
    return Asked(experts[study.rows], probabilities[study.rows], scores[study.rows], spent)
