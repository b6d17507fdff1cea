"""Shares of right answers with their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """A proportion with its 95% Wilson score interval (Wilson 1927)."""

    right: int
    total: int

    @property
    def value(self) -> float:
        """The proportion; 0 when nothing was counted."""
        return self.right / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.value, self.total)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}]"


def wilson(proportion: float, total: int) -> tuple[float, float]:
    """95% Wilson score interval of a proportion (or of a mean of scores in 0..1, then it is wider than
    needed) over ``total`` questions."""
    if not total:
        return 0.0, 1.0
    n, p, z = total, proportion, Z95
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)
