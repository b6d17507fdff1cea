"""Nearest neighbours: how the experts did on the most similar questions. The baseline to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from coe.core.types import ExpertId
from coe.routers.base import RouterOptions
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.calibration import CalibratedEstimator, completed, relative_error
from coe.routers.learning.evidence import Estimator, Evidence, Matrix
from coe.routers.learning.learned_router import SHOWN, LearnedOptions, LearnedRouter
from coe.routers.learning.views import Asked

NEIGHBOURS = (10, 20, 40, 80, 160, 320)
_BLOCK = 256
"""Questions at a time: the scores of all their neighbours are in memory."""


class KnnEstimator(CalibratedEstimator):
    """Mean outcome over the ``neighbours`` nearest questions by cosine, in an exact faiss index.

    ``neighbours=None`` takes the best of ``NEIGHBOURS`` on the evidence, each question left out of its own
    neighbours (copies of it too). Learned: ``neighbours_``.
    """

    def __init__(self, neighbours: int | None = None) -> None:
        self.neighbours = neighbours

    def _learn(self, evidence: Evidence) -> Matrix:
        import faiss

        self._index = faiss.IndexFlatIP(evidence.vectors.shape[1])
        self._index.add(evidence.vectors)
        self._scores = completed(evidence)
        choices = NEIGHBOURS if self.neighbours is None else (self.neighbours,)
        most = min(max(choices) + 1, len(evidence))
        cosines, nearest = self._index.search(evidence.vectors, most)
        trials = _left_out(self._scores, cosines, nearest, choices)
        self.neighbours_ = min(trials, key=lambda k: relative_error(trials[k], evidence))
        return trials[self.neighbours_]

    def nearest(self, vectors: Vectors) -> tuple[Matrix, npt.NDArray[np.int64]]:
        """Cosines and rows of the nearest questions, (k, neighbours_) each, the nearest first."""
        count = min(self.neighbours_, len(self._scores))
        cosines, rows = self._index.search(np.ascontiguousarray(vectors, dtype=np.float32), count)
        return cosines, rows

    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:  # noqa: ARG002
        _, nearest = self.nearest(vectors)
        scores: Matrix = self._scores[nearest].mean(axis=1)
        return scores


def _left_out(
    scores: Matrix, cosines: Matrix, nearest: npt.NDArray[np.int64], choices: Sequence[int]
) -> dict[int, Matrix]:
    """Mean scores (n, m) of each question's neighbours, by their number; neither the question itself nor its
    copies are among them. The overall mean where that leaves none."""
    n, m = scores.shape
    found = {count: np.empty((n, m), dtype=np.float32) for count in choices}
    overall = scores.mean(axis=0)
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(n, start + _BLOCK))
        other = (cosines[rows] < 1 - 1e-5) & (nearest[rows] != rows[:, None])
        first = np.argsort(~other, axis=1, kind="stable")  # the others in their order, then the copies
        near, known = np.take_along_axis(nearest[rows], first, axis=1), other.sum(axis=1)
        told = np.where((np.arange(near.shape[1]) < known[:, None])[:, :, None], scores[near], 0.0)
        total, counted = np.zeros((len(rows), m)), 0
        for count in sorted(choices):
            total = total + told[:, counted:count].sum(axis=1)
            counted = count
            means = total / np.maximum(np.minimum(known, count), 1)[:, None]
            found[count][rows] = np.where(known[:, None] > 0, means, overall)
    return found


class KnnOptions(LearnedOptions):
    """``neighbours``: questions compared with; none takes what fits the profiles best."""

    neighbours: Annotated[int, Field(ge=1)] | None = None


class KnnRouter(LearnedRouter):
    """Asks who did best on the most similar questions of the profiles."""

    options_type: ClassVar[type[RouterOptions]] = KnnOptions

    def _make(self, options: KnnOptions) -> Estimator:
        return KnnEstimator(options.neighbours)

    def _because(self, asked: Asked, expert: ExpertId) -> str:  # noqa: ARG002
        cosines, rows = self._estimator.nearest(asked.vector)
        return self._examples(rows[0][:SHOWN].tolist(), cosines[0][:SHOWN].tolist())
