"""The cheap expert first (Mowst, arXiv 2311.05185, at the level of requests).

The weak expert keeps a question when it is confident there. Confidence is its calibrated probability of
being right, known before anybody is asked; what the answer itself shows can escalate later, where a
pipeline supports it, as the ranking goes on with the next better expert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from coe.core.decision import before_all
from coe.core.types import ExpertId, ExpertView, Ranked
from coe.routers.base import RouterOptions
from coe.routers.blend import BlendEstimator, BlendOptions
from coe.routers.learning.evidence import Estimator
from coe.routers.learning.learned_router import Judged, LearnedRouter
from coe.routers.learning.views import Asked


class CascadeOptions(BlendOptions):
    """Options of kind ``cascade``.

    give_up: probability of a right answer that may be lost by asking a cheaper expert than the best
    parts: learning routers whose blended estimates decide
    """

    give_up: Annotated[float, Field(ge=0, le=1)] = 0.05


class CascadeRouter(LearnedRouter):
    """Chooses the cheapest expert whose probability is within ``give_up`` of the best one's.

    Without prices the number of parameters orders the experts; one with neither counts as dearest.
    """

    options_type: ClassVar[type[RouterOptions]] = CascadeOptions
    _options: CascadeOptions

    def _make(self, options: CascadeOptions) -> Estimator:
        return BlendEstimator(options.parts)

    def _judged(self, asked: Asked, experts: Sequence[ExpertView]) -> Judged:
        judged, expenses = super()._judged(asked, experts), {view.id: expense(view) for view in experts}
        rule = replace(
            judged.rule,
            prefers=partial(cheapest_enough, expenses, self._options.give_up),
            why="cost",
            phrase="{expert} is cheaper and right {probability}",
        )
        return replace(judged, rule=rule)


def cheapest_enough(
    expenses: Mapping[ExpertId, float], give_up: float, ranking: Sequence[Ranked]
) -> tuple[ExpertId, ...]:
    """Those within ``give_up`` of the first one's probability, the cheapest first; then the others."""
    floor = ranking[0].probability - give_up
    enough = [each for each in ranking if each.probability >= floor]
    enough.sort(key=lambda each: (expenses[each.expert], -each.probability))
    return before_all([each.expert for each in enough], ranking)


def expense(view: ExpertView) -> float:
    """What orders experts from cheap to dear: the list price, else the size (as its own price class)."""
    if view.usd_per_mtok_out is not None:
        return view.usd_per_mtok_out + (view.usd_per_mtok_in or 0.0)
    if view.parameters_b is not None:
        return view.parameters_b / 50  # about what a billion parameters cost on hosted lists
    return float(np.inf)
