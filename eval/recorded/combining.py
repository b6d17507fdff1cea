"""Aggregators over recorded answers: which of the answers given is taken.

A combiner sees the question's text and options, the answers of the experts that were asked and the router's
probability for each; never a label, and never an expert that was not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from coe.aggregators.combiner.training import ballots, scores_of
from coe.aggregators.votes import Dependence, majority_vote, weighted_vote
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
    """The service's ``vote`` (:func:`coe.aggregators.votes.majority_vote`)."""

    def fit(self, lessons: Lessons) -> Self:  # noqa: ARG002
        return self

    def scores(self, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Floats:
        table = table_of(outcomes, probabilities)
        answers, chances = ballots(table, asked)
        return scores_of(table, outcomes.scores, asked, majority_vote(answers, chances))


@dataclass
class WeightedVote:
    """The service's ``weighted_vote`` (:func:`coe.aggregators.votes.weighted_vote`), which learns from the
    lessons who errs together; unfitted, as without profiles, experts count as independent."""

    dependence_: Dependence | None = None

    def fit(self, lessons: Lessons) -> Self:
        self.dependence_ = Dependence.fit(lessons.outcomes.experts, lessons.outcomes.scores)
        return self

    def scores(self, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Floats:
        table = table_of(outcomes, probabilities)
        answers, chances = ballots(table, asked)
        correlation = None
        if self.dependence_ is not None:
            correlation = self.dependence_.among(table.experts)[asked[:, :, None], asked[:, None, :]]
        taken = weighted_vote(answers, chances, table.plausible, correlation)
        return scores_of(table, outcomes.scores, asked, taken)


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
