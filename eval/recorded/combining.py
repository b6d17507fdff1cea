"""Aggregators over recorded answers: which of the answers given is taken.

A combiner sees the question's text and options, the answers of the experts that were asked and the router's
probability for each; never a label, and never an expert that was not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, Self

import numpy as np

from coe.aggregators.combiner.tables import ABSENT, Ints
from coe.aggregators.combiner.training import scores_of
from coe.core.errors import ConfigError
from coe.core.suggest import suggest
from coe.outcomes.combiner_fits import InStages, Learned
from coe.outcomes.combiner_tables import Lessons, table_of
from coe.outcomes.outcome_set import Floats, Indices, OutcomeSet


class Combiner(Protocol):
    """Combines answers. ``fit`` is called once a fold, before ``scores``."""

    def fit(self, lessons: Lessons) -> Self: ...

    def scores(self, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Floats:
        """(n,) scores of the combined answers when the experts ``asked`` (n, k; best first, -1: nobody)
        answer; ``probabilities`` (n, m) are the router's.

        An answer scores as the best-ranked expert that gave it did; where there is none to take, the best
        ranked expert's counts.
        """
        ...


class First:
    """The best-ranked expert's answer."""

    def fit(self, lessons: Lessons) -> Self:  # noqa: ARG002
        return self

    def scores(self, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Floats:  # noqa: ARG002
        first: Floats = outcomes.scores[np.arange(len(outcomes)), asked[:, 0]]
        return first


class Vote:
    """The most frequent answer; of equals the one with the better-ranked expert."""

    def fit(self, lessons: Lessons) -> Self:  # noqa: ARG002
        return self

    def scores(self, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Floats:
        table = table_of(outcomes, probabilities)
        taken = _heaviest(table.answers, asked, np.ones(asked.shape))
        return np.asarray(scores_of(table, outcomes.scores, asked, taken), dtype=np.float64)


class WeightedVote:
    """Votes weighted by the log-odds of the expert's being right over the chance of agreeing by accident.

    The naive Bayes rule for independent experts: ln(p / (1 - p)) + ln(choices - 1) (Nitzan and Paroush 1982).
    """

    def fit(self, lessons: Lessons) -> Self:  # noqa: ARG002
        return self

    def scores(self, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Floats:
        table = table_of(outcomes, probabilities)
        p = np.clip(np.take_along_axis(probabilities, np.maximum(asked, 0), axis=1), 0.02, 0.98)
        wrong_choices = np.maximum(1, np.asarray(table.options) - 1)[:, None]
        taken = _heaviest(table.answers, asked, np.log(p / (1 - p)) + np.log(wrong_choices))
        return np.asarray(scores_of(table, outcomes.scores, asked, taken), dtype=np.float64)


COMBINERS: Mapping[str, Callable[[], Combiner]] = {
    "first": First,
    "vote": Vote,
    "weighted_vote": WeightedVote,
    "learned": Learned,
    "adaptive": InStages,
}


def combiner(name: str) -> Combiner:
    """Raises ConfigError for an unknown name."""
    if name not in COMBINERS:
        raise ConfigError(f'no aggregator "{name}" for recorded runs; {suggest(name, COMBINERS)}')
    return COMBINERS[name]()


def _heaviest(answers: Ints, asked: Indices, weights: Floats) -> Ints:
    """(n,) the answer with the largest sum of ``weights`` (n, k) of those ``asked`` (n, k), ``ABSENT`` where
    nobody answered; of equals the one that came first."""
    given = np.where(asked >= 0, np.take_along_axis(answers, np.maximum(asked, 0), axis=1), ABSENT)
    mass = np.zeros(given.shape)
    for voter in range(given.shape[1]):
        agree = given == given[:, [voter]]
        mass += np.where(agree, weights[:, [voter]], 0.0)
    first = np.where(given == ABSENT, -np.inf, mass).argmax(axis=1)
    return np.asarray(given[np.arange(len(given)), first])
