"""Static pinning: an operator decides which experts stay in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from coe.core.plugins import PluginOptions
from coe.core.types import ExpertId
from coe.registry.schema import Pool
from coe.scheduler.policies.common import Baseline, Preference, head, load_first, served, unplaced
from coe.scheduler.policies.protocol import HostView, ReplicaView, Rules, Swap


@dataclass(frozen=True)
class StaticPinning(Baseline):
    """``pinned`` experts stay once they are loaded; the others share what is left, by oldest request, each
    served until nobody waits for it. Where the pinned ones leave no room, a request that has waited
    ``ageing_s`` displaces one that nobody waits for."""

    pinned: frozenset[ExpertId]
    ageing_s: float = 20.0
    name: str = "static"

    @classmethod
    def build(cls, name: str, options: PluginOptions, pool: Pool) -> StaticPinning:  # noqa: ARG003
        return cls(frozenset(pool.pinned), ageing_s=pool.classes.standard.slo_s)

    @property
    def rules(self) -> Rules:
        return Rules(idle_s=self.ageing_s)

    def swap(self, view: HostView) -> Swap | None:
        wanted = unplaced(view)
        overdue = [r for r in wanted if view.now >= head(r) + self.ageing_s]
        return load_first(view, overdue, self._closing_when_overdue) or load_first(
            view, wanted, self._closing
        )

    def wake_at(self, view: HostView) -> float:
        moments = (head(r) + self.ageing_s for r in view.candidates)
        return min((moment for moment in moments if moment > view.now), default=math.inf)

    def _closing(self, resident: ReplicaView) -> Preference | None:
        return None if resident.expert.id in self.pinned else served(resident)

    def _closing_when_overdue(self, resident: ReplicaView) -> Preference | None:
        loss = served(resident)
        return None if loss is None else (resident.expert.id in self.pinned, *loss)
