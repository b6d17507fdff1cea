"""Experts of which few answers are known, seen through the models of which many are.

How models differ by question is mostly the same everywhere: who is good at sums is good at physics problems,
who knows facts knows them in law and history alike. So what other models did on other questions (the profiles
that come with CoE, for example) gives the few directions in which an expert may differ from the rest, and a
handful of answers says how far it goes in each. It is a Gaussian process over questions whose covariance is
the known models' predicted differences (multi-task learning, Bonilla et al. 2008), written as a ridge
regression on them; the sentence vector joins in as far as the answers at hand ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from coe.core.types import ExpertId
from coe.routers.base import RouterOptions
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.calibration import CalibratedEstimator, completed, relative_error
from coe.routers.learning.category_shares import CategoryShares
from coe.routers.learning.evidence import Estimator, Evidence, Matrix
from coe.routers.learning.learned_router import LearnedOptions, LearnedRouter
from coe.routers.learning.ridge import Floats32, RidgeFit, fit_ridge
from coe.routers.learning.views import Asked

_KNOWN_STRENGTHS = (10.0, 30.0, 100.0)
"""Penalties of the known models' differences, by question."""
_SHARES = 0.3
"""Scale of a category's share beside vectors of length 1."""
_STRENGTHS = (0.1, 0.3, 1.0)
_OWN = (0.0, 0.02, 0.1, 0.4)
"""Weights of the sentence vector beside the known models' differences, which have variance 1 together."""


class TransferEstimator(CalibratedEstimator):
    """Ridge regression of outcomes on how the models of ``evidence.reference`` would differ on a question,
    and on the question's vector; without a reference on the vector alone.

    The penalty and the weight of the vector are those with the least error on questions left out.
    """

    def _learn(self, evidence: Evidence) -> Matrix:
        self._kin = None if evidence.reference is None else _Kin(evidence.reference)
        targets = completed(evidence)
        known = self._known(evidence.vectors)
        tried: list[tuple[float, RidgeFit]] = []
        for own in _OWN if known.shape[1] else (1.0,):
            inputs = _joined(known, evidence.vectors, own)
            tried += [(own, fit) for fit in fit_ridge(inputs, targets, _STRENGTHS)]
        self._own, self._fit = min(tried, key=lambda one: relative_error(one[1].left_out, evidence))
        return self._fit.left_out

    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:  # noqa: ARG002
        return self._fit.predict(_joined(self._known(vectors), vectors, self._own))

    def _known(self, vectors: Vectors) -> Floats32:
        return np.zeros((len(vectors), 0), np.float32) if self._kin is None else self._kin.of(vectors)


class _Kin:
    """What each known model's outcome would be on a question, less what all models' and its own is on
    average."""

    def __init__(self, reference: Evidence) -> None:
        scores = completed(reference)
        level = scores.mean(axis=1, keepdims=True)
        differences = scores - level
        targets = np.hstack([differences - differences.mean(axis=0), level])
        self._shares = CategoryShares().fit(replace(reference, features=None))
        self._middle = reference.vectors.mean(axis=0)
        inputs = self._inputs(reference.vectors, self._shares.left_out_)
        fits = fit_ridge(inputs, targets, _KNOWN_STRENGTHS)
        self._fit = min(fits, key=lambda fit: float(((fit.left_out - targets)[:, :-1] ** 2).mean()))
        found = self._fit.predict(inputs)
        self._mean, self._size = found.mean(axis=0), float(found[:, :-1].std(axis=0).mean() + 1e-9)

    def of(self, vectors: Vectors) -> Floats32:
        """(k, m + 1): the models' differences, and how easy the question is for all."""
        found = self._fit.predict(self._inputs(vectors, self._shares.of([""] * len(vectors), vectors)))
        centred: Floats32 = found - self._mean
        return centred * np.float32(np.sqrt(2 / (centred.shape[1] - 1)))

    def _inputs(self, vectors: Vectors, shares: Matrix) -> Floats32:
        return np.hstack([vectors - self._middle, _SHARES * shares]).astype(np.float32)


def _joined(known: Floats32, vectors: Vectors, own: float) -> Floats32:
    return np.hstack([known, np.float32(np.sqrt(own)) * vectors]) if own else known


class TransferRouter(LearnedRouter):
    """Asks who is likeliest to be right by few answers of its own, and by how known models differ."""

    options_type: ClassVar[type[RouterOptions]] = LearnedOptions

    def _make(self, options: LearnedOptions) -> Estimator:  # noqa: ARG002
        return TransferEstimator()

    def _because(self, asked: Asked, expert: ExpertId) -> str:  # noqa: ARG002
        reference = self._evidence.reference if self._evidence else None
        return f"as {len(reference.experts)} known models differ" if reference else "no known models to go by"
