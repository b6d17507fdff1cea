"""How many experts a query is worth, before anybody is asked. A pure decision, shared with recorded runs."""

from __future__ import annotations

from collections.abc import Sequence

from coe.types import Options

CLEAR = 0.7
"""Confidence from which one expert is enough, at equal weights of quality and cost."""


def clear_from(options: Options) -> float:
    """The confidence from which one expert is enough: quality raises it, cost lowers it."""
    quality = 0.5 if options.quality is None else options.quality
    return min(1.0, max(0.0, CLEAR + 0.6 * (quality - 0.5) - 0.2 * (options.cost or 0.0)))


def how_many(
    confidence: float, chances: Sequence[float], limit: int, in_stages: bool, options: Options
) -> int:
    """How many experts may be asked, at most ``limit``; ``chances`` are those of the ranking.

    One where the router is clear about it. Else, ``in_stages``, up to the limit: the answers say when to
    stop. Else as many of the ranking as it takes until one of them is right with the probability that is
    clear, as if they erred independently (after top-p routing, arXiv 2403.07652, whose shares sum to 1;
    chances of being right do not).
    """
    clear = clear_from(options)
    if confidence >= clear:
        return 1
    if in_stages:
        return min(limit, len(chances))
    nobody = 1.0
    for count, chance in enumerate(chances, 1):
        nobody *= 1.0 - chance
        if 1.0 - nobody >= clear or count == limit:
            return max(2, count)
    return min(limit, len(chances))
