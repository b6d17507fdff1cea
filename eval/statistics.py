"""Paired comparisons, correction for many tests, calibration.

All arrays hold one value a question, in the same order of questions where two are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coe.outcomes.statistics import Share

Floats = npt.NDArray[np.float64]
_BLOCK = 2_000_000
"""Random numbers held at once."""


def share(marks: Iterable[bool]) -> Share:
    """The share of true ``marks``."""
    listed = list(marks)
    return Share(sum(listed), len(listed))


@dataclass(frozen=True)
class PairedDifference:
    """Mean of ``a - b`` over the same questions, its 95% interval, and a two-sided p value."""

    mean: float
    low: float
    high: float
    p: float
    total: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_bootstrap(
    a: Sequence[float] | Floats, b: Sequence[float] | Floats, *, draws: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Percentile bootstrap over questions of the mean of ``a - b`` (scores, one a question).

    For several seeds pass the mean over seeds of each question. p is twice the smaller share of draws on
    either side of 0, never below ``1 / draws``. Raises ValueError on unequal lengths or no questions.
    """
    difference = np.asarray(a, dtype=np.float64) - _same_length(a, b)
    if not len(difference):
        raise ValueError("no questions to compare")
    means = _resampled_means(difference, draws, np.random.default_rng(seed))
    low, high = np.quantile(means, (0.025, 0.975))
    tail = min(float((means <= 0).mean()), float((means >= 0).mean()))
    p = min(1.0, max(2 * tail, 1 / draws))
    return PairedDifference(float(difference.mean()), float(low), float(high), p, len(difference))


def _same_length(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> Floats:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} scores cannot be paired")
    return np.asarray(b, dtype=np.float64)


def _resampled_means(values: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Means of ``draws`` resamples of ``values`` with replacement.

    Equal values are exchangeable, so how often each is drawn is multinomial: with marks of 0 and 1 there are
    three differences, however many questions.
    """
    kinds, counts = np.unique(values, return_counts=True)
    total = len(values)
    means = np.empty(draws)
    step = max(1, _BLOCK // len(kinds))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        drawn = rng.multinomial(total, counts / total, size=size)
        means[start : start + size] = (drawn @ kinds) / total
    return means


@dataclass(frozen=True)
class McNemar:
    """Questions that only one side got right, and the exact two-sided p value (binomial, McNemar 1947)."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a: Sequence[bool] | npt.NDArray[np.bool_], b: Sequence[bool] | npt.NDArray[np.bool_]) -> McNemar:
    """Exact McNemar test of two sets of marks on the same questions."""
    from scipy.stats import binomtest

    left, right = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if left.shape != right.shape:
        raise ValueError(f"{len(left)} and {len(right)} marks cannot be paired")
    only_a, only_b = int((left & ~right).sum()), int((right & ~left).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p values (Holm 1979): reject where the adjusted value is below the level. Keeps the order."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, p_values[name] * (len(p_values) - rank)))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


@dataclass(frozen=True)
class Bin:
    """Questions whose confidence fell into one bin: their mean confidence and accuracy."""

    confidence: float
    accuracy: float
    total: int


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error (Naeini et al. 2015) over bins of equal width; empty bins are left out."""

    error: float
    bins: tuple[Bin, ...]


def calibration(
    confidence: Sequence[float] | Floats, right: Sequence[float] | Floats, bins: int = 15
) -> Calibration:
    """How far confidences (0..1) are from the accuracy reached at them."""
    marks = _same_length(confidence, right)
    sure = np.asarray(confidence, dtype=np.float64)
    if not len(sure):
        return Calibration(0.0, ())
    places = np.minimum((sure * bins).astype(np.int64), bins - 1)
    found = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            found.append(Bin(float(sure[inside].mean()), float(marks[inside].mean()), int(inside.sum())))
    error = sum(one.total * abs(one.accuracy - one.confidence) for one in found) / len(sure)
    return Calibration(error, tuple(found))
