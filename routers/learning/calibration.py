"""From raw scores to probabilities of a right answer, expert by expert, without flattering oneself.

A calibrator learns from scores that each question got from a model that had not seen it (cross-fitted);
calibrating on the scores of questions learned from would call every router sure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from coe.core.types import ExpertId
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.evidence import Evidence, Matrix

Rows = npt.NDArray[np.intp]
FOLDS = 5
_EDGE = 1e-3
_NEWTON_STEPS = 12


class PlattCalibrator:
    """P = sigmoid(slope * logit(score) + shift) for each expert (Platt 1999), scores being in 0..1.

    The slope is held near 1 and the shift near 0 as strongly as by ``prior`` questions, so that an expert
    with little evidence keeps its scores. Slopes are not negative: the order of an expert's questions
    stays. Learned: ``slope_`` and ``shift_``, shape (m,).
    """

    def __init__(self, prior: float = 20.0) -> None:
        self.prior = prior

    def fit(self, scores: Matrix, right: Matrix, counts: Matrix) -> Self:
        """All of shape (n, m); ``right`` is NaN where it is not known and ``counts`` its weight."""
        z = _logit(scores)
        weight = np.where(np.isfinite(right), counts, 0.0).astype(np.float64)
        target = np.nan_to_num(right).astype(np.float64)
        slope, shift = np.ones(z.shape[1]), np.zeros(z.shape[1])
        for _ in range(_NEWTON_STEPS):
            p = _sigmoid(slope * z + shift)
            error, curve = weight * (p - target), weight * p * (1 - p)
            pull = self.prior / 4  # a question carries at most a quarter of information
            g_slope = (error * z).sum(0) + pull * (slope - 1)
            g_shift = error.sum(0) + pull * shift
            h_slope, h_both, h_shift = (curve * z * z).sum(0) + pull, (curve * z).sum(0), curve.sum(0) + pull
            determinant = h_slope * h_shift - h_both**2
            slope = slope - (h_shift * g_slope - h_both * g_shift) / determinant
            shift = shift - (h_slope * g_shift - h_both * g_slope) / determinant
            slope = np.clip(slope, 0.0, 5.0)
        self.slope_, self.shift_ = slope, shift
        return self

    def apply(self, scores: Matrix) -> Matrix:
        """Probabilities of the same shape (k, m) as ``scores``."""
        return _sigmoid(self.slope_ * _logit(scores) + self.shift_).astype(np.float32)


def _logit(scores: Matrix) -> npt.NDArray[np.float64]:
    p = np.clip(scores.astype(np.float64), _EDGE, 1 - _EDGE)
    z: npt.NDArray[np.float64] = np.log(p / (1 - p))
    return z


def _sigmoid(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    p: npt.NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(z, -30.0, 30.0)))
    return p


class CalibratedEstimator(ABC):
    """An :class:`coe.routers.learning.evidence.Estimator` made of a raw scorer and a calibrator.

    A subclass learns in ``_learn`` and scores in ``_score``. ``cross_fitted_`` (n, m) keeps the calibrated
    estimates of the evidence's own questions, each made without that question: what choosing between
    routers, blending and thresholds learn from.
    """

    experts_: tuple[ExpertId, ...]
    cross_fitted_: Matrix

    def fit(self, evidence: Evidence) -> Self:
        """Raises ValueError for evidence without questions."""
        if not len(evidence):
            raise ValueError("there is no evidence to learn from")
        self.experts_ = evidence.experts
        raw = self._learn(evidence)
        self.calibrator_ = PlattCalibrator().fit(raw, evidence.scores, evidence.counts)
        self.cross_fitted_ = self.calibrator_.apply(raw)
        return self

    def estimate(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        return self.calibrator_.apply(self._score(texts, vectors))

    @abstractmethod
    def _learn(self, evidence: Evidence) -> Matrix:
        """Learn from all of it; return raw scores (n, m) in 0..1 of its questions, each made without it."""

    @abstractmethod
    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        """Raw scores (k, m) in 0..1."""


def out_of_fold(evidence: Evidence, score: Callable[[Evidence, Vectors], Matrix]) -> Matrix:
    """Raw scores (n, m) of the evidence's questions: ``score(rest, vectors)`` for each fold's vectors."""
    found = np.zeros(evidence.scores.shape, dtype=np.float32)
    for held in fold_rows(evidence.vectors, min(FOLDS, len(evidence))):
        rest = np.setdiff1d(np.arange(len(evidence)), held)
        # With a single wording there is nothing else to learn from: its own score must do.
        part = evidence.rows(rest if len(rest) else held)
        found[held] = score(part, evidence.vectors[held])
    return found


def fold_rows(vectors: Vectors, count: int, seed: int = 0) -> list[Rows]:
    """Rows in ``count`` parts; rows with the same vector (copies of a question) share a part."""
    _, group = np.unique(np.round(vectors, 4), axis=0, return_inverse=True)
    groups = int(group.max()) + 1
    part_of_group = np.random.default_rng(seed).permutation(groups) % count
    parts = part_of_group[group.reshape(-1)]
    return [rows for part in range(count) if len(rows := np.flatnonzero(parts == part))]


def completed(evidence: Evidence) -> Matrix:
    """The scores (n, m), each missing one guessed from the expert's and the question's other scores."""
    scores = evidence.scores.astype(np.float64)
    known = np.isfinite(scores)
    filled = np.where(known, scores, 0.0)
    overall = filled.sum() / max(1, known.sum())
    # Shrunk by a few questions' worth, so that a question or an expert with one answer is not extreme.
    expert = (np.where(known, scores - overall, 0.0)).sum(0) / (known.sum(0) + 5.0)
    question = (np.where(known, scores - overall - expert, 0.0)).sum(1) / (known.sum(1) + 1.0)
    guess = np.clip(overall + expert + question[:, None], 0.0, 1.0)
    return np.where(known, scores, guess).astype(np.float32)


def relative_error(scores: Matrix, evidence: Evidence) -> float:
    """Mean squared error of the differences between experts on a question: what a choice depends on.

    How hard a question is for all alike does not count, so this tells more of a router than a Brier score.
    """
    error = np.where(np.isfinite(evidence.scores), scores - evidence.scores, np.nan)
    several = np.isfinite(error).sum(1) > 1
    if not several.any():
        return float(np.nanmean(error**2))
    error = error[several]
    return float(np.nanmean((error - np.nanmean(error, axis=1, keepdims=True)) ** 2))
