"""What a new expert can do, estimated from few answers and from what the experts known so far can do.

A hierarchical logistic model. The log-odds that an expert answers question q rightly are linear in features
of q: how hard it was for the known experts, its category, the main directions of the questions' vectors, and
which of the known experts surprised there (answered better or worse than their ability and the question's
ease make likely). The last are item-response factors in as many dimensions as experts are known: a newcomer
that shares the surprises of one of them is like it, and gets its strengths. Each known expert has been
fitted on all its outcomes as if it were new; the mean and spread of their weights are the prior of a
newcomer's weights (empirical Bayes), so that a few answers move it from "an expert as they come" to itself,
and an answer in one category tells of the others as far as the known experts' strengths go together. The
posterior is Laplace's normal approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coe.routers.learning.evidence import Evidence

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

_SPREADS = (0.02, 0.06, 0.2, 0.6)
"""Candidates for the part of the prior variance that every weight has of its own."""
_LIKENESS = 0.3
"""Deviation of the weights of the known experts' surprises while these are learned from all answers."""
_MOST_SURPRISES = 40
"""Where more experts are known, the main directions of their surprises are taken."""
_WIDE = 1.0
"""Prior variance where too few experts are known to learn one."""
_STEPS, _LONGEST_STEP = 20, 2.0


@dataclass(frozen=True)
class Posterior:
    """A newcomer's weights: mean (d,) and covariance (d, d)."""

    mean: Floats
    covariance: Floats


@dataclass(frozen=True)
class CategoryEstimate:
    """Expected share of right answers in one category and its standard deviation, from ``asked`` answers."""

    category: str
    mean: float
    deviation: float
    asked: int


@dataclass(frozen=True)
class _Prior:
    covariance: Floats
    precision: Floats


class NewcomerModel:
    """Learned from the ``known`` experts' evidence alone, at construction (about a second for 25 experts)."""

    def __init__(self, known: Evidence, directions: int = 10) -> None:
        self.known = known
        self.categories = tuple(sorted(set(known.categories)))
        labels = np.asarray([self.categories.index(name) for name in known.categories], dtype=np.intp)
        self.membership: Floats = np.eye(len(self.categories))[labels]
        self._fixed = np.column_stack([self.membership, _directions(known, directions)])
        self._common = 2 + self._fixed.shape[1]
        """features that mean the same whoever is known; those of the known experts' surprises follow"""
        self.features = self._features(range(len(known.experts)))
        self._mean, covariances = self._learned_priors()
        self._priors = [_Prior(covariance, _inverse(covariance)) for covariance in covariances]

    def prior(self) -> Posterior:
        """What is expected of an expert of which no answer is known."""
        return Posterior(self._mean, self._priors[0].covariance)

    def posterior(self, rows: Rows, scores: Floats, counts: Floats | None = None) -> Posterior:
        """After ``scores`` (in 0..1) on ``rows`` of the known evidence; ``counts``: questions behind each."""
        weights = np.ones(len(rows)) if counts is None else counts
        features = self.features[rows]
        fits = [_fit(features, scores, weights, self._mean, prior.precision) for prior in self._priors]
        evidence = [
            _evidence(features, scores, weights, self._mean, prior, found)
            for prior, found in zip(self._priors, fits, strict=True)
        ]
        return fits[int(np.argmax(evidence))]

    def probabilities(self, posterior: Posterior, rows: Rows | None = None) -> Floats:
        """(n,) expected probability of a right answer on each row, or on these.

        The normal posterior is averaged over by MacKay's (1992) approximation.
        """
        features = self.features if rows is None else self.features[rows]
        variance = ((features @ posterior.covariance) * features).sum(axis=1)
        return _sigmoid(features @ posterior.mean / np.sqrt(1 + np.pi * variance / 8))

    def by_category(self, posterior: Posterior, asked: Rows) -> tuple[CategoryEstimate, ...]:
        means = self._category_means(self.probabilities(posterior))
        gradients = self.gradients(posterior)
        deviations = np.sqrt(np.einsum("ij,jk,ik->i", gradients, posterior.covariance, gradients))
        asked_in = self.membership[asked].sum(axis=0)
        return tuple(
            CategoryEstimate(name, float(mean), float(deviation), int(count))
            for name, mean, deviation, count in zip(self.categories, means, deviations, asked_in, strict=True)
        )

    def gradients(self, posterior: Posterior) -> Floats:
        """(categories, d) how each category's mean probability changes with the weights."""
        p = _sigmoid(self.features @ posterior.mean)
        return (self._shares() * (p * (1 - p))[:, None]).T @ self.features

    def _category_means(self, values: Floats) -> Floats:
        means: Floats = self._shares().T @ values
        return means

    def _shares(self) -> Floats:
        """(n, categories) columns sum to 1."""
        shares: Floats = self.membership / self.membership.sum(axis=0)
        return shares

    def _features(self, experts: Sequence[int]) -> Floats:
        """(n, d) features of the questions as seen through these of the known experts."""
        scores = np.asarray(self.known.scores[:, list(experts)], dtype=np.float64)
        told = np.isfinite(scores)
        right = np.where(told, scores, 0.0).sum(axis=1)
        ease = np.log((right + 0.5) / (told.sum(axis=1) - right + 0.5))
        return np.column_stack([np.ones(len(ease)), ease, self._fixed, _surprises(scores, ease)])

    def _learned_priors(self) -> tuple[Floats, list[Floats]]:
        """Mean and covariances of the weights of the known experts, each fitted with itself left out."""
        width, common = self.features.shape[1], self._common
        count = len(self.known.experts)
        if count < 3:
            mean = np.zeros(width)
            mean[1] = 1.0 if count else 0.0
            return mean, [_WIDE * np.eye(width)]
        fits = np.stack([self._fitted_as_new(j) for j in range(count)])
        own = width - common
        mean = np.concatenate([fits[:, :common].mean(axis=0), np.zeros(own)])
        likeness = max(float((fits[:, common:] ** 2).mean()), 1e-4)
        return mean, [_covariance(fits[:, :common], spread, likeness, own) for spread in _SPREADS]

    def _fitted_as_new(self, expert: int) -> Floats:
        """Weights of a known expert, as seen through the others."""
        features = self._features([k for k in range(len(self.known.experts)) if k != expert])
        rows = np.flatnonzero(np.isfinite(self.known.scores[:, expert]))
        loose = np.eye(features.shape[1])
        loose[0, 0] = loose[1, 1] = 0.01
        surprises = np.arange(self._common, len(loose))
        loose[surprises, surprises] = _LIKENESS**-2
        return _fit(features[rows], *self._told(expert, rows), np.zeros(len(loose)), loose).mean

    def _told(self, expert: int, rows: Rows) -> tuple[Floats, Floats]:
        scores = np.asarray(self.known.scores[rows, expert], dtype=np.float64)
        return scores, np.asarray(self.known.counts[rows, expert], dtype=np.float64)


