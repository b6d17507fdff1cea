"""CoServe's scheduling of experts (ASPLOS 2025, arXiv 2503.02354)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from coe.core.types import ExpertId
from coe.scheduler.policies.common import Baseline, Preference, head, load_here, unserved
from coe.scheduler.policies.protocol import HostView, ReplicaView, Swap


@dataclass(frozen=True)
class CoServe(Baseline):
    """A request goes behind the queued ones of its expert, so groups are served in order of their oldest
    request, each to its end, by the executor that is free first (the one with the shortest queue). Out go
    first experts that no queued work needs, then those that are needed last in line and not at work; in
    both cases the one with the least ``usage``, which is known before the run."""

    usage: Mapping[ExpertId, int] = field(default_factory=dict)
    name: str = "coserve"

    def swap(self, view: HostView) -> Swap | None:
        first = min(unserved(view), key=head, default=None)
        return load_here(view, first, partial(self._loss, head(first))) if first else None

    def _loss(self, first: float, resident: ReplicaView) -> Preference | None:
        """By stage, whether it is at work, and its usage."""
        expert = resident.expert
        usage = self.usage.get(expert.id, 0)
        if not expert.queued:
            return 0, resident.running > 0, usage
        return (1, 0, usage) if not resident.running and head(resident) > first else None
