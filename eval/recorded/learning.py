"""The learned combiner on recorded tables: :class:`coe.aggregators.agreement.AgreementLogit` fitted to
outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from coe.aggregators.agreement import POSITIONS, AgreementLogit
from coe.aggregators.weighing import ABSENT, Ints, Table
from coe.errors import ConfigError
from eval.recorded.lessons import Lessons
from eval.recorded.outcomes import Floats, Indices, OutcomeSet


@dataclass
class Learned:
    """Fitted on the answers of those experts that would have been asked. Where there is nothing to learn
    (no question was answered rightly) the best-ranked expert's answer is taken."""

    _model: AgreementLogit | None = field(default=None)

    def fit(self, lessons: Lessons) -> Self:
        table = table_of(lessons.outcomes, lessons.asked, lessons.probabilities)
        try:
            self._model = AgreementLogit().fit(table, np.nan_to_num(lessons.outcomes.scores))
        except ConfigError:
            self._model = None
        return self

    def scores(self, outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Floats:
        """(n,) scores of the answers taken; an answer scores as the best-ranked expert that gave it did."""
        table = table_of(outcomes, asked, probabilities)
        taken = np.full(len(table), ABSENT) if self._model is None else self._model.predict(table)
        rows = np.arange(len(outcomes))[:, None]
        gave = (table.answers[rows, asked] == taken[:, None]) & (asked >= 0) & (taken != ABSENT)[:, None]
        giver = np.where(gave.any(axis=1), gave.argmax(axis=1), 0)
        picked: Floats = outcomes.scores[rows[:, 0], asked[rows[:, 0], giver]]
        return picked


def table_of(outcomes: OutcomeSet, asked: Indices, probabilities: Floats) -> Table:
    """The answers of the experts ``asked`` (n, k), everybody else absent."""
    numbers = answer_numbers(outcomes)
    heard = np.zeros((len(outcomes), len(outcomes.experts) + 1), dtype=bool)
    np.put_along_axis(heard, asked, True, axis=1)  # -1, nobody, is the last column
    return Table(
        experts=outcomes.experts,
        answers=np.where(heard[:, :-1], numbers, ABSENT),
        chances=probabilities,
        lengths=outcomes.tokens,
        options=np.asarray([len(question.options) or 4 for question in outcomes.questions]),
    )


def answer_numbers(outcomes: OutcomeSet) -> Ints:
    """(n, m) options by position, other answers numbered within their question from ``POSITIONS`` on."""
    numbers = np.full(outcomes.scores.shape, ABSENT, dtype=np.int64)
    if outcomes.answers is None:
        return numbers
    for row, question in enumerate(outcomes.questions):
        free: dict[str, int] = {}
        for column, answer in enumerate(outcomes.answers[row]):
            if answer is None:
                continue
            place = ord(answer) - ord("A") if len(answer) == 1 else -1
            if 0 <= place < min(len(question.options), POSITIONS):
                numbers[row, column] = place
            else:
                numbers[row, column] = free.setdefault(answer, POSITIONS + len(free))
    return numbers
