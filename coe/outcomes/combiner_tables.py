"""What a combiner of recorded answers may learn from, and how it sees answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from coe.aggregators.combiner.agreement import POSITIONS, AgreementLogit
from coe.aggregators.combiner.fitted import FittedCombiner
from coe.aggregators.combiner.tables import ABSENT, FEWEST_OPTIONS, Ints, Table
from coe.aggregators.combiner.training import teach
from coe.core.errors import ConfigError
from coe.outcomes.outcome_set import Floats, Indices, OutcomeSet


@dataclass(frozen=True)
class Lessons:
    """The learning questions with every answer, score and estimate.

    ``probabilities`` (n, m) were made for each question without it; ``asked`` (n, k) are the experts that
    would have been asked, best first, -1: nobody.
    """

    outcomes: OutcomeSet
    probabilities: Floats
    asked: Indices
    _taught: dict[tuple[bool, bool], FittedCombiner | None] = field(default_factory=dict)

    def table(self) -> Table:
        return table_of(self.outcomes, self.probabilities)

    def right(self) -> Floats:
        """(n, m) score of each expert's answer; 0 where it was not asked."""
        return np.nan_to_num(self.outcomes.scores)

    def taught(self, *, lengths: bool = True, dependence: bool = True) -> FittedCombiner | None:
        """The combiner that they teach, fitted once; None where nobody was right."""
        kind = (lengths, dependence)
        if kind not in self._taught:
            model = AgreementLogit(lengths=lengths, dependence=dependence)
            try:
                self._taught[kind] = teach(self.table(), self.right(), self.asked, model)
            except ConfigError:
                self._taught[kind] = None
        return self._taught[kind]


def table_of(outcomes: OutcomeSet, probabilities: Floats) -> Table:
    """The answers of all experts."""
    return Table(
        experts=outcomes.experts,
        answers=answer_numbers(outcomes),
        chances=probabilities,
        lengths=outcomes.tokens,
        options=np.asarray([len(question.letters) or FEWEST_OPTIONS for question in outcomes.questions]),
    )


def answer_numbers(outcomes: OutcomeSet) -> Ints:
    """(n, m) options by position, other answers numbered within their question from ``POSITIONS`` on."""
    if outcomes.answers is None:
        return np.full(outcomes.scores.shape, ABSENT, dtype=np.int64)
    said: list[str | None] = outcomes.answers.ravel().tolist()
    places = {answer: _place(answer) for answer in set(said)}
    numbers = np.asarray([places[answer] for answer in said], dtype=np.int64)
    numbers = numbers.reshape(outcomes.answers.shape)
    offered = [min(len(question.options), POSITIONS) for question in outcomes.questions]
    numbers[numbers >= np.asarray(offered)[:, None]] = _FREE
    for row in np.flatnonzero((numbers == _FREE).any(axis=1)):
        free: dict[str, int] = {}
        for column in np.flatnonzero(numbers[row] == _FREE):
            answer = outcomes.answers[row, column]
            numbers[row, column] = free.setdefault(answer, POSITIONS + len(free))
    return numbers


_FREE = -2


def _place(answer: str | None) -> int:
    if answer is None:
        return ABSENT
    return ord(answer) - ord("A") if len(answer) == 1 and answer >= "A" else _FREE
