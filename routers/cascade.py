"""The cheap expert first (Mowst, arXiv 2311.05185, at the level of requests).

The weak expert keeps a question when it is confident there. Confidence is its calibrated probability of
being right, known before anybody is asked; what the answer itself shows can escalate later, where a
pipeline supports it, as the ranking goes on with the next better expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from coe.core.types import Decision, ExpertView
from coe.routers.base import RouterOptions
from coe.routers.blend import BlendEstimator, BlendOptions
from coe.routers.learning.evidence import Estimator
from coe.routers.learning.learned_router import LearnedRouter


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

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        best = super().route(text, experts)
        chance = {ranked.expert: ranked.probability for ranked in best.ranking}
        floor = chance[best.expert] - self._options.give_up
        enough = [view for view in experts if chance[view.id] >= floor]
        chosen = min(enough, key=lambda view: (expense(view), -chance[view.id]))
        if chosen.id == best.expert:
            return replace(best, reason=f"no cheaper expert is as good; {best.reason}")
        reason = f"{chosen.id} is cheaper and right {chance[chosen.id]:.2f}; {best.reason}"
        return replace(best, chosen=(chosen.id,), confidence=chance[chosen.id], reason=reason)


def expense(view: ExpertView) -> float:
    """What orders experts from cheap to dear: the list price, else the size (as its own price class)."""
    if view.usd_per_mtok_out is not None:
        return view.usd_per_mtok_out + (view.usd_per_mtok_in or 0.0)
    if view.parameters_b is not None:
        return view.parameters_b / 50  # about what a billion parameters cost on hosted lists
    return float(np.inf)
