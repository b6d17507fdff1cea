"""The loss of a conditional logit (McFadden 1974): which of the alternatives of a question is right.

The probability of an alternative is the softmax of a linear score over the alternatives of its question.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coe.aggregators.weighing import Floats, Ints


class ChoiceLoss:
    """Negative log-likelihood of the right alternatives plus an L2 penalty towards a prior, and its gradient.

    ``features`` (c, f); ``question`` (c,) rising, the question of each alternative; ``target`` (c,) 1 where
    it is right; ``prior`` and ``penalty`` (f,).
    """

    def __init__(
        self, features: Floats, question: Ints, target: Floats, prior: Floats, penalty: Floats
    ) -> None:
        self._features, self._target = features, target
        self._prior, self._penalty = prior, penalty
        self._segments = Segments(question)

    def __call__(self, coefficients: Any) -> tuple[float, Floats]:
        chance = self._segments.softmax(self._features @ coefficients)
        away = coefficients - self._prior
        loss = -np.sum(self._target * np.log(np.maximum(chance, 1e-12)))
        loss += 0.5 * np.sum(self._penalty * away**2)
        return float(loss), np.asarray(self._features.T @ (chance - self._target) + self._penalty * away)


class Segments:
    """Alternatives grouped by question; ``question`` (c,) is rising."""

    def __init__(self, question: Ints) -> None:
        _, self._start, self._of = np.unique(question, return_index=True, return_inverse=True)

    def softmax(self, scores: Floats) -> Floats:
        """(c,) shares that sum to 1 within each question."""
        if not len(scores):
            return np.zeros(0)
        raised = np.exp(scores - np.maximum.reduceat(scores, self._start)[self._of])
        return np.asarray(raised / np.add.reduceat(raised, self._start)[self._of])
