"""Who answered what, as arrays: what combiners learn from and decide on. Pure numpy, no text, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]

ABSENT = -1
"""In a table of answers: not asked, failed, or nothing that could be read."""

FEWEST_OPTIONS = 2
"""Answers that are plausible where a question lists none: the cautious assumption."""
LOWEST_CHANCE, HIGHEST_CHANCE = 0.02, 0.98
"""Chances beyond these count as these: nobody is that sure."""


def log_odds(chances: Floats, options: Ints | int = FEWEST_OPTIONS) -> Floats:
    """Of being right with these ``chances``, over those of giving one and the same wrong answer of
    ``options`` that are plausible. The two broadcast."""
    p = np.clip(chances, LOWEST_CHANCE, HIGHEST_CHANCE)
    return np.asarray(np.log(p / (1 - p)) + np.log(np.maximum(options - 1, 1)))


@dataclass(frozen=True)
class Table:
    """Who said what on n questions among m experts."""

    experts: tuple[str, ...]
    answers: Ints
    """(n, m) an answer's number within its question; ``ABSENT`` where there is none"""
    chances: Floats
    """(n, m) calibrated probability that the expert is right on the question"""
    lengths: Floats | None = None
    """(n, m) lengths of the answers in tokens, NaN where unknown"""
    options: Ints | None = None
    """(n,) how many answers are plausible, where known"""

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def plausible(self) -> Ints:
        """(n,) how many answers are plausible; the fewest where that is not known."""
        return np.full(len(self), FEWEST_OPTIONS) if self.options is None else self.options
