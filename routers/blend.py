"""Several estimators as one: each weighs as much as it explains of the differences between experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from coe.core.suggest import suggest
from coe.core.types import ExpertId
from coe.routers import ESTIMATORS, estimator_class
from coe.routers.base import RouterOptions
from coe.routers.category_evidence import CategoryEstimator
from coe.routers.encoders.encoder import Vectors
from coe.routers.instruction import InstructionEstimator
from coe.routers.knn import KnnEstimator
from coe.routers.learning.calibration import CalibratedEstimator
from coe.routers.learning.evidence import Estimator, Evidence, Matrix
from coe.routers.learning.learned_router import LearnedOptions, LearnedRouter
from coe.routers.learning.views import Asked
from coe.routers.traits import TraitsEstimator

PARTS = tuple(name for name in ESTIMATORS if name != "blend")
USUAL = ("category", "knn", "linear", "traits")

Floats = npt.NDArray[np.float64]


class BlendEstimator(CalibratedEstimator):
    """Stacks fitted estimators (Wolpert 1992) on their cross-fitted estimates, with weights of 0 or more.

    An estimate has two parts: how hard the question is for all (the mean over experts), and how the experts
    differ on it. Only the second decides who is asked and it is far fainter, so each part has its own
    weights; few weights, shared by all experts, cannot learn noise. Learned: ``difference_weights_`` and
    ``level_weights_``, one for each of ``parts_``.
    """

    def __init__(
        self, parts: Sequence[str] = USUAL, fitted: Mapping[str, Estimator] = MappingProxyType({})
    ) -> None:
        self.parts = tuple(parts)
        self.fitted = fitted

    def _learn(self, evidence: Evidence) -> Matrix:
        self.parts_ = self._fitted_parts(evidence)
        estimates = [part.cross_fitted_ for part in self.parts_]
        known = np.isfinite(evidence.scores)
        right = np.where(known, evidence.scores, np.mean(estimates, axis=0))
        self._centre = float(right.mean())
        self.difference_weights_ = _weights([_differences(each) for each in estimates], _differences(right))
        self.level_weights_ = _weights(
            [_levels(each) - self._centre for each in estimates], _levels(right) - self._centre
        )
        return self._blended(estimates)

    def _fitted_parts(self, evidence: Evidence) -> list[Estimator]:
        fitted = dict(self.fitted)
        for name in self.parts:
            if name not in fitted:
                fitted[name] = fit_part(name, evidence, fitted)
        return [fitted[name] for name in self.parts]

    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        return self._blended([part.estimate(texts, vectors) for part in self.parts_])

    def of_parts(self, estimates: Sequence[Matrix]) -> Matrix:
        """What :meth:`estimate` gives, from what those of the parts gave."""
        return self.calibrator_.apply(self._blended(estimates))

    def _blended(self, estimates: Sequence[Matrix]) -> Matrix:
        levels = sum(w * (_levels(each) - self._centre) for w, each in self._weighted(estimates, level=True))
        differences = sum(w * _differences(each) for w, each in self._weighted(estimates, level=False))
        return np.asarray(self._centre + levels + differences, dtype=np.float32)

    def _weighted(self, estimates: Sequence[Matrix], *, level: bool) -> list[tuple[float, Matrix]]:
        weights = self.level_weights_ if level else self.difference_weights_
        return list(zip(weights, estimates, strict=True))


def fit_part(name: str, evidence: Evidence, others: Mapping[str, Estimator]) -> Estimator:
    """The part of this name; what it has in common with those fitted to the same evidence is taken over."""
    category, knn = others.get("category"), others.get("knn")
    if name == "traits" and isinstance(category, CategoryEstimator):
        return TraitsEstimator(subjects=category.found_).fit(evidence)
    if name == "instruction" and isinstance(knn, KnnEstimator):
        return InstructionEstimator(knn=knn).fit(evidence)
    return estimator_class(name)().fit(evidence)


def _levels(estimates: Matrix) -> Matrix:
    """(n, 1) how easy each question is for an average expert."""
    means: Matrix = estimates.mean(axis=1, keepdims=True)
    return means


def _differences(estimates: Matrix) -> Matrix:
    """(n, m) by how much each expert is better than the average one."""
    return estimates - _levels(estimates)


def _weights(parts: Sequence[Matrix], target: Matrix) -> list[float]:
    """Least squares without negative weights (Lawson and Hanson 1974); equal ones when nothing helps."""
    from scipy.optimize import nnls

    columns = np.stack([part.ravel() for part in parts], axis=1).astype(np.float64)
    # The normal equations: as many rows as parts, instead of questions x experts.
    gram, moment = columns.T @ columns, columns.T @ target.ravel().astype(np.float64)
    gram[np.diag_indices_from(gram)] *= 1 + 1e-6
    lower = np.linalg.cholesky(gram + 1e-9 * np.eye(len(gram)))
    found: Floats = nnls(lower.T, np.linalg.solve(lower, moment))[0]
    return found.tolist() if found.any() else [1 / len(parts)] * len(parts)


class BlendOptions(LearnedOptions):
    """``parts``: the kinds of learning routers that are blended."""

    parts: Annotated[tuple[str, ...], Field(min_length=1)] = USUAL

    def faults(self, experts: Sequence[ExpertId]) -> Mapping[str, str]:  # noqa: ARG002
        unknown = [part for part in self.parts if part not in PARTS]
        return {"parts": f'no part "{unknown[0]}"; {suggest(unknown[0], PARTS)}'} if unknown else {}


class BlendRouter(LearnedRouter):
    """Asks who is likeliest to be right by several methods weighed together."""

    options_type: ClassVar[type[RouterOptions]] = BlendOptions

    def _make(self, options: BlendOptions) -> Estimator:
        return BlendEstimator(options.parts)

    def _because(self, asked: Asked, expert: ExpertId) -> str:  # noqa: ARG002
        """What the parts that carry weight found."""
        found = []
        for part, weight in zip(self._estimator.parts_, self._estimator.difference_weights_, strict=True):
            if weight > 0 and isinstance(part, CategoryEstimator):
                shares = part.category_shares([asked.text], asked.vector)[0]
                found.append(f"category {part.categories_[int(shares.argmax())]} {shares.max():.2f}")
            if weight > 0 and isinstance(part, KnnEstimator):
                cosines, rows = part.nearest(asked.vector)
                found.append(self._examples(rows[0][:1].tolist(), cosines[0][:1].tolist()))
        return "; ".join(found)
