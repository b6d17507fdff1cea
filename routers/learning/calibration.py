"""From raw scores to probabilities of a right answer, expert by expert, without flattering oneself.

A calibrator learns from scores that each question got from a model that had not seen it (cross-fitted);
calibrating on the scores of questions learned from would call every router sure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from coe.core.types import ExpertId
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.evidence import Evidence, Matrix

Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
FOLDS = 5
TOLD = 10
"""Questions from which on an expert's base rate is worth more than a guess."""
_EDGE = 1e-3
_STEEPEST = 5.0
_NEWTON_STEPS, _HALVINGS = 50, 30


class PlattCalibrator:
    """P = sigmoid(slope * logit(score) + shift) for each expert (Platt 1999), scores being in 0..1.

    With little evidence an expert keeps its scores: the slope is held near 1 as strongly as by ``prior``
    questions, the shift near 0 by as many as are missing to ``prior``. From ``TOLD`` questions on the log
    loss on them is never above that of their base rate, and scores beyond all of theirs count as the
    farthest of them. Slopes are not negative: the order of an expert's questions stays, or all are alike.
    Learned: ``slope_``, ``shift_`` and ``range_`` (lowest and highest log-odds), shape (m,) each.
    """

    def __init__(self, prior: float = 20.0) -> None:
        self.prior = prior

    def fit(self, scores: Matrix, right: Matrix, counts: Matrix) -> Self:
        """All of shape (n, m); ``right`` is NaN where it is not known and ``counts`` its weight."""
        z, weight = _logit(scores), np.where(np.isfinite(right), counts, 0.0).astype(np.float64)
        y, total = np.nan_to_num(right).astype(np.float64), weight.sum(0)
        pull = self.prior / 4  # a question carries at most a quarter of information
        held = _lines(z, y, weight, pull, pull * np.maximum(0.0, 1 - total / max(self.prior, 1e-9)))
        rate = (weight * y).sum(0) / np.maximum(total, 1e-9)
        rate = np.clip(rate, 1 / (total + 2), 1 - 1 / (total + 2))
        told, alike = total >= TOLD, np.stack([0 * rate, np.log(rate / (1 - rate))])
        floor = _loss(alike, z, y, weight)
        for other in (_lines(z, y, weight, 0.0, 0 * total), alike):
            held = np.where(told & (_loss(held, z, y, weight) > floor), other, held)
        self.slope_, self.shift_ = held
        seen = weight > 0
        self.range_ = (
            np.where(told, np.where(seen, z, np.inf).min(0), -np.inf),
            np.where(told, np.where(seen, z, -np.inf).max(0), np.inf),
        )
        return self

    def apply(self, scores: Matrix) -> Matrix:
        """Probabilities of the same shape (k, m) as ``scores``."""
        return sigmoid(self.slope_ * np.clip(_logit(scores), *self.range_) + self.shift_).astype(np.float32)


def _lines(z: Floats, right: Floats, weight: Floats, slope_pull: float, shift_pull: Floats) -> Floats:
    """(2, m) the likeliest slope, from 0 to ``_STEEPEST``, and shift of each expert, pulled to 1 and 0.

    The targets are Platt's, which stop short of 0 and 1: nothing becomes certain where scores part right
    from wrong, or where all are right. Newton's method, each step halved until it goes downhill.
    """
    total, hits = weight.sum(0), (weight * right).sum(0)
    target = right * (hits + 1) / (hits + 2) + (1 - right) / (total - hits + 2)
    middle = (weight * z).sum(0) / np.maximum(total, 1e-9)
    aim = _Aim(z - middle, target, weight, middle, slope_pull, shift_pull)
    line = np.stack([np.ones_like(middle), middle])
    for _ in range(_NEWTON_STEPS):
        step, promised = aim.step(line)
        left, before = promised > 1e-9 * (1 + total), aim.value(line)
        for _ in range(_HALVINGS if left.any() else 0):
            tried = line + np.where(left, step, 0.0)
            tried[0] = np.clip(tried[0], 0.0, _STEEPEST)
            better = left & (aim.value(tried) < before)
            line, left, step = np.where(better, tried, line), left & ~better, step / 2
            if not left.any():
                break
        else:
            break
    return np.stack([line[0], line[1] - line[0] * middle])


@dataclass(frozen=True)
class _Aim:
    """What a line (2, m) is to make small: log loss, and how far it is from slope 1 and shift 0.

    Lines are around the ``middle`` of the scores, where slope and shift hardly depend on each other.
    """

    z: Floats
    target: Floats
    weight: Floats
    middle: Floats
    slope_pull: float
    shift_pull: Floats

    def value(self, line: Floats) -> Floats:
        off = self.slope_pull * (line[0] - 1) ** 2 + self.shift_pull * (line[1] - line[0] * self.middle) ** 2
        found: Floats = _loss(line, self.z, self.target, self.weight) + off / 2
        return found

    def step(self, line: Floats) -> tuple[Floats, Floats]:
        """Newton's step (2, m), and the gain (m,) that it promises."""
        p, middle, pull = sigmoid(line[0] * self.z + line[1]), self.middle, self.shift_pull
        error, curve = self.weight * (p - self.target), self.weight * p * (1 - p)
        off = pull * (line[1] - line[0] * middle)
        by_slope = (error * self.z).sum(0) + self.slope_pull * (line[0] - 1) - off * middle
        by_shift = error.sum(0) + off
        pushed = np.where(by_slope < 0, line[0] >= _STEEPEST, line[0] <= 0.0)  # against a bound
        by_slope = np.where(pushed, 0.0, by_slope)
        both = np.where(pushed, 0.0, (curve * self.z).sum(0) - pull * middle)
        first = (curve * self.z**2).sum(0) + self.slope_pull + pull * middle**2 + 1e-9
        second = curve.sum(0) + pull + 1e-9
        found = np.stack([both * by_shift - second * by_slope, both * by_slope - first * by_shift])
        found /= first * second - both**2
        return found, -(found[0] * by_slope + found[1] * by_shift) / 2


def _loss(line: Floats, z: Floats, right: Floats, weight: Floats) -> Floats:
    """(m,) log loss of each expert over all its questions."""
    odds = line[0] * z + line[1]
    found: Floats = (weight * (np.logaddexp(0.0, odds) - right * odds)).sum(0)
    return found


def _logit(scores: Matrix) -> Floats:
    p = np.clip(scores.astype(np.float64), _EDGE, 1 - _EDGE)
    z: Floats = np.log(p / (1 - p))
    return z


def sigmoid(z: Floats) -> Floats:
    p: Floats = 1 / (1 + np.exp(-np.clip(z, -30.0, 30.0)))
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
