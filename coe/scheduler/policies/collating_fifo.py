"""What is awake takes its requests at once; the next expert is that of the oldest request."""

from __future__ import annotations

from dataclasses import dataclass

from coe.scheduler.policies.common import Baseline, Preference, load_first, unplaced
from coe.scheduler.policies.protocol import HostView, ReplicaView, Rules, Swap


@dataclass(frozen=True)
class CollatingFifo(Baseline):
    """llama-swap (internal/router/scheduler/fifo.go): a ready model serves its requests without a look at
    the queue. The queue is walked in order: the first request whose model fits after closing idle ones
    starts a swap, and all that wait for that model join it. No ageing: a model that is fed all the time is
    never closed."""

    name: str = "collating-fifo"

    @property
    def rules(self) -> Rules:
        return Rules(idle_s=0.0)

    def swap(self, view: HostView) -> Swap | None:
        return load_first(view, unplaced(view), _idle)


def _idle(resident: ReplicaView) -> Preference | None:
    return None if resident.running or resident.expert.queued else (resident.used_at,)
