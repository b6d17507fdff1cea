"""Cost against quality: a router's curve and the area under it (RouterBench, arXiv 2403.12031, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Point:
    """A way to run: mean cost of a question (any unit, one unit a curve) and mean quality (0..1)."""

    cost: float
    quality: float
    name: str = ""


def hull(points: Sequence[Point]) -> tuple[Point, ...]:
    """The non-decreasing convex hull, cheapest first.

    Drawing at random between two neighbours reaches every point of the line between them, so nothing below
    the hull is worth running.
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.quality)):
        if kept and point.quality <= kept[-1].quality:
            continue
        while len(kept) > 1 and _slope(kept[-2], point) >= _slope(kept[-2], kept[-1]):
            kept.pop()
        if kept and kept[-1].cost == point.cost:
            kept.pop()
        kept.append(point)
    return tuple(kept)


def _slope(a: Point, b: Point) -> float:
    return float("inf") if a.cost == b.cost else (b.quality - a.quality) / (b.cost - a.cost)


def quality_at(curve: Sequence[Point], cost: float) -> float:
    """Quality of a hull at a budget; 0 below its cheapest point, its last quality above its dearest."""
    if not curve or cost < curve[0].cost:
        return 0.0
    for left, right in pairwise(curve):
        if cost <= right.cost:
            return left.quality + _slope(left, right) * (cost - left.cost)
    return curve[-1].quality


def cost_at(curve: Sequence[Point], quality: float) -> float | None:
    """The least cost at which a hull reaches ``quality``; None where it never does."""
    if not curve or quality > curve[-1].quality:
        return None
    if quality <= curve[0].quality:
        return curve[0].cost
    for left, right in pairwise(curve):
        if quality <= right.quality:
            return left.cost + (quality - left.quality) / _slope(left, right)
    return None


def average_quality(points: Sequence[Point], low: float, high: float) -> float:
    """AIQ (RouterBench, eq. 4): mean quality of the hull over costs ``low`` to ``high``.

    Compare routers over one range, say from the cheapest to the dearest single model. Raises ValueError on
    an empty range or no points.
    """
    curve = hull(points)
    if not curve or high <= low:
        raise ValueError("the area under a cost-quality curve needs points and a range of costs")
    costs = sorted({low, high, *(point.cost for point in curve if low < point.cost < high)})
    area = 0.0
    for left, right in pairwise(costs):
        start = quality_at(curve, left)
        # Below its cheapest point a curve has no quality, also where a segment ends at that point.
        end = quality_at(curve, right) if start or left >= curve[0].cost else 0.0
        area += (right - left) * (start + end) / 2
    return area / (high - low)
