"""Which of the answers given is right, from who agreed with whom: a conditional logit, taught by outcomes.

Each distinct answer to a question has features: every expert's vote alone, times its log-odds on this
question, its length and the number of options; each pair of experts that agree (which is how dependence is
learned); the answer's position; and the log-odds of all its voters, from which alone the fit starts and by
which experts that it never saw are counted. It sees no category: what the text says arrives through the
experts' chances. State is a few hundred numbers, saved as JSON.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from typing import Any, Self

import numpy as np

from coe.aggregators.combiner.logit import ChoiceLoss, Segments
from coe.aggregators.combiner.tables import ABSENT, Floats, Ints, Table, log_odds
from coe.core.errors import ConfigError

POSITIONS = 10
"""Answers numbered below this are options by position; larger numbers stand for free answers."""
MOST_PAIRED = 12
"""Pools larger than this learn no pairs: they have too many for the questions that there are."""


@dataclass(frozen=True)
class Candidates:
    """The distinct answers of n questions, one row each, questions rising."""

    features: Floats
    """(c, f)"""
    question: Ints
    """(c,) the row of the table"""
    answer: Ints
    """(c,) the answer's number within its question"""


@dataclass(frozen=True)
class Standing:
    """How the answers given so far stand, for each of n questions."""

    winner: Ints
    """(n,) the leading answer; ``ABSENT`` where nobody answered"""
    score: Floats
    """(n, 2) of the leading answer and of the next one, 0 where there is none"""
    share: Floats
    """(n,) probability of the leading answer among those given, 0 where there is none"""


