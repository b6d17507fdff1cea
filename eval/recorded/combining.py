"""Aggregators over recorded answers: which of the answers given is taken.

A combiner sees the question's text and options, the answers of the experts that were asked and the router's
probability for each; never a label, and never an expert that was not asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from coe.errors import ConfigError
from coe.suggest import suggest
from coe.types import ExpertId
from eval.recorded.learning import InStages, Learned
from eval.recorded.lessons import Lessons
from eval.recorded.outcomes import Floats, Indices, OutcomeSet, Question


@dataclass(frozen=True)
class Given:
    """One expert's answer; ``answer`` is None where none could be read from its output."""

    expert: ExpertId
    answer: str | None
    probability: float
    """the router's, that this expert is right"""


class Combiner(Protocol):
    """Combines the answers of one question. ``fit`` is called once a fold, before ``combine``."""

    def fit(self, lessons: Lessons) -> Self: ...

    def combine(self, question: Question, given: Sequence[Given]) -> str | None:
        """One of the answers given (best-ranked expert first), or None where there is none to take."""
        ...


class First:
    """The best-ranked expert's answer."""

    def fit(self, lessons: Lessons) -> Self:  # noqa: ARG002
        return self

    def combine(self, question: Question, given: Sequence[Given]) -> str | None:  # noqa: ARG002
        return given[0].answer


class Vote:
    """The most frequent answer; of equals the one with the better-ranked expert."""

    def fit(self, lessons: Lessons) -> Self:  # noqa: ARG002
        return self

    def combine(self, question: Question, given: Sequence[Given]) -> str | None:  # noqa: ARG002
        return _heaviest(given, [1.0] * len(given))


class WeightedVote:
    """Votes weighted by the log-odds of the expert's being right over the chance of agreeing by accident.

    The naive Bayes rule for independent experts: ln(p / (1 - p)) + ln(choices - 1) (Nitzan and Paroush 1982).
    """

    def fit(self, lessons: Lessons) -> Self:  # noqa: ARG002
        return self

    def combine(self, question: Question, given: Sequence[Given]) -> str | None:
        wrong_choices = max(1, (len(question.options) or 4) - 1)
        p = np.clip([one.probability for one in given], 0.02, 0.98)
        weights = np.log(p / (1 - p)) + np.log(wrong_choices)
        return _heaviest(given, weights.tolist())


Made = Combiner | Learned | InStages

COMBINERS: Mapping[str, Callable[[], Made]] = {
    "first": First,
    "vote": Vote,
    "weighted_vote": WeightedVote,
    "learned": Learned,
    "adaptive": InStages,
}


def combiner(name: str) -> Made:
    """Raises ConfigError for an unknown name."""
    if name not in COMBINERS:
        raise ConfigError(f'no aggregator "{name}" for recorded runs; {suggest(name, COMBINERS)}')
    return COMBINERS[name]()


def combined_scores(made: Made, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Floats:
    """(n,) scores of the combined answers when the experts ``asked`` (n, k; best first, -1: nobody) answer.

    An answer scores as the best-ranked expert that gave it did.
    """
    if isinstance(made, Learned | InStages):
        return made.scores(outcomes, asked, probabilities)
    scores = np.zeros(len(outcomes))
    for row, question in enumerate(outcomes.questions):
        columns = [int(column) for column in asked[row] if column >= 0]
        scores[row] = _score_of(made, outcomes, row, question, columns, probabilities[row])
    return scores


def _score_of(
    made: Combiner, outcomes: OutcomeSet, row: int, question: Question, columns: list[int], chances: Floats
) -> float:
    answers = outcomes.answers
    if answers is None or len(columns) == 1:
        return float(outcomes.scores[row, columns[0]])
    given = [Given(outcomes.experts[j], answers[row, j], float(chances[j])) for j in columns]
    taken = made.combine(question, given)
    giver = next((j for j, one in zip(columns, given, strict=True) if one.answer == taken), columns[0])
    return float(outcomes.scores[row, giver])


def _heaviest(given: Sequence[Given], weights: Sequence[float]) -> str | None:
    """The answer with the largest sum of weights; of equals the one that came first."""
    mass: dict[str, float] = defaultdict(float)
    for one, weight in zip(given, weights, strict=True):
        if one.answer is not None:
            mass[one.answer] += weight
    return max(mass, key=mass.__getitem__) if mass else None
