"""Pilot embeddings (RouterRetriever, arXiv 2409.02685): an expert is where its best questions are.

For each category of the evidence its questions are given to the expert that did best on them; the centroid
of each group is a pilot embedding of that expert, unless the group is smaller than the average expert's:
outcomes that are only right or wrong give everybody a few questions everywhere.

The paper asks the expert whose pilots are nearest. What nearness is worth differs from expert to expert, so
here it is learned on questions whose own fold made no pilot: how often each expert was right at which
similarities, to its own pilots and to others'. :meth:`PilotEstimator.similarities` gives the paper's rule.
Another expert may take questions from those that were best on them, so pilots are made anew with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from coe.core.types import ExpertId
from coe.routers.base import RouterOptions
from coe.routers.encoders.encoder import Vectors, unit
from coe.routers.learning.calibration import CalibratedEstimator, completed, out_of_fold, relative_error
from coe.routers.learning.evidence import Estimator, Evidence, Matrix
from coe.routers.learning.learned_router import LearnedOptions, LearnedRouter
from coe.routers.learning.ridge import fit_ridge
from coe.routers.learning.views import Asked

Pooling = Literal["mean", "max"]
STRENGTHS = (0.3, 3.0, 30.0)


class PilotEstimator(CalibratedEstimator):
    """The paper's similarity (``mean`` over an expert's pilots; ``max`` as in its repository), and a ridge
    regression of all experts' outcomes on it.

    Learned: ``pilots_`` (p, d), ``owners_`` (p,) columns of experts, ``groups_`` (p,) their categories.
    """

    def __init__(self, pooling: Pooling = "max") -> None:
        self.pooling = pooling

    def _learn(self, evidence: Evidence) -> Matrix:
        self._fit_pilots(evidence)

        def near(part: Evidence, vectors: Vectors) -> Matrix:
            return PilotEstimator(self.pooling)._fit_pilots(part).similarities(vectors)

        fits = fit_ridge(out_of_fold(evidence, near), completed(evidence), STRENGTHS)
        self._fit = min(fits, key=lambda fit: relative_error(fit.left_out, evidence))
        return self._fit.left_out

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
        self.pilots_ = np.asarray(pilots, dtype=np.float32).reshape(-1, evidence.vectors.shape[1])
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
        return self._fit.predict(self.similarities(vectors))


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
    """Asks who is likeliest to be right that near to the pilot embeddings."""

    options_type: ClassVar[type[RouterOptions]] = PilotOptions

    def _make(self, options: PilotOptions) -> Estimator:
        return PilotEstimator(options.pooling)

    def _because(self, asked: Asked, expert: ExpertId) -> str:
        found: tuple[str, float] | None = self._estimator.nearest_pilot(asked.vector, expert)
        return "" if found is None else f"its pilot {found[0]} {found[1]:.2f}"
