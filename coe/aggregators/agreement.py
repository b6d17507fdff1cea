"""Which of the answers given is right, from who agreed with whom: a conditional logit on whole tables.

As :mod:`coe.aggregators.combiner`, whose loss it shares, but vectorised, and with features that tables of
thousands of questions can teach: each expert's vote alone, times its log-odds on this question, its length
and the number of options; each pair of experts that agree (which is how dependence is learned); the answer's
position. It never sees a question's category; what the text says arrives through the experts' chances.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Self

import numpy as np

from coe.aggregators.combiner import Candidates, LogitLoss
from coe.aggregators.weighing import ABSENT, HIGHEST_CHANCE, LOWEST_CHANCE, Floats, Ints, Table
from coe.errors import ConfigError

POSITIONS = 10
"""Answers numbered below this are options by position; larger numbers stand for free answers."""
MOST_PAIRED = 12
"""Pools larger than this learn no pairs: they have too many for the questions that there are."""


@dataclass
class AgreementLogit:
    """Learns from a table whose right answers are known. ``ABSENT`` marks experts that were not asked too."""

    penalty: float = 10.0
    coefficients_: Floats = field(default_factory=lambda: np.zeros(0))
    scale_: Floats = field(default_factory=lambda: np.ones(0))
    usual_length_: Floats = field(default_factory=lambda: np.zeros(0))
    length_spread_: Floats = field(default_factory=lambda: np.ones(0))

    def fit(self, table: Table, right: Floats) -> Self:
        """``right``: (n, m) score of each expert's answer. Questions without a right answer among those given
        teach nothing about choosing. Raises ConfigError when there is no other. Needs scipy."""
        from scipy.optimize import minimize

        self._measure_lengths(table)
        found = self.candidates(table)
        target = _target(table, found, right)
        teaching = np.isin(found.question, found.question[target > 0])
        if not teaching.any():
            raise ConfigError("no question of the table has a right answer among those given")
        features, target = found.features[teaching], target[teaching]
        self.scale_ = np.maximum(features.std(axis=0), 1e-6)
        _, question = np.unique(found.question[teaching], return_inverse=True)
        width = features.shape[1]
        prior, penalty = np.zeros(width), np.full(width, self.penalty)
        prior[0], penalty[0] = 1.0, 0.1  # the weighted vote is where it starts from
        loss = LogitLoss(features / self.scale_, question, target, prior, penalty)
        solved = minimize(loss, prior, jac=True, method="L-BFGS-B", options={"maxiter": 150})
        self.coefficients_ = np.asarray(solved.x)
        return self

    def predict(self, table: Table) -> Ints:
        """(n,) the most probable answer of each question, ``ABSENT`` where nobody answered."""
        winners = np.full(len(table), ABSENT, dtype=np.int64)
        found = self.candidates(table)
        score = (found.features / self.scale_) @ self.coefficients_
        rising = np.argsort(score, kind="stable")
        winners[found.question[rising]] = found.answer[rising]  # of several writes the last one stays
        return winners

    def candidates(self, table: Table) -> Candidates:
        """The distinct answers with their features, in the order of questions."""
        given = table.answers != ABSENT
        row, column = np.nonzero(given)
        pairs = np.unique(np.column_stack([row, table.answers[row, column]]), axis=0)
        question, answer = pairs[:, 0], pairs[:, 1]
        votes = (table.answers[question] == answer[:, None]).astype(float)
        return Candidates(self._features(table, question, answer, votes), question, answer)

    def _features(self, table: Table, question: Ints, answer: Ints, votes: Floats) -> Floats:
        options = np.full(len(table), 2) if table.options is None else table.options
        chances = np.clip(table.chances[question], LOWEST_CHANCE, HIGHEST_CHANCE)
        odds = np.log(chances / (1 - chances)) + np.log(np.maximum(options[question] - 1, 1))[:, None]
        position = (answer[:, None] == np.arange(POSITIONS)).astype(float)
        number = votes.sum(axis=1, keepdims=True)
        length = self._lengths(table)[question] * votes
        m = votes.shape[1]
        together = [
            votes[:, i] * votes[:, j] for i, j in (combinations(range(m), 2) if m <= MOST_PAIRED else ())
        ]
        columns = [(votes * odds).sum(axis=1, keepdims=True), votes, votes * odds, length, length**2]
        columns += [votes * options[question, None] / POSITIONS, position, position * number]
        return np.column_stack([*columns, *together])

    def _measure_lengths(self, table: Table) -> None:
        m = len(table.experts)
        self.usual_length_, self.length_spread_ = np.zeros(m), np.ones(m)
        for j in range(m if table.lengths is not None else 0):
            known = _log_length(table)[:, j]
            known = known[np.isfinite(known)]
            if len(known):
                self.usual_length_[j] = known.mean()
                self.length_spread_[j] = max(float(known.std()), 1e-3)

    def _lengths(self, table: Table) -> Floats:
        """(n, m) in standard deviations from the expert's usual length; an unknown one is usual."""
        if table.lengths is None:
            return np.zeros(table.answers.shape)
        found = (_log_length(table) - self.usual_length_) / self.length_spread_
        return np.clip(np.nan_to_num(found, nan=0.0), -4.0, 4.0)


def _log_length(table: Table) -> Floats:
    return np.asarray(np.log1p(np.asarray(table.lengths)))


def _target(table: Table, found: Candidates, right: Floats) -> Floats:
    """(c,) 1 for the candidates that are right, as the first expert that gave them was marked."""
    giver = (table.answers[found.question] == found.answer[:, None]).argmax(axis=1)
    return np.asarray(right[found.question, giver] > 0.5, dtype=float)
