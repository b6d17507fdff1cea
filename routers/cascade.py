"""The cheap expert first (Mowst, arXiv 2311.05185, at the level of requests).

The weak expert keeps a question when it is confident there. Confidence is its calibrated probability of
being right, known before anybody is asked; what the answer itself shows can escalate later, where a
pipeline supports it, as the ranking goes on with the next better expert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from coe.core.suggest import suggest
from coe.core.types import Decision, ExpertId, ExpertView
from coe.routers.base import RouterOptions, Setting
from coe.routers.blend import PARTS, USUAL, BlendEstimator
from coe.routers.encoders.encoder import Encoder
from coe.routers.learning.evidence import Estimator
from coe.routers.learning.learned_router import LearnedOptions, LearnedRouter


class CascadeOptions(LearnedOptions):
    """Options of kind ``cascade``.

    give_up: probability of a right answer that may be lost by asking a cheaper expert than the best
    parts: learning routers whose blended estimates decide
    """

    give_up: Annotated[float, Field(ge=0, le=1)] = 0.05
    parts: Annotated[tuple[str, ...], Field(min_length=1)] = USUAL

    def faults(self, experts: Sequence[ExpertId]) -> Mapping[str, str]:  # noqa: ARG002
        unknown = [part for part in self.parts if part not in PARTS]
        return {"parts": f'no part "{unknown[0]}"; {suggest(unknown[0], PARTS)}'} if unknown else {}


class CascadeRouter(LearnedRouter):
    """Chooses the cheapest expert whose probability is within ``give_up`` of the best one's.

    Without prices the number of parameters orders the experts; one with neither counts as dearest.
    """

    options_type: ClassVar[type[RouterOptions]] = CascadeOptions

    def __init__(
        self, name: str, options: CascadeOptions, setting: Setting, encoder: Encoder | None = None
    ) -> None:
        super().__init__(name, options, setting, encoder)
        self._give_up = options.give_up

    def _make(self, options: CascadeOptions) -> Estimator:
        return BlendEstimator(options.parts)

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        best = super().route(text, experts)
        chance = {ranked.expert: ranked.probability for ranked in best.ranking}
        floor = chance[best.expert] - self._give_up
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
