"""Composition of Experts on evidence: how probable each category is, and how good each expert is in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from routers.calibration import CalibratedEstimator, completed
from routers.encoder import Vectors
from routers.evidence import Evidence, Matrix
from routers.inputs import Inputs, fit_ridge

_STRENGTH = 1.0
_TEMPERATURES = (0.03, 0.05, 0.08, 0.12, 0.2, 0.4)
PRIOR = 5.0
"""Questions' worth of an expert's overall accuracy in each of its category scores."""


class CategoryEstimator(CalibratedEstimator):
    """P(right) = sum over categories of P(category) x the expert's accuracy in it.

    Learned: ``categories_`` (c names, sorted), ``shares_`` (c,) of the evidence, and ``accuracy_`` (c, m).
    Category labels are learned from evidence only; a question asked later brings none.
    """

    def _learn(self, evidence: Evidence) -> Matrix:
        self.categories_ = tuple(sorted(set(evidence.categories)))
        place = {category: i for i, category in enumerate(self.categories_)}
        labels = np.asarray([place[category] for category in evidence.categories])
        belonging = np.eye(len(self.categories_), dtype=np.float32)[labels]
        self._inputs = Inputs().fit(evidence)
        [self._classifier] = fit_ridge(self._inputs.of_evidence(evidence), belonging, [_STRENGTH])
        self._temperature = _best_temperature(self._classifier.left_out, labels)
        scores = completed(evidence)
        overall = scores.mean(axis=0)
        sums, sizes = belonging.T @ scores, belonging.sum(axis=0)[:, None]
        self.shares_ = belonging.mean(axis=0)
        self.accuracy_ = (sums + PRIOR * overall) / (sizes + PRIOR)
        return self._left_out(labels, scores, sums, sizes)

    def _left_out(self, labels: Matrix, scores: Matrix, sums: Matrix, sizes: Matrix) -> Matrix:
        """As ``_score``, but a question counts neither for its category's scores nor for the classifier."""
        shares = _softmax(self._classifier.left_out, self._temperature)
        own = np.arange(len(labels))
        overall = scores.mean(axis=0)
        without = (sums[labels] - scores + PRIOR * overall) / (sizes[labels] - 1 + PRIOR)
        mixed: Matrix = shares @ self.accuracy_
        mixed += shares[own, labels][:, None] * (without - self.accuracy_[labels])
        return mixed

    def category_shares(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        """(k, c) probability of each category."""
        return _softmax(self._classifier.predict(self._inputs.of_texts(texts, vectors)), self._temperature)

    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        scores: Matrix = self.category_shares(texts, vectors) @ self.accuracy_
        return scores


def _softmax(scores: Matrix, temperature: float) -> Matrix:
    weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    shares: Matrix = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _best_temperature(scores: Matrix, labels: Matrix) -> float:
    """The one at which held-out labels are likeliest."""
    own = np.arange(len(labels))

    def surprise(temperature: float) -> float:
        return float(-np.log(np.maximum(_softmax(scores, temperature)[own, labels], 1e-9)).mean())

    return min(_TEMPERATURES, key=surprise)
