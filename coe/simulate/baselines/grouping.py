"""Group by expert: load an expert once and serve everyone who waits for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from coe.core.types import ExpertId
from coe.scheduler.events import HostId
from coe.scheduler.policies.common import (
    Baseline,
    Preference,
    head,
    least_recently_used,
    load_first,
    served,
    unserved,
)
from coe.scheduler.policies.protocol import HostView, ReplicaView, Swap


@dataclass(frozen=True)
class GroupOnline(Baseline):
    """Exhaustive service of the longest queue first: an expert is closed when nobody waits for it, then
    the one for which most wait is next."""

    name: str = "group-online"

    def swap(self, view: HostView) -> Swap | None:
        return load_first(view, unserved(view), served, order=lambda r: (-r.expert.queued, head(r)))


@dataclass(frozen=True)
class GroupOffline(Baseline):
    """Symbolic-MoE's batches (arXiv 2503.05641, section 3.4), run as a service: everything queued when a
    wave is formed is grouped by expert, each expert is loaded once for its group, and the next wave is
    formed when this one has ended. What arrives meanwhile waits for the next wave. Hosts form their own.

    It remembers when (``formed``): one object for each run."""

    name: str = "group-offline"
    formed: dict[HostId, float] = field(default_factory=dict)

    def swap(self, view: HostView) -> Swap | None:
        formed = self._formed(view)
        if not any(head(r) <= formed for r in unserved(view)):
            over = all(not r.running and head(r) > formed for r in view.residents)
            anyone = unserved(view) or any(r.expert.queued for r in view.residents)
            if view.switching or not (over and anyone):
                return None
            formed = self.formed[view.host] = view.now
        wave = [r for r in unserved(view) if head(r) <= formed]
        return load_first(view, wave, partial(_done, formed))

    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:
        first = min(grantable, key=head)
        return first.expert.id if head(first) <= self._formed(view) or not view.residents else None

    def _formed(self, view: HostView) -> float:
        return self.formed.get(view.host, -math.inf)


def _done(wave: float, resident: ReplicaView) -> Preference | None:
    return None if head(resident) <= wave else least_recently_used(resident)
