"""Whom to ask, given what a router estimates."""

from __future__ import annotations

import numpy as np

from coe.aggregators.top_p import counts
from eval.recorded.outcomes import Floats, Indices


def available_top(ranking: Floats, scores: Floats, count: int) -> Indices:
    """(n, count) columns of the highest ranked experts among those with a recorded outcome; -1: none left.

    Of equally ranked experts the first goes first. An expert without an outcome is as one that is down.
    """
    usable = np.where(np.isfinite(scores), ranking, -np.inf)
    order = np.argsort(-usable, axis=1, kind="stable")[:, :count]
    return np.where(np.isfinite(np.take_along_axis(usable, order, axis=1)), order, -1)


def by_mass(asked: Indices, probabilities: Floats, p: float, clear: float) -> Indices:
    """``asked`` (n, k; best first, -1: nobody) with -1 in place of those that top-p with a null expert leaves
    out (:mod:`coe.aggregators.top_p`); ``probabilities`` (n, m)."""
    chances = np.take_along_axis(probabilities, np.maximum(asked, 0), axis=1)
    taken = counts(np.where(asked >= 0, chances, np.nan), p, clear)
    return np.where(np.arange(asked.shape[1]) < taken[:, None], asked, -1)
