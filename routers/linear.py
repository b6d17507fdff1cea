"""A linear predictor of each expert's outcome: the second baseline that no learned router clearly beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from coe.routers.base import RouterOptions
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.calibration import CalibratedEstimator, completed, relative_error
from coe.routers.learning.evidence import Estimator, Evidence, Matrix
from coe.routers.learning.learned_router import LearnedOptions, LearnedRouter
from coe.routers.learning.ridge import Inputs, fit_ridge

STRENGTHS = (30.0, 100.0)


class LinearEstimator(CalibratedEstimator):
    """Ridge regression of outcomes on the sentence vector and the wording, then Platt's
    logistic link: a logistic regression whose slow part has a closed form.

    ``strength=None`` takes the penalty with the least error on questions left out.
    """

    def __init__(self, strength: float | None = None) -> None:
        self.strength = strength

    def _learn(self, evidence: Evidence) -> Matrix:
        self._inputs = Inputs().fit(evidence)
        strengths = STRENGTHS if self.strength is None else (self.strength,)
        fits = fit_ridge(self._inputs.of_evidence(evidence), completed(evidence), strengths)
        self._fit = min(fits, key=lambda fit: relative_error(fit.left_out, evidence))
        return self._fit.left_out

    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        return self._fit.predict(self._inputs.of_texts(texts, vectors))


class LinearOptions(LearnedOptions):
    """``strength``: the penalty; none takes what fits the profiles best."""

    strength: Annotated[float, Field(gt=0)] | None = None


class LinearRouter(LearnedRouter):
    """Asks who is likeliest to be right by a linear model of the question's vector."""

    options_type: ClassVar[type[RouterOptions]] = LinearOptions

    def _make(self, options: LinearOptions) -> Estimator:
        return LinearEstimator(options.strength)
