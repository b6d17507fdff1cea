"""How many experts a recorded question is worth by top-p with a null expert, before anybody is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Self

import numpy as np

from coe.aggregators.top_p import counts
from coe.aggregators.worth import CLEAR
from coe.eval.recorded.combining import Vote
from coe.outcomes.combiner_fits import MEAN_EXPERTS, Learned
from coe.outcomes.combiner_tables import Lessons
from coe.outcomes.outcome_set import Floats, Indices, OutcomeSet

P = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
CLEAR_FROM = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)


@dataclass
class ByMass:
    """The learned combiner of as many experts as top-p takes. Its numbers are those whose plain vote is
    right most often on learning questions, of those that ask at most ``mean_experts`` there on average."""

    mean_experts: float = MEAN_EXPERTS
    p_: float = P[0]
    clear_: float = CLEAR
    learned_: Learned = field(default_factory=Learned)

    def fit(self, lessons: Lessons) -> Self:
        """Taught by the answers of all that may be asked, as the service's combiner is."""
        asked, rows, best = lessons.asked, np.arange(len(lessons.asked)), -1.0
        right = _votes(lessons)
        for p, clear in product(P, CLEAR_FROM):
            count = (by_mass(asked, lessons.probabilities, p, clear) >= 0).sum(axis=1)
            share = float(right[rows, count - 1].mean())
            if count.mean() <= self.mean_experts and share > best:
                best, self.p_, self.clear_ = share, p, clear
        self.learned_ = self.learned_.fit(lessons)
        return self

    def asked_of(self, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Indices:  # noqa: ARG002
        """``asked`` (n, k) without those who are not asked, -1 in their place."""
        return by_mass(asked, probabilities, self.p_, self.clear_)

    def scores(self, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Floats:
        """As :meth:`Learned.scores`, of what :meth:`asked_of` gives."""
        return self.learned_.scores(outcomes, asked, probabilities)


def by_mass(asked: Indices, probabilities: Floats, p: float, clear: float) -> Indices:
    """``asked`` (n, k; best first, -1: nobody) with -1 in place of those that top-p with a null expert leaves
    out (:mod:`coe.aggregators.top_p`); ``probabilities`` (n, m)."""
    chances = np.take_along_axis(probabilities, np.maximum(asked, 0), axis=1)
    taken = counts(np.where(asked >= 0, chances, np.nan), p, clear)
    return np.where(np.arange(asked.shape[1]) < taken[:, None], asked, -1)


def _votes(lessons: Lessons) -> Floats:
    """(n, k) score of the vote of the first 1, 2, ... k experts."""
    counts = range(1, lessons.asked.shape[1] + 1)
    parts = [Vote().scores(lessons.outcomes, lessons.asked[:, :c], lessons.probabilities) for c in counts]
    return np.stack(parts, axis=1)
