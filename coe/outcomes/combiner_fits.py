"""The learned combiner on recorded tables: what the service's ``learned`` does, fitted to outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from coe.aggregators.combiner.fitted import FittedCombiner
from coe.aggregators.combiner.stopping import standing_features
from coe.aggregators.combiner.tables import ABSENT, Mask
from coe.aggregators.combiner.training import coming, heard, scores_of, teach_in_stages
from coe.aggregators.worth import how_many
from coe.core.errors import ConfigError
from coe.core.types import Options
from coe.outcomes.combiner_tables import Lessons, table_of
from coe.outcomes.outcome_set import Floats, Indices, OutcomeSet


@dataclass
class Learned:
    """Fitted on the answers of those experts that would have been asked. Where there is nothing to learn
    (no question was answered rightly) the best-ranked expert's answer is taken."""

    fitted_: FittedCombiner | None = field(default=None)
    lengths: bool = True
    dependence: bool = True

    def fit(self, lessons: Lessons) -> Self:
        self.fitted_ = lessons.taught(lengths=self.lengths, dependence=self.dependence)
        return self

    def scores(self, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Floats:
        """(n,) scores of the answers taken; an answer scores as the best-ranked expert that gave it did."""
        table = table_of(outcomes, probabilities)
        taken = np.full(len(table), ABSENT)
        if self.fitted_ is not None:
            taken = self.fitted_.combiner.predict(heard(table, asked))
        return scores_of(table, outcomes.scores, asked, taken)


MEAN_EXPERTS = 2.28
"""Asked on average over learning questions. On others it comes out about 0.1 lower, because the combiner that
all learning questions taught is surer than those that taught the rule."""


@dataclass
class InStages:
    """The same where the service decides how many are asked: one where the router is clear, else one after
    the other until another answer is not worth its price."""

    mean_experts: float = MEAN_EXPERTS
    """how many may be asked on average over the learning questions"""
    fitted_: FittedCombiner | None = field(default=None)

    def fit(self, lessons: Lessons) -> Self:
        taught, alone = lessons.taught(), _alone(lessons.asked, lessons.probabilities)
        if taught is None:
            return self
        try:
            self.fitted_ = teach_in_stages(
                lessons.table(), lessons.right(), lessons.asked, self.mean_experts, alone, taught
            )
        except ConfigError:
            self.fitted_ = None
        return self

    def asked_of(self, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Indices:
        """``asked`` (n, k) without those who are not asked in the end, -1 in their place."""
        table, limit = table_of(outcomes, probabilities), asked.shape[1]
        going_on = ~_alone(asked, probabilities)
        kept = np.where(np.arange(limit) == 0, asked, -1)
        for count in range(1, limit):
            if self.fitted_ is None or self.fitted_.stopping is None:
                break
            part = heard(table, asked[:, :count])
            standing = self.fitted_.combiner.standing(part)
            features = standing_features(standing, part, coming(table, asked[:, count:]))
            going_on &= self.fitted_.stopping.gain(count, features) > 0
            kept[:, count] = np.where(going_on, asked[:, count], -1)
        return kept

    def scores(self, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Floats:
        """As :meth:`Learned.scores`, of what :meth:`asked_of` gives."""
        return Learned(self.fitted_).scores(outcomes, asked, probabilities)


def _alone(asked: Indices, probabilities: Floats) -> Mask:
    """(n,) whether the router is so clear that one expert is asked."""
    chances = np.take_along_axis(probabilities, np.maximum(asked, 0), axis=1)
    limit, usual = asked.shape[1], Options()
    return np.asarray([how_many(row[0], row.tolist(), limit, 1, usual) < 2 for row in chances])


def available_top(ranking: Floats, scores: Floats, count: int) -> Indices:
    """(n, count) columns of the highest ranked experts among those with a recorded outcome; -1: none left.

    Of equally ranked experts the first goes first. An expert without an outcome is as one that is down.
    """
    usable = np.where(np.isfinite(scores), ranking, -np.inf)
    order = np.argsort(-usable, axis=1, kind="stable")[:, :count]
    return np.where(np.isfinite(np.take_along_axis(usable, order, axis=1)), order, -1)
