"""How probable each category is for a question, learned from labelled evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.evidence import Evidence, Matrix
from coe.routers.learning.ridge import Inputs, fit_ridge

_STRENGTH = 1.0
_TEMPERATURES = (0.03, 0.05, 0.08, 0.12, 0.2, 0.4)


class CategoryShares:
    """A ridge classifier with a softmax link. Labels are learned from evidence only.

    Learned: ``categories_`` (c names, sorted), ``labels_`` (n,) places of the evidence's own, and
    ``left_out_`` (n, c) the shares of its questions, each made without that question.
    """

    def fit(self, evidence: Evidence) -> Self:
        self.categories_ = tuple(sorted(set(evidence.categories)))
        place = {category: i for i, category in enumerate(self.categories_)}
        self.labels_ = np.asarray([place[category] for category in evidence.categories], dtype=np.intp)
        belonging = np.eye(len(self.categories_), dtype=np.float32)[self.labels_]
        self._inputs = Inputs().fit(evidence)
        [self._classifier] = fit_ridge(self._inputs.of_evidence(evidence), belonging, [_STRENGTH])
        self._temperature = _best_temperature(self._classifier.left_out, self.labels_)
        self.left_out_ = _softmax(self._classifier.left_out, self._temperature)
        return self

    def of(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        """(k, c) probability of each category."""
        return _softmax(self._classifier.predict(self._inputs.of_texts(texts, vectors)), self._temperature)


def _softmax(scores: Matrix, temperature: float) -> Matrix:
    weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    shares: Matrix = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _best_temperature(scores: Matrix, labels: npt.NDArray[np.intp]) -> float:
    """The one at which held-out labels are likeliest."""
    own = np.arange(len(labels))

    def surprise(temperature: float) -> float:
        return float(-np.log(np.maximum(_softmax(scores, temperature)[own, labels], 1e-9)).mean())

    return min(_TEMPERATURES, key=surprise)
