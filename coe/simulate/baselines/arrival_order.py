"""Strict arrival order across experts: nobody is overtaken, whatever that costs in swaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from coe.core.types import ExpertId
from coe.scheduler.policies.common import Baseline, Preference, head, least_recently_used, load_here, unplaced
from coe.scheduler.policies.protocol import HostView, ReplicaView, Swap


@dataclass(frozen=True)
class ArrivalOrder(Baseline):
    """Requests are started in order of arrival; an expert that is missing displaces another one, and what
    came later waits until it may be loaded. Consecutive requests of one expert share a batch.

    On several hosts the next request goes to the host that has to give up least, and those behind it may
    start as soon as it has its place.
    """

    name: str = "arrival-order"

    def closing(self, resident: ReplicaView) -> Preference | None:
        return least_recently_used(resident)

    def swap(self, view: HostView) -> Swap | None:
        first = min(unplaced(view), key=head, default=None)
        if first is None or any(head(r) <= head(first) for r in view.residents):
            return None
        return load_here(view, first, self.closing)

    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:
        chosen = min(grantable, key=head)
        overtaken = any(head(r) < head(chosen) for r in unplaced(view))
        return None if overtaken else chosen.expert.id


@dataclass(frozen=True)
class FcfsLru(ArrivalOrder):
    """Samba-CoE (arXiv 2405.07518): requests in order, least recently used expert out."""

    name: str = "fcfs-lru"


@dataclass(frozen=True)
class Belady(ArrivalOrder):
    """In order too, but out goes the expert whose next use in the known queue is farthest (Belady 1966):
    the best eviction for this order, as far as the queue reaches."""

    name: str = "belady"

    def closing(self, resident: ReplicaView) -> Preference | None:
        return resident.running > 0, -head(resident), resident.used_at


@dataclass(frozen=True)
class Ttl(ArrivalOrder):
    """Ollama (server/sched.go): one pending request at a time; an idle model makes room for another one,
    else the pending request waits until one is idle; a model not used for ``keep_alive_s`` is unloaded."""

    keep_alive_s: float = 300.0
    name: str = "ttl"

    def swap(self, view: HostView) -> Swap | None:
        expired = tuple(r.expert.id for r in view.residents if self._expires_at(r) <= view.now)
        return Swap(None, expired) if expired else super().swap(view)

    def wake_at(self, view: HostView) -> float:
        moments = (self._expires_at(r) for r in view.residents)
        return min((moment for moment in moments if moment > view.now), default=math.inf)

    def _expires_at(self, resident: ReplicaView) -> float:
        in_use = resident.running or resident.expert.queued
        return math.inf if in_use else resident.used_at + self.keep_alive_s
