"""A small learned combiner: which of the distinct answers to a question is right, from who gave it.

A conditional logit (McFadden 1974): each distinct answer has features, its probability is the softmax of a
linear score over the answers of its question. Features of an answer: shares and weights of its voters, the
best chance among them, their lengths; for each expert whether it gave this answer (its own learned vote), and
the same split by category where categories are known. Trained by L-BFGS on questions with recorded outcomes,
with an L2 penalty towards the weighted vote. State is a few hundred numbers, saved as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from coe.aggregators.weighing import ABSENT, Dependence, Floats, Ints, Table, log_odds, voter_weights
from coe.errors import ConfigError

Mask = npt.NDArray[np.bool_]

SHARED = ("weight", "share", "best_chance", "log_odds", "alone", "length", "is_top")
"""Features that belong to no expert; ``weight`` is the answer's part of the weighted vote."""


@dataclass(frozen=True)
class Candidates:
    """The distinct answers of n questions, one row each."""

    features: Floats
    """(c, f)"""
    question: Ints
    """(c,) the row of the table"""
    answer: Ints
    """(c,) the answer's number within its question"""


@dataclass
class Combiner:
    """Learns from a :class:`Table` whose right answers are known. ``fit`` returns self."""

    penalty: float = 3.0
    """L2 penalty on each expert's own votes"""
    experts_: tuple[str, ...] = ()
    categories_: tuple[str, ...] = ()
    dependence_: Dependence | None = None
    coefficients_: Floats = field(default_factory=lambda: np.zeros(0))
    scale_: Floats = field(default_factory=lambda: np.ones(0))

    def fit(self, table: Table, right: Ints) -> Self:
        """``right``: (n,) the number of the right answer, ``ABSENT`` where no expert gave it; those
        questions teach nothing about choosing and are left out. Needs scipy."""
        from scipy.optimize import minimize

        self.experts_ = table.experts
        self.categories_ = tuple(sorted({c for c in table.categories if c is not None}))
        self.dependence_ = Dependence.fit(table.experts, _rights(table, right))
        found = self.candidates(table)
        useful = right[found.question] != ABSENT
        features, question = found.features[useful], found.question[useful]
        target = (found.answer == right[found.question])[useful].astype(float)
        if not len(features):
            raise ConfigError("no question of the table has a right answer among those given")
        self.scale_ = np.maximum(features.std(axis=0), 1e-6)
        prior = np.zeros(features.shape[1])
        prior[0] = 1.0
        penalty = np.full(features.shape[1], self.penalty)
        penalty[: len(SHARED)] = 0.1
        loss = LogitLoss(features / self.scale_, question, target, prior, penalty)
        solved = minimize(loss, prior, jac=True, method="L-BFGS-B", options={"maxiter": 500})
        self.coefficients_ = np.asarray(solved.x)
        return self

    def candidates(self, table: Table) -> Candidates:
        """All distinct answers of the table with their features, experts in the order of the fit."""
        known = {expert: place for place, expert in enumerate(self.experts_)}
        columns = np.array([known.get(expert, ABSENT) for expert in table.experts])
        rows: list[Floats] = []
        question: list[int] = []
        answer: list[int] = []
        for row in range(len(table)):
            voters = np.flatnonzero(table.answers[row] != ABSENT)
            shared = self._shared(table, row, voters)
            for said, mine in _by_answer(table, row, voters).items():
                own = self._own(table, row, columns[voters[mine]])
                rows.append(np.concatenate([shared(mine), own]))
                question.append(row)
                answer.append(said)
        width = len(SHARED) + len(self.experts_) * (1 + len(self.categories_))
        features = np.array(rows) if rows else np.zeros((0, width))
        return Candidates(features, np.array(question, dtype=np.int64), np.array(answer, dtype=np.int64))

    def scores(self, table: Table) -> list[dict[int, float]]:
        """For each question the probability of each distinct answer to be the right one (they sum to 1)."""
        found = self.candidates(table)
        raw = (found.features / self.scale_) @ self.coefficients_
        per_question: list[dict[int, float]] = [{} for _ in range(len(table))]
        for row, said, score in zip(found.question, found.answer, raw, strict=True):
            per_question[row][int(said)] = float(score)
        return [_softmax(scores) for scores in per_question]

    def predict(self, table: Table) -> Ints:
        """The most probable answer of each question, ``ABSENT`` where nobody answered."""
        return np.array(
            [max(scores, key=lambda a: scores[a]) if scores else ABSENT for scores in self.scores(table)],
            dtype=np.int64,
        )

    def save(self, path: Path) -> None:
        dependence = self.dependence_
        if dependence is None:
            raise ValueError("fit the combiner before it is saved")
        state = {
            "experts": self.experts_,
            "categories": self.categories_,
            "coefficients": self.coefficients_.tolist(),
            "scale": self.scale_.tolist(),
            "correlation": dependence.correlation.tolist(),
            "typical": dependence.typical,
        }
        path.write_text(json.dumps(state), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Combiner:
        """Raises ConfigError for a file that is not there or that :meth:`save` did not write."""
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            experts = tuple(state["experts"])
            return cls(
                experts_=experts,
                categories_=tuple(state["categories"]),
                dependence_=Dependence(experts, np.array(state["correlation"]), float(state["typical"])),
                coefficients_=np.array(state["coefficients"]),
                scale_=np.array(state["scale"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} holds no fitted combiner: {error}",
                hint="Make one with Combiner.fit(...).save(path); docs/aggregation.md shows how.",
            ) from error

    def _shared(self, table: Table, row: int, voters: Ints) -> Callable[[Mask], Floats]:
        """The ``SHARED`` features of the answer whose voters a mask over ``voters`` marks."""
        chances = table.chances[row, voters]
        options = 2 if table.options is None else int(table.options[row])
        names = [table.experts[voter] for voter in voters]
        among = None if self.dependence_ is None else self.dependence_.among(names)
        weights, odds = voter_weights(chances, among, options), log_odds(chances, options)
        lengths = _log_lengths(table, row, voters)

        def features(mine: Mask) -> Floats:
            return np.array(
                [
                    weights[mine].sum(),
                    mine.mean(),
                    chances[mine].max(),
                    odds[mine].sum(),
                    float(mine.sum() == 1),
                    lengths[mine].mean() - lengths.mean(),
                    float(mine[int(np.argmax(chances))]),
                ]
            )

        return features

    def _own(self, table: Table, row: int, columns: Ints) -> Floats:
        """For each known expert whether it gave the answer; then the same in its category's block."""
        m = len(self.experts_)
        own = np.zeros(m * (1 + len(self.categories_)))
        columns = columns[columns != ABSENT]
        own[columns] = 1.0
        category = table.categories[row] if table.categories else None
        if category in self.categories_:
            own[m * (1 + self.categories_.index(category)) + columns] = 1.0
        return own


@dataclass(frozen=True)
class LogitLoss:
    """Negative log-likelihood of the right answers plus the penalty, with its gradient."""

    features: Floats
    question: Ints
    target: Floats
    prior: Floats
    penalty: Floats

    def __call__(self, coefficients: Any) -> tuple[float, Floats]:
        scores = self.features @ coefficients
        top = np.full(int(self.question.max()) + 1, -np.inf)
        np.maximum.at(top, self.question, scores)
        raised = np.exp(scores - top[self.question])
        total = np.zeros_like(top)
        np.add.at(total, self.question, raised)
        chance = raised / total[self.question]
        away = coefficients - self.prior
        loss = -np.sum(self.target * np.log(np.maximum(chance, 1e-12))) + 0.5 * np.sum(self.penalty * away**2)
        return float(loss), np.asarray(self.features.T @ (chance - self.target) + self.penalty * away)


def _rights(table: Table, right: Ints) -> Floats:
    """(n, m) whether each expert was right; NaN where it gave no answer."""
    hit = (table.answers == right[:, None]).astype(float)
    return np.where(table.answers == ABSENT, np.nan, hit)


def _by_answer(table: Table, row: int, voters: Ints) -> dict[int, Mask]:
    """Each distinct answer with the mask of those of ``voters`` who gave it."""
    said = table.answers[row, voters]
    return {answer: said == answer for answer in dict.fromkeys(int(a) for a in said)}


def _log_lengths(table: Table, row: int, voters: Ints) -> Floats:
    """Lengths on a log scale; an unknown one counts as the mean of the others."""
    if table.lengths is None:
        return np.zeros(len(voters))
    lengths = np.log1p(table.lengths[row, voters])
    known = np.isfinite(lengths)
    return np.where(known, lengths, lengths[known].mean() if known.any() else 0.0)


def _softmax(scores: dict[int, float]) -> dict[int, float]:
    if not scores:
        return {}
    top = max(scores.values())
    raised = {answer: float(np.exp(score - top)) for answer, score in scores.items()}
    total = sum(raised.values())
    return {answer: value / total for answer, value in raised.items()}
