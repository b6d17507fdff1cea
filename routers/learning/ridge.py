"""What linear learners see of a question: its sentence vector beside the features of its wording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.evidence import Evidence
from coe.routers.learning.features import WORDS, text_features

Floats32 = npt.NDArray[np.float32]

_FOLDED = 512
"""Buckets of words after folding: a quarter of the columns is as good here, and 5 times as fast."""
_SURFACE_WEIGHT = 0.05
"""Scale of a surface feature (of deviation 1) beside vectors of length 1."""


class Inputs:
    """Dense inputs (n, d + wording) of linear learners; the vectors alone where evidence has no features.

    Learned: the surface's mean and deviation.
    """

    def fit(self, evidence: Evidence) -> Self:
        self._reads_text = evidence.features is not None
        if evidence.features is not None:
            surface = evidence.features[:, WORDS:].toarray()
            self._mean, self._deviation = surface.mean(axis=0), surface.std(axis=0) + 1e-6
        return self

    def of_evidence(self, evidence: Evidence) -> Floats32:
        return self._joined(evidence.vectors, evidence.features)

    def of_texts(self, texts: Sequence[str], vectors: Vectors) -> Floats32:
        return self._joined(vectors, text_features(texts) if self._reads_text else None)

    def _joined(self, vectors: Vectors, features: object) -> Floats32:
        if features is None:
            return vectors
        words, surface = features[:, :WORDS], features[:, WORDS:].toarray()  # type: ignore[index]
        scaled = ((surface - self._mean) / self._deviation * _SURFACE_WEIGHT).astype(np.float32)
        # Hashed buckets may share a column again: signs cancel out as before (Weinberger et al. 2009).
        folded = words.toarray().reshape(len(vectors), -1, _FOLDED).sum(axis=1)
        joined: Floats32 = np.hstack([vectors, scaled, folded])
        return joined


@dataclass(frozen=True)
class RidgeFit:
    """Learned weights, and the predictions (n, t) of the learning rows, each made without that row."""

    weights: Floats32
    shift: Floats32
    left_out: Floats32

    def predict(self, inputs: Floats32) -> Floats32:
        predicted: Floats32 = inputs @ self.weights + self.shift
        return predicted


def fit_ridge(inputs: Floats32, targets: Floats32, strengths: Sequence[float]) -> list[RidgeFit]:
    """Ridge regression of all targets (n, t) at once, one fit for each penalty in ``strengths``.

    Leaving one row out has a closed form: the residual over 1 - leverage (Allen 1974).
    """
    from scipy.linalg import cho_solve, cholesky, solve_triangular

    mean_in, mean_out = inputs.mean(axis=0), targets.mean(axis=0)
    centred = inputs - mean_in
    gram, moment = centred.T @ centred, centred.T @ (targets - mean_out)
    fits = []
    for strength in strengths:
        penalised = gram.copy()
        penalised[np.diag_indices_from(penalised)] += strength
        lower = cholesky(penalised, lower=True, overwrite_a=True, check_finite=False)
        weights = cho_solve((lower, True), moment, check_finite=False)
        whitened = solve_triangular(lower, centred.T, lower=True, check_finite=False)
        leverage = np.minimum((whitened**2).sum(axis=0) + 1 / len(inputs), 0.99)
        residual = targets - (centred @ weights + mean_out)
        left_out = targets - residual / (1 - leverage)[:, None]
        fits.append(RidgeFit(weights, mean_out - mean_in @ weights, left_out.astype(np.float32)))
    return fits
