"""What kind of question it is: subject x form beside the main directions of meaning, in one small regression.

Experts differ by subject (a map by category finds that) and by form: numbers or prose as options, formulas,
long stems. What form says depends on the subject, so the products of both are inputs. The inputs are few,
because the differences between experts are faint beside the chance in each outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from coe.core.types import ExpertView
from coe.routers.base import RouterOptions
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.calibration import CalibratedEstimator, completed, relative_error
from coe.routers.learning.category_shares import CategoryShares
from coe.routers.learning.evidence import Estimator, Evidence, Matrix
from coe.routers.learning.features import WORDS, text_features
from coe.routers.learning.learned_router import Judged, LearnedOptions, LearnedRouter
from coe.routers.learning.ridge import Floats32, fit_ridge
from coe.routers.learning.views import Asked

STRENGTHS = (30.0, 60.0, 120.0)
_DIRECTIONS = 64
"""Principal directions of the sentence vectors that are kept."""
_SUBJECTS = 24
"""Most categories whose products with form are inputs."""
_SURFACE_WEIGHT = 0.1


class TraitsEstimator(CalibratedEstimator):
    """Ridge regression of outcomes on category shares, surface features, their products, and the principal
    directions of the sentence vector.

    ``strength=None`` takes the penalty with the least error on questions left out. ``subjects``: fitted to
    the same evidence, they need not be fitted again.
    """

    def __init__(self, strength: float | None = None, subjects: CategoryShares | None = None) -> None:
        self.strength, self.subjects = strength, subjects

    def _learn(self, evidence: Evidence) -> Matrix:
        self.subjects_ = self.subjects or CategoryShares().fit(evidence)
        self._fit_inputs(evidence)
        surface = evidence.features[:, WORDS:].toarray() if evidence.features is not None else None
        inputs = self._inputs(evidence.vectors, self.subjects_.left_out_, surface)
        strengths = STRENGTHS if self.strength is None else (self.strength,)
        fits = fit_ridge(inputs, completed(evidence), strengths)
        self._fit = min(fits, key=lambda fit: relative_error(fit.left_out, evidence))
        return self._fit.left_out

    def _fit_inputs(self, evidence: Evidence) -> None:
        self._centre = evidence.vectors.mean(axis=0)
        centred = evidence.vectors - self._centre
        _, directions = np.linalg.eigh(centred.T @ centred)
        self._directions = directions[:, ::-1][:, :_DIRECTIONS].astype(np.float32)
        self._mean_shares = self.subjects_.left_out_.mean(axis=0)
        self._common = np.argsort(-self._mean_shares, kind="stable")[:_SUBJECTS]
        self._reads_text = evidence.features is not None
        if evidence.features is not None:
            surface = evidence.features[:, WORDS:].toarray()
            self._mean, self._deviation = surface.mean(axis=0), surface.std(axis=0) + 1e-6

    def _inputs(self, vectors: Vectors, shares: Matrix, surface: npt.NDArray[np.float32] | None) -> Floats32:
        """(k, inputs) of questions with these shares; ``surface`` is None where no text was read."""
        subject = shares - self._mean_shares
        parts = [(vectors - self._centre) @ self._directions, subject]
        if surface is not None:
            form = _SURFACE_WEIGHT * (surface - self._mean) / self._deviation
            products = form[:, :, None] * subject[:, None, self._common]
            parts += [form, products.reshape(len(form), -1)]
        return np.hstack(parts).astype(np.float32)

    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        surface = text_features(texts)[:, WORDS:].toarray() if self._reads_text else None
        return self._fit.predict(self._inputs(vectors, self.subjects_.of(texts, vectors), surface))


class TraitsOptions(LearnedOptions):
    """``strength``: the penalty; none takes what fits the profiles best."""

    strength: Annotated[float, Field(gt=0)] | None = None


class TraitsRouter(LearnedRouter):
    """Asks who is likeliest to be right on questions of this subject and form."""

    options_type: ClassVar[type[RouterOptions]] = TraitsOptions

    def _make(self, options: TraitsOptions) -> Estimator:
        return TraitsEstimator(options.strength)

    def _judged(self, asked: Asked, experts: Sequence[ExpertView]) -> Judged:
        judged = super()._judged(asked, experts)
        if self._estimator is None:
            return judged
        subjects = self._estimator.subjects_
        shares = subjects.of([asked.text], asked.vector)[0]
        category = subjects.categories_[int(shares.argmax())]
        return replace(judged, category=category, label=f"category {category} {shares.max():.2f}")
