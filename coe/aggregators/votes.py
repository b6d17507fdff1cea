"""The vote and the weighted vote, on arrays: the service's aggregators (one row), recorded tables (thousands
of rows) and live runs call the same two functions. Pure numpy, no text, no I/O.

Independent voters should weigh log(p / (1 - p)) (Nitzan and Paroush 1982); with m equally likely wrong
answers in place of one, log(p (m - 1) / (1 - p)). Voters that err together know less than their number
says. For Gaussian scores with within-class correlation R the best linear weights are R^-1 l (Fisher), with l
the independent weights: two copies of one model share the weight of one, and so do all grades between.

An answer wins by the weight of its voters; of equals (to 9 digits) that with the higher sum of its voters'
chances wins, and of those the one that the best ranked voter gave. ``ABSENT`` counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coe.aggregators.combiner.tables import ABSENT, Floats, Ints, Mask, log_odds

LEAST_WEIGHT = 0.02
"""Of a voter whose chance is no better than guessing: it breaks ties and decides nothing else."""
_CLOSE = 9
"""Digits to which sums are compared, so that rounding breaks no tie."""


def majority_vote(answers: Ints, chances: Floats) -> Ints:
    """(n,) the most frequent of the ``answers`` (n, k), ``ABSENT`` where nobody gave one. Columns are voters,
    best ranked first; ``chances`` (n, k) are theirs of being right."""
    return _heaviest(answers, chances, np.ones(answers.shape))


def weighted_vote(answers: Ints, chances: Floats, options: Ints, correlation: Floats | None = None) -> Ints:
    """As :func:`majority_vote`, each vote with its weight by :func:`voter_weights`."""
    return _heaviest(answers, chances, voter_weights(chances, options, correlation, answers != ABSENT))


def voter_weights(
    chances: Floats, options: Ints, correlation: Floats | None = None, voting: Mask | None = None
) -> Floats:
    """(n, k) weights R^-1 l of voters with ``chances`` (n, k), none below ``LEAST_WEIGHT``: a voter that
    others make redundant never votes against its own answer.

    ``options`` (n,) how many answers are plausible; ``correlation`` (k, k) or (n, k, k), None: independent;
    ``voting`` marks those whose vote counts, on whom alone the others' weights depend.
    """
    weights = np.maximum(LEAST_WEIGHT, log_odds(chances, options[:, None]))
    if correlation is None:
        return weights
    voting = np.ones(chances.shape, dtype=bool) if voting is None else voting
    both = voting[:, :, None] & voting[:, None, :]
    among = np.where(both, correlation, np.eye(chances.shape[1]))
    # Equal voters make the matrix singular; the pseudo-inverse then shares their weight evenly.
    inverse = np.linalg.pinv(among, rcond=1e-6, hermitian=True)
    solved = inverse @ np.where(voting, weights, 0.0)[:, :, None]
    return np.asarray(np.maximum(LEAST_WEIGHT, solved[:, :, 0]))


def _heaviest(answers: Ints, chances: Floats, weights: Floats) -> Ints:
    agree = answers[:, :, None] == answers[:, None, :]

    def sums(values: Floats) -> Floats:
        return np.asarray(np.where(agree, values[:, None, :], 0.0).sum(axis=2).round(_CLOSE))

    total = np.where(answers == ABSENT, -np.inf, sums(weights))
    trust = np.where(total == total.max(axis=1, keepdims=True), sums(chances), -np.inf)
    return np.asarray(answers[np.arange(len(answers)), trust.argmax(axis=1)])


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
        known = {expert: place for place, expert in enumerate(self.experts)}
        places = [known.get(expert, -1) for expert in experts]
        wide = np.pad(self.correlation, (0, 1), constant_values=self.typical)  # -1: nobody knows it
        names = np.asarray(experts)
        return np.where(names[:, None] == names, 1.0, wide[np.ix_(places, places)])


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
