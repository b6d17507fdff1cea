"""Pilot embeddings (RouterRetriever, arXiv 2409.02685): an expert is where its best questions are.

For each category of the evidence its questions are given to the expert that did best on them; the centroid
of each group is a pilot embedding of that expert, unless the group is smaller than the average expert's:
outcomes that are only right or wrong give everybody a few questions everywhere. A question goes to the
expert whose pilots are nearest.
Adding an expert adds its pilots and changes nobody else's; removing one deletes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from coe.core.types import ExpertId
from coe.routers.base import RouterOptions
from coe.routers.encoders.encoder import Vectors, unit
from coe.routers.learning.calibration import CalibratedEstimator, out_of_fold
from coe.routers.learning.evidence import Estimator, Evidence, Matrix
from coe.routers.learning.learned_router import Asked, LearnedOptions, LearnedRouter

Pooling = Literal["mean", "max"]


class PilotEstimator(CalibratedEstimator):
    """The paper's similarity (``mean`` over an expert's pilots; ``max`` as in its repository), calibrated.

    Learned: ``pilots_`` (p, d), ``owners_`` (p,) columns of experts, ``groups_`` (p,) their categories.
    """

    def __init__(self, pooling: Pooling = "max") -> None:
        self.pooling = pooling

    def _learn(self, evidence: Evidence) -> Matrix:
        self._fit_pilots(evidence)

        def scored(part: Evidence, vectors: Vectors) -> Matrix:
            return PilotEstimator(self.pooling)._fit_pilots(part)._score_vectors(vectors)

        return out_of_fold(evidence, scored)

    def _fit_pilots(self, evidence: Evidence) -> PilotEstimator:
        best = _best_experts(evidence)
        labels = np.asarray(evidence.categories, dtype=object)
        pilots, owners, groups = [], [], []
        for category in sorted(set(evidence.categories)):
            inside = labels == category
            fair = best[inside].sum() / len(evidence.experts)
            for expert in range(len(evidence.experts)):
                members = inside & best[:, expert]
                if members.any() and members.sum() >= fair:
                    pilots.append(unit(evidence.vectors[members].mean(axis=0)))
                    owners.append(expert)
                    groups.append(category)
        self.pilots_ = np.asarray(pilots, dtype=np.float32)
        self.owners_, self.groups_ = np.asarray(owners), tuple(groups)
        self._width = len(evidence.experts)
        return self

    def similarities(self, vectors: Vectors) -> Matrix:
        """(k, m) similarity to each expert's pilots; -1 for an expert without any."""
        cosines = vectors @ self.pilots_.T
        found = np.full((len(vectors), self._width), -1.0, dtype=np.float32)
        for expert in range(found.shape[1]):
            own = cosines[:, self.owners_ == expert]
            if own.shape[1]:
                found[:, expert] = own.max(axis=1) if self.pooling == "max" else own.mean(axis=1)
        return found

    def nearest_pilot(self, vector: Vectors, expert: ExpertId) -> tuple[str, float] | None:
        """Category and cosine of the expert's pilot nearest to a question (1, d)."""
        if expert not in self.experts_:
            return None
        own = np.flatnonzero(self.owners_ == self.experts_.index(expert))
        if not len(own):
            return None
        cosines = self.pilots_[own] @ vector[0]
        best = int(np.argmax(cosines))
        return self.groups_[own[best]], float(cosines[best])

    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:  # noqa: ARG002
        return self._score_vectors(vectors)

    def _score_vectors(self, vectors: Vectors) -> Matrix:
        """Similarities squeezed into 0..1; the calibrator finds what they are worth."""
        found = self.similarities(vectors)
        shifted: Matrix = 1 / (1 + np.exp(-5.0 * (found - found.mean(axis=1, keepdims=True))))
        return shifted


def _best_experts(evidence: Evidence) -> npt.NDArray[np.bool_]:
    """(n, m) true for the experts that did best on a question, unless all did alike.

    Outcomes are mostly right or wrong, so several may share the first place; the paper's scores never tie.
    A question that nobody was asked has no best.
    """
    asked = np.isfinite(evidence.scores)
    scores = np.where(asked, evidence.scores, -1.0)
    highest = scores.max(axis=1, keepdims=True)
    total = np.where(asked, evidence.scores, 0.0).sum(axis=1, keepdims=True)
    mean = total / np.maximum(asked.sum(axis=1, keepdims=True), 1)
    best: npt.NDArray[np.bool_] = (scores == highest) & (highest > mean)
    return best


class PilotOptions(LearnedOptions):
    """``pooling``: over an expert's pilots, their ``mean`` (the paper) or ``max`` (its repository)."""

    pooling: Pooling = "max"


class PilotRouter(LearnedRouter):
    """Asks the expert whose pilot embeddings are nearest."""

    options_type: ClassVar[type[RouterOptions]] = PilotOptions

    def _make(self, options: PilotOptions) -> Estimator:
        return PilotEstimator(options.pooling)

    def _because(self, asked: Asked, expert: ExpertId) -> str:
        found: tuple[str, float] | None = self._estimator.nearest_pilot(asked.vector, expert)
        return "" if found is None else f"its pilot {found[0]} {found[1]:.2f}"
