"""The loss of a conditional logit (McFadden 1974): which of the alternatives of a question is right.

The probability of an alternative is the softmax of a linear score over the alternatives of its question.
"""

from __future__ import annotations

import numpy as np

from coe.aggregators.combiner.tables import Floats, Ints

_STEPS, _SHORTEST = 50, 1e-6
_NEAR = 1e-6
"""A step that promises less than this of the loss, which is summed over all questions, is the last one."""


class ChoiceLoss:
    """Negative log-likelihood of the right alternatives plus an L2 penalty towards a prior, which is above 0:
    strictly convex, so there is one least value.

    ``features`` (c, f); ``question`` (c,) rising, the question of each alternative; ``target`` (c,) 1 where
    it is right, at least once a question (several that are right share the question); ``prior`` and
    ``penalty`` (f,).
    """

    def __init__(
        self, features: Floats, question: Ints, target: Floats, prior: Floats, penalty: Floats
    ) -> None:
        self._features, self._prior, self._penalty = features, prior, penalty
        self._rough = features.astype(np.float32)
        self._segments = Segments(question)
        self._target = target / self._segments.spread(self._segments.sums(target))

    def __call__(self, coefficients: Floats) -> tuple[float, Floats]:
        """The loss, and its gradient (f,)."""
        chance = self._chance(coefficients)
        away = coefficients - self._prior
        loss = -np.sum(self._target * np.log(np.maximum(chance, 1e-12)))
        loss += 0.5 * np.sum(self._penalty * away**2)
        return float(loss), np.asarray(self._features.T @ (chance - self._target) + self._penalty * away)

    def least(self, start: Floats) -> Floats:
        """Where the loss is least, by Newton's method; a step that does not gain is halved."""
        found, (loss, gradient) = start, self(start)
        for _ in range(_STEPS):
            step = np.linalg.solve(self._curvature(found), gradient)
            if gradient @ step < _NEAR:
                return np.asarray(found - step)
            size, tried = 1.0, self(found - step)
            while tried[0] > loss and size > _SHORTEST:
                size /= 2
                tried = self(found - size * step)
            found, (loss, gradient) = found - size * step, tried
        return found

    def _curvature(self, coefficients: Floats) -> Floats:
        """(f, f) second derivatives: within each question the covariance of the features. In half the
        precision and half the time: how far a step leads may be rough, where the steps end is not."""
        chance = self._chance(coefficients).astype(np.float32)[:, None]
        spread = np.sqrt(chance) * self._rough
        means = self._segments.sums(chance * self._rough)
        return np.asarray(spread.T @ spread - means.T @ means, dtype=np.float64) + np.diag(self._penalty)

    def _chance(self, coefficients: Floats) -> Floats:
        return self._segments.softmax(self._features @ coefficients)


class Segments:
    """Alternatives grouped by question; ``question`` (c,) is rising."""

    def __init__(self, question: Ints) -> None:
        _, self._start, self._of = np.unique(question, return_index=True, return_inverse=True)

    def sums(self, values: Floats) -> Floats:
        """Of the rows of each question."""
        return np.asarray(np.add.reduceat(values, self._start))

    def spread(self, values: Floats) -> Floats:
        """(c,) to each alternative the value of its question."""
        return np.asarray(values[self._of])

    def softmax(self, scores: Floats) -> Floats:
        """(c,) shares that sum to 1 within each question."""
        if not len(scores):
            return np.zeros(0)
        raised = np.exp(scores - self.spread(np.maximum.reduceat(scores, self._start)))
        return np.asarray(raised / self.spread(self.sums(raised)))
