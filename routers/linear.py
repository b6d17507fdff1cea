"""A linear predictor of each expert's outcome: the second baseline that no learned router clearly beats."""

from __future__ import annotations

from collections.abc import Sequence

from routers.calibration import CalibratedEstimator, completed, relative_error
from routers.encoder import Vectors
from routers.evidence import Evidence, Matrix
from routers.inputs import Inputs, fit_ridge

STRENGTHS = (3.0, 10.0, 30.0, 100.0)


class LinearEstimator(CalibratedEstimator):
    """Ridge regression of outcomes on the sentence vector and the surface of the wording, then Platt's
    logistic link: a logistic regression whose slow part has a closed form.

    ``strength=None`` takes the penalty with the least error on questions left out. Learned: ``strength_``.
    """

    def __init__(self, strength: float | None = None) -> None:
        self.strength = strength

    def _learn(self, evidence: Evidence) -> Matrix:
        self._inputs = Inputs(words=False).fit(evidence)
        strengths = STRENGTHS if self.strength is None else (self.strength,)
        fits = fit_ridge(self._inputs.of_evidence(evidence), completed(evidence), strengths)
        errors = [relative_error(fit.left_out, evidence) for fit in fits]
        best = errors.index(min(errors))
        self.strength_, self._fit = strengths[best], fits[best]
        return self._fit.left_out

    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        return self._fit.predict(self._inputs.of_texts(texts, vectors))
