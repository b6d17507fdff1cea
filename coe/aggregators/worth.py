"""How many experts a query is worth, before anybody is asked. A pure decision, shared with recorded runs."""

from __future__ import annotations

from collections.abc import Sequence

from coe.core.types import USUAL_QUALITY, Options

CLEAR = 0.7
"""Confidence from which one expert is enough, at equal weights of quality and cost."""
CLEAR_UNHEARD = 0.9
"""The same where one expert is asked first in any case: then its answer can say whether it is enough."""


def clear_from(options: Options, at_once: int | None = None) -> float:
    """The confidence from which one expert is enough: quality raises it, cost lowers it."""
    return moved(CLEAR_UNHEARD if at_once == 1 else CLEAR, options)


def moved(bar: float, options: Options) -> float:
    """The chance from which one expert is enough, in 0..1, where the request's weights move it."""
    return min(
        1.0, max(0.0, bar + 0.6 * (options.weight_of_quality - USUAL_QUALITY) - 0.2 * (options.cost or 0.0))
    )


def how_many(
    confidence: float, chances: Sequence[float], limit: int, at_once: int | None, options: Options
) -> int:
    """How many experts may be asked, at most ``limit``; ``chances`` are those of the ranking.

    One where the router is clear about it. Else up to the limit where they are asked in stages, ``at_once``
    first: the answers say when to stop. Else (``at_once`` is None) as many of the ranking as it takes until
    one of them is right with the probability that is clear, as if they erred independently (after top-p
    routing, arXiv 2403.07652, whose shares sum to 1; chances of being right do not).
    """
    clear = clear_from(options, at_once)
    if confidence >= clear:
        return 1
    if at_once is not None:
        return min(limit, len(chances))
    nobody = 1.0
    for count, chance in enumerate(chances, 1):
        nobody *= 1.0 - chance
        if 1.0 - nobody >= clear or count == limit:
            return max(2, count)
    return min(limit, len(chances))
