"""Composition of Experts on evidence: how probable each category is, and how good each expert is in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from routers.calibration import CalibratedEstimator, completed
from routers.category_shares import CategoryShares
from routers.encoder import Vectors
from routers.evidence import Evidence, Matrix

PRIOR = 5.0
"""Questions' worth of an expert's overall accuracy in each of its category scores."""


class CategoryEstimator(CalibratedEstimator):
    """P(right) = sum over categories of P(category) x the expert's accuracy in it.

    Learned: ``categories_`` (c names, sorted), ``shares_`` (c,) of the evidence, ``accuracy_`` (c, m), and
    ``found_``, which says how probable each category is.
    Category labels are learned from evidence only; a question asked later brings none.
    """

    def _learn(self, evidence: Evidence) -> Matrix:
        self.found_ = CategoryShares().fit(evidence)
        self.categories_, labels = self.found_.categories_, self.found_.labels_
        belonging = np.eye(len(self.categories_), dtype=np.float32)[labels]
        scores = completed(evidence)
        overall = scores.mean(axis=0)
        sums, sizes = belonging.T @ scores, belonging.sum(axis=0)[:, None]
        self.shares_ = belonging.mean(axis=0)
        self.accuracy_ = (sums + PRIOR * overall) / (sizes + PRIOR)
        return self._left_out(scores, sums, sizes)

    def _left_out(self, scores: Matrix, sums: Matrix, sizes: Matrix) -> Matrix:
        """As ``_score``, but a question counts neither for its category's scores nor for the classifier."""
        shares, labels = self.found_.left_out_, self.found_.labels_
        own = np.arange(len(labels))
        overall = scores.mean(axis=0)
        without = (sums[labels] - scores + PRIOR * overall) / (sizes[labels] - 1 + PRIOR)
        mixed: Matrix = shares @ self.accuracy_
        mixed += shares[own, labels][:, None] * (without - self.accuracy_[labels])
        return mixed

    def category_shares(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        """(k, c) probability of each category."""
        return self.found_.of(texts, vectors)

    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        scores: Matrix = self.category_shares(texts, vectors) @ self.accuracy_
        return scores
