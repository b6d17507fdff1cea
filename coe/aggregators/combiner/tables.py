"""The mathematics of weighted votes, on arrays: the same functions serve a live request (one row) and
recorded tables (thousands of rows). Pure numpy, no text, no I/O.

Independent voters should weigh log(p / (1 - p)) (Nitzan and Paroush 1982); with m equally likely wrong
answers in place of one, log(p (m - 1) / (1 - p)). Voters that err together know less than their number
says. For Gaussian scores with within-class correlation R the best linear weights are R^-1 l (Fisher), with l
the independent weights: two copies of one model share the weight of one, and so do all grades between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]

ABSENT = -1
"""In a table of answers: not asked, failed, or nothing that could be read."""

LOWEST_CHANCE, HIGHEST_CHANCE = 0.02, 0.98
LEAST_WEIGHT = 0.02
"""Of a voter whose chance is no better than guessing: it breaks ties and decides nothing else."""


def log_odds(chances: Floats, options: int = 2) -> Floats:
    """Independent weights of voters that are right with these probabilities, at least ``LEAST_WEIGHT``.

    ``options``: how many answers are plausible; 2 is the cautious assumption where that is unknown.
    """
    p = np.clip(chances, LOWEST_CHANCE, HIGHEST_CHANCE)
    return np.asarray(np.maximum(LEAST_WEIGHT, np.log(p * max(1, options - 1) / (1 - p))))


def error_correlation(right: Floats, shrink: float = 20.0) -> Floats:
    """(m, m) correlation between experts of being right, from outcomes (n, m) with NaN where not asked.

    Each pair is shrunk towards the mean of all pairs by ``shrink`` pseudo-questions; negative values become 0
    (a bonus for disagreeing is not trusted to last). What was never observed together has the mean.
    """
    known = np.isfinite(right)
    count = known.T.astype(float) @ known
    mean = np.array(
        [right[known[:, j], j].mean() if known[:, j].any() else 0.0 for j in range(right.shape[1])]
    )
    centred = np.where(known, np.where(known, right, 0.0) - mean, 0.0)
    product = centred.T @ centred
    # Variances over the questions that both experts of a pair answered.
    variance = (centred**2).T @ known
    scale = np.sqrt(variance * variance.T)
    raw = np.divide(product, scale, out=np.zeros_like(product), where=scale > 1e-12)
    pairs = ~np.eye(len(mean), dtype=bool) & (count > 1) & (scale > 1e-12)
    typical = float(raw[pairs].mean()) if pairs.any() else 0.0
    trust = np.where(pairs, count / (count + shrink), 0.0)
    correlation = np.clip(trust * raw + (1 - trust) * typical, 0.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation)


def voter_weights(chances: Floats, correlation: Floats | None = None, options: int = 2) -> Floats:
    """Weights of the voters of one question, shape (k,): R^-1 l, none below ``LEAST_WEIGHT``.

    A voter that others make redundant never votes against its own answer.
    """
    independent = log_odds(chances, options)
    if correlation is None or len(independent) < 2:
        return independent
    # Equal voters make R singular; the least-squares solution then shares their weight evenly.
    solved, *_ = np.linalg.lstsq(correlation, independent, rcond=1e-6)
    return np.asarray(np.clip(solved, LEAST_WEIGHT, None))


@dataclass(frozen=True)
class Table:
    """Who said what on n questions among m experts."""

    experts: tuple[str, ...]
    answers: Ints
    """(n, m) an answer's number within its question; ``ABSENT`` where there is none"""
    chances: Floats
    """(n, m) calibrated probability that the expert is right on the question"""
    lengths: Floats | None = None
    """(n, m) lengths of the answers in tokens, NaN where unknown"""
    options: Ints | None = None
    """(n,) how many answers are plausible, where known"""

    def __len__(self) -> int:
        return len(self.answers)


def support(table: Table, row: int, correlation: Floats | None = None) -> dict[int, float]:
    """Summed weight of each answer to one question, among the experts that answered it."""
    voters = np.flatnonzero(table.answers[row] != ABSENT)
    among = None if correlation is None else correlation[np.ix_(voters, voters)]
    options = 2 if table.options is None else int(table.options[row])
    weights = voter_weights(table.chances[row, voters], among, options)
    totals: dict[int, float] = {}
    for answer, weight in zip(table.answers[row, voters], weights, strict=True):
        totals[int(answer)] = totals.get(int(answer), 0.0) + float(weight)
    return totals


def weighted_vote(table: Table, correlation: Floats | None = None) -> Ints:
    """The winning answer of each question, ``ABSENT`` where nobody answered. Ties go to the answer of the
    expert with the highest chance."""
    winners = np.full(len(table), ABSENT, dtype=np.int64)
    for row in range(len(table)):
        totals = support(table, row, correlation)
        if totals:
            winners[row] = max(totals, key=lambda answer: (totals[answer], _best_chance(table, row, answer)))
    return winners


def majority_vote(table: Table) -> Ints:
    """The most frequent answer of each question; ties as in :func:`weighted_vote`."""
    winners = np.full(len(table), ABSENT, dtype=np.int64)
    for row in range(len(table)):
        said = table.answers[row][table.answers[row] != ABSENT]
        answers, counts = np.unique(said, return_counts=True)
        if len(answers):
            order = [
                (int(c), _best_chance(table, row, int(a)), -int(a))
                for a, c in zip(answers, counts, strict=True)
            ]
            winners[row] = -max(order)[2]
    return winners


def _best_chance(table: Table, row: int, answer: int) -> float:
    return float(table.chances[row][table.answers[row] == answer].max())


@dataclass(frozen=True)
class Dependence:
    """Learned correlation between experts, looked up by name. Unknown pairs are ``typical``."""

    experts: tuple[str, ...]
    correlation: Floats
    typical: float

    @classmethod
    def fit(cls, experts: Sequence[str], right: Floats) -> Dependence:
        """From outcomes (n, m) of these experts; see :func:`error_correlation`."""
        found = error_correlation(right)
        pairs = ~np.eye(len(experts), dtype=bool)
        typical = float(found[pairs].mean()) if pairs.any() else 0.0
        return cls(tuple(experts), found, typical)

    def among(self, experts: Sequence[str]) -> Floats:
        """(k, k) correlation between these voters. Two votes of one expert are fully dependent."""
        index = {expert: i for i, expert in enumerate(self.experts)}
        matrix = np.full((len(experts), len(experts)), self.typical)
        for i, one in enumerate(experts):
            for j, other in enumerate(experts):
                if one == other:
                    matrix[i, j] = 1.0
                elif one in index and other in index:
                    matrix[i, j] = self.correlation[index[one], index[other]]
        return matrix