@dataclass
class AgreementLogit:
    """Learns from a table whose right answers are known. ``ABSENT`` marks experts that were not asked too.

    ``lengths`` and ``dependence``: whether it looks at lengths of answers, and at pairs that agree.
    """

    penalty: float = 10.0
    lengths: bool = True
    dependence: bool = True
    experts_: tuple[str, ...] = ()
    coefficients_: Floats = field(default_factory=lambda: np.zeros(0))
    scale_: Floats = field(default_factory=lambda: np.ones(0))
    usual_length_: Floats = field(default_factory=lambda: np.zeros(0))
    length_spread_: Floats = field(default_factory=lambda: np.ones(0))

    def fit(self, table: Table, right: Floats, near: Self | None = None) -> Self:
        """``right``: (n, m) score of each expert's answer. Questions without a right answer among those given
        teach nothing about choosing. Raises ConfigError when there is no other. ``near``, a fit to nearly the
        same table, only makes it quicker."""
        self.experts_ = table.experts
        self._measure_lengths(table)
        found = self.candidates(table)
        target = _target(table, found, right)
        teaching = np.isin(found.question, found.question[target > 0])
        if not teaching.any():
            raise ConfigError("no question of the table has a right answer among those given")
        features, target = found.features[teaching], target[teaching]
        spread = features.std(axis=0)
        self.scale_ = np.where(spread > 1e-6, spread, 1.0)
        width = features.shape[1]
        prior, penalty = np.zeros(width), np.full(width, self.penalty)
        prior[0], penalty[0] = 1.0, 0.1  # the weighted vote is where it starts from
        loss = ChoiceLoss(features / self.scale_, found.question[teaching], target, prior, penalty)
        start = prior if near is None else near.coefficients_ * self.scale_ / near.scale_
        self.coefficients_ = loss.least(start)
        return self

    def predict(self, table: Table) -> Ints:
        """(n,) the most probable answer of each question, ``ABSENT`` where nobody answered."""
        return self.standing(table).winner

    def standing(self, table: Table) -> Standing:
        """Who leads after the answers of ``table``, and how clearly."""
        found = self.candidates(table)
        score = (found.features / self.scale_) @ self.coefficients_
        share = Segments(found.question).softmax(score)
        winner = np.full(len(table), ABSENT, dtype=np.int64)
        scores, shares = np.zeros((len(table), 2)), np.zeros(len(table))
        rising = np.argsort(score, kind="stable")  # of several writes the last one stays
        row = found.question[rising]
        winner[row], shares[row], scores[row, 0] = found.answer[rising], share[rising], score[rising]
        others = rising[found.answer[rising] != winner[row]]
        scores[found.question[others], 1] = score[others]
        return Standing(winner, scores, shares)

    def candidates(self, table: Table) -> Candidates:
        """The distinct answers with their features. Columns of ``table`` may stand in any order, and may be
        of experts that the fit did not see: those count by their log-odds alone."""
        table = self._aligned(table)
        row, column = np.nonzero(table.answers != ABSENT)
        said = table.answers[row, column]
        beyond = int(said.max(initial=0)) + 1
        question, answer = np.divmod(np.unique(row * beyond + said), beyond)
        votes = (table.answers[question] == answer[:, None]).astype(float)
        return Candidates(self._features(table, question, answer, votes), question, answer)

    def _aligned(self, table: Table) -> Table:
        """The same with a column for each expert of the fit first, then those that it does not know."""
        if table.experts[: len(self.experts_)] == self.experts_:
            return table
        place = {expert: column for column, expert in enumerate(table.experts)}
        strangers = tuple(expert for expert in table.experts if expert not in set(self.experts_))
        experts = (*self.experts_, *strangers)
        columns = [place.get(expert, len(table.experts)) for expert in experts]

        def picked(values: Any, absent: float) -> Any:
            return np.column_stack([values, np.full(len(table), absent, dtype=values.dtype)])[:, columns]

        return Table(
            experts=experts,
            answers=picked(table.answers, ABSENT),
            chances=picked(table.chances, 0.5),
            lengths=None if table.lengths is None else picked(np.asarray(table.lengths, float), np.nan),
            options=table.options,
        )

    def _features(self, table: Table, question: Ints, answer: Ints, votes: Floats) -> Floats:
        options = table.plausible[question, None]
        odds = log_odds(table.chances[question], options)
        position = (answer[:, None] == np.arange(POSITIONS)).astype(float)
        number = votes.sum(axis=1, keepdims=True)
        m = len(self.experts_)
        everybody = (votes * odds).sum(axis=1, keepdims=True)
        mine, odds = votes[:, :m], odds[:, :m]
        columns = [everybody, mine, mine * odds, mine * options / POSITIONS]
        columns += [position, position * number]
        if self.lengths:
            length = self._lengths(table)[question] * mine
            columns += [length, length**2]
        if self.dependence and m <= MOST_PAIRED:
            columns += [(mine[:, i] * mine[:, j])[:, None] for i, j in combinations(range(m), 2)]
        return np.hstack(columns)

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
        m = len(self.experts_)
        if table.lengths is None:
            return np.zeros((len(table), m))
        found = (_log_length(table)[:, :m] - self.usual_length_) / self.length_spread_
        return np.clip(np.nan_to_num(found, nan=0.0), -4.0, 4.0)

    def state(self) -> dict[str, Any]:
        """What :meth:`of` takes; plain values for JSON."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError for what :meth:`state` did not give."""
        values = {
            each.name: np.asarray(state[each.name], dtype=float)
            for each in fields(cls)
            if each.name.endswith("_") and each.name != "experts_"
        }
        made = cls(
            penalty=float(state["penalty"]),
            lengths=bool(state["lengths"]),
            dependence=bool(state["dependence"]),
            experts_=tuple(state["experts_"]),
            **values,
        )
        stranger = Table(made.experts_, np.zeros((1, len(made.experts_)), dtype=np.int64),
                         np.full((1, len(made.experts_)), 0.5))  # fmt: skip
        made.standing(stranger)  # numbers of another shape fail here, not on a request
        return made


def _log_length(table: Table) -> Floats:
    return np.asarray(np.log1p(np.asarray(table.lengths)))


def _target(table: Table, found: Candidates, right: Floats) -> Floats:
    """(c,) 1 for the candidates that are right, as the first expert that gave them was marked."""
    giver = (table.answers[found.question] == found.answer[:, None]).argmax(axis=1)
    return np.asarray(right[found.question, giver] > 0.5, dtype=float)
