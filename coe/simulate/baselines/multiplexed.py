"""Ray Serve's model multiplexing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coe.core.types import ExpertId
from coe.scheduler.policies.common import Baseline, Preference, head, load_here, unplaced
from coe.scheduler.policies.protocol import HostView, ReplicaView, Swap


@dataclass(frozen=True)
class MultiplexedLru(Baseline):
    """``serve.multiplexed`` (ray/serve/multiplex.py): a request whose model is loaded runs at once; others
    queue for one lock per replica. Its holder unloads the least recently used model, whether it has work
    or not, loads its own, and hands the lock on: whoever waited for the lock waits for the turn of those
    before, also when the model has been loaded meanwhile. (Ray lets a model that is unloaded finish its
    requests beside the new one; here they end first, as memory has to.)"""

    name: str = "multiplexed-lru"

    def swap(self, view: HostView) -> Swap | None:
        if view.switching:
            return None
        first = min(unplaced(view), key=head, default=None)
        if first is None or any(head(r) <= head(first) for r in view.residents):
            return None
        return load_here(view, first, _used)

    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:
        holder = min(map(head, unplaced(view)), default=float("inf"))
        free = [r for r in grantable if head(r) >= r.ready_at or head(r) <= holder]
        return min(free, key=head).expert.id if free else None


def _used(resident: ReplicaView) -> Preference | None:
    return (resident.used_at,)