def _directions(known: Evidence, count: int) -> Floats:
    """(n, count) principal components of the vectors, of variance 1 at most."""
    centred = np.asarray(known.vectors, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    kept = axes[:, ::-1][:, : min(count, len(known) - 1)]
    scale = np.sqrt(max(float(values[-1]), 1e-12) / max(len(known), 1))
    found: Floats = centred @ kept / scale
    return found


def _surprises(scores: Floats, ease: Floats) -> Floats:
    """(n, m or fewer) scores less what each expert's ability and the questions' ease make likely; 0 where
    unknown."""
    found = np.zeros_like(scores)
    seen = np.column_stack([np.ones(len(ease)), ease])
    for column in range(scores.shape[1]):
        rows = np.flatnonzero(np.isfinite(scores[:, column]))
        given = scores[rows, column]
        weights = _fit(seen[rows], given, np.ones(len(rows)), np.zeros(2), 0.01 * np.eye(2)).mean
        found[rows, column] = given - _sigmoid(seen[rows] @ weights)
    if found.shape[1] <= _MOST_SURPRISES:
        return found
    axes = np.linalg.eigh(found.T @ found)[1]
    return np.asarray(found @ axes[:, -_MOST_SURPRISES:], dtype=np.float64)


def _covariance(fits: Floats, spread: float, likeness: float, own: int) -> Floats:
    """Of the common weights half the experts' covariance, half its diagonal (Ledoit and Wolf's shape), and
    ``spread`` for each; ``likeness`` of each of the ``own`` weights of surprises."""
    sample = np.cov(fits.T)
    common = len(sample)
    whole = likeness * np.eye(common + own)
    whole[:common, :common] = 0.5 * sample + 0.5 * np.diag(np.diag(sample)) + spread * np.eye(common)
    return whole


def _fit(features: Floats, scores: Floats, counts: Floats, mean: Floats, precision: Floats) -> Posterior:
    """Maximum a posteriori by Newton's method, and Laplace's covariance there."""
    weights = mean.copy()
    for _ in range(_STEPS):
        p = _sigmoid(features @ weights)
        curvature = (features.T * (counts * p * (1 - p) + 1e-9)) @ features + precision
        slope = features.T @ (counts * (scores - p)) - precision @ (weights - mean)
        step = np.linalg.solve(curvature, slope)
        longest = float(np.abs(step).max())
        weights = weights + step * min(1.0, _LONGEST_STEP / max(longest, 1e-12))
        if longest < 1e-6:
            break
    return Posterior(weights, _inverse(curvature))


def _inverse(matrix: Floats) -> Floats:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _evidence(
    features: Floats, scores: Floats, counts: Floats, mean: Floats, prior: _Prior, found: Posterior
) -> float:
    """Laplace's approximation of the log probability of the answers under a prior (up to a constant)."""
    p = np.clip(_sigmoid(features @ found.mean), 1e-9, 1 - 1e-9)
    likelihood = float(counts @ (scores * np.log(p) + (1 - scores) * np.log(1 - p)))
    moved = found.mean - mean
    volume = np.linalg.slogdet(found.covariance)[1] - np.linalg.slogdet(prior.covariance)[1]
    return likelihood - 0.5 * float(moved @ prior.precision @ moved) + 0.5 * float(volume)


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -40, 40)))
