"""How many experts a query is worth by top-p, with a null expert as the price of asking. Pure.

After top-p routing (Harder Tasks Need More Experts, arXiv 2403.07652) and null experts (AdaMoE, arXiv
2406.13233), at the level of requests and with chances of being right in place of a gate's logits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coe.aggregators.combiner.tables import Floats, Ints
from coe.core.types import ByTopP

PATTERN = r"^top-p:(0?\.[0-9]*[1-9][0-9]*|1(\.0+)?)$"
"""How a request or a command writes it, with a p above 0 and at most 1: ``top-p:0.6``."""
_LEAST, _MOST = 0.01, 0.99
"""Chances beyond these count as these: nobody is that sure, and odds would be without bound."""


@dataclass(frozen=True)
class Mass:
    """A distribution over the experts that may be asked and the null expert."""

    taken: tuple[float, ...]
    """of the experts to ask, best first; at least one"""
    left: tuple[float, ...]
    """of the others"""
    null: float

    @property
    def count(self) -> int:
        return len(self.taken)

    def __str__(self) -> str:
        taken, left = (", ".join(f"{each:.2f}" for each in part) for part in (self.taken, self.left))
        return f"{taken}; null {self.null:.2f}; not asked {left or 'none'}"


def top_p(chances: Sequence[float], limit: int, p: float, clear: float) -> Mass:
    """Which of the ``limit`` likeliest experts are asked; ``chances`` (not empty) are those of a ranking.

    An expert's mass is in proportion to its odds of being right, a softmax of the log-odds. The null expert's
    is the best expert's times that one's odds over those of ``clear`` (0..1, exclusive): the surer the best,
    the more, and from ``clear`` on more than anybody's. Experts are taken by mass until theirs sums to ``p``
    of what the null expert leaves, or until the null expert is next. The first is taken in any case.
    More experts never come of a lower ``p``, a lower ``clear``, or odds that are higher all alike.
    """
    row = np.asarray([sorted(chances, reverse=True)[:limit]])
    count, odds, null = int(counts(row, p, clear)[0]), _odds(row), float(_null(row, clear)[0])
    masses = tuple((odds[0] / (odds.sum() + null)).tolist())
    return Mass(masses[:count], masses[count:], null / float(odds.sum() + null))


def counts(chances: Floats, p: float, clear: float) -> Ints:
    """(n,) how many are asked of experts with ``chances`` (n, k), the highest first; NaN, last, for nobody.
    See :func:`top_p`."""
    odds = np.nan_to_num(_odds(chances))
    before = np.cumsum(odds, axis=1)
    everybody = before[:, -1:]
    taken = (odds[:, 1:] > _null(chances, clear)[:, None]) & (before[:, :-1] < p * everybody)
    return np.asarray(1 + np.logical_and.accumulate(taken, axis=1).sum(axis=1))


def _null(chances: Floats, clear: float) -> Floats:
    """(n,) odds that stand for the null expert."""
    best = _odds(chances[:, 0])
    return np.asarray(best * (best / _odds(np.asarray(clear))))


def _odds(chances: Floats) -> Floats:
    bounded = np.clip(chances, _LEAST, _MOST)
    return np.asarray(bounded / (1.0 - bounded))


def written(text: str) -> ByTopP | None:
    """What ``top-p:0.6`` says; None for another spelling."""
    found = re.fullmatch(PATTERN, text)
    return ByTopP(float(found.group(1))) if found else None
