"""What several experts' answers are held against at equal cost: one expert, everybody, samples of one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coe.eval.recorded.combining import Vote
from coe.eval.recorded.methods import expert_accuracy
from coe.eval.recorded.study import Asked, Study
from coe.outcomes.combiner_fits import available_top

ONE_SAMPLE = "not measurable: the set records one answer of each expert, not samples"


def everybody(study: Study) -> Asked:
    """The plain vote of the whole pool; ties go to the better single expert."""
    strength = study.asked("static", "first", 1).probabilities
    asked = available_top(strength, study.tested.scores, len(study.outcomes.experts))
    return Asked(asked, strength, Vote().scores(study.tested, asked, strength), 0.0)


def single_within(study: Study, usd: float) -> Asked:
    """Of the experts that cost at most ``usd`` a question on learning questions the one that was best there,
    fold by fold; the cheapest where all cost more. Needs prices of every expert."""
    n, m = study.outcomes.scores.shape
    ranking = np.zeros((n, m))
    for fold in study.plan.folds:
        prices = np.nanmean(study.outcomes.costs[fold.train], axis=0)
        accuracy = expert_accuracy(study.outcomes.scores[fold.train])
        affordable = prices <= usd
        ranking[fold.test] = np.where(affordable, accuracy, -prices) if affordable.any() else -prices
    asked = available_top(ranking[study.rows], study.tested.scores, 1)
    scores = study.tested.scores[np.arange(len(asked)), asked[:, 0]]
    return Asked(asked, ranking[study.rows], scores, 0.0)


def names(study: Study, asked: Asked) -> Iterator[str]:
    """The experts asked first, most often first."""
    columns, counts = np.unique(asked.experts[:, 0], return_counts=True)
    for column in columns[np.argsort(-counts)]:
        yield study.outcomes.experts[column]
