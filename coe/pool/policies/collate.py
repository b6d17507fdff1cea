"""Serve an expert's requests together, in frames, with an ageing bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from coe.pool.plan import EPSILON
from coe.pool.policies.protocol import HostView, ReplicaView, Swap
from coe.types import ExpertId


@dataclass(frozen=True)
class Collate:
    """Serve an expert's requests together, and nobody waits for ever.

    * Next is the expert with the most waiting time per second that it would hold its place, swap
      included; from ``ageing_s`` on, the one whose head waited longest goes before all others.
    * A resident is closed once its frame is served, it has stayed ``min_residency_s`` and its queue is
      empty; idle ones first, least recently used first. While it still works it also stays ``linger``
      times what its own load cost, so that costly swaps are rarer. One with a queue is closed only for
      an overdue expert whose head is older.
    * A resident that nobody's work displaces stays.

    All times in seconds; a frame is ``frame_batches`` times the batch capacity.
    """

    ageing_s: float = 20.0
    min_residency_s: float = 0.5
    linger: float = 1.0
    frame_batches: int = 1
    name: str = "coe"
    across_hosts: bool = False

    def swap(self, view: HostView) -> Swap | None:
        if view.room <= EPSILON and not any(self._served(r, view.now) for r in view.residents):
            return None
        wanted = _wanted(view)
        if not wanted:
            return None
        first = min(wanted, key=_oldest)
        overdue = view.now >= first.expert.oldest + self.ageing_s
        closable = [r for r in view.residents if self._closable(r, view.now, first if overdue else None)]
        available = view.room + sum(r.footprint for r in closable) + EPSILON
        # An overdue expert is tried alone: small ones must not keep taking the room it waits for.
        fitting = [c for c in ([first] if overdue else wanted) if c.footprint <= available]
        if not fitting:
            return None
        best = max(fitting, key=lambda c: (_gain(c, view.now), -c.expert.oldest))
        return Swap(best.expert.id, _victims(closable, best.footprint - view.room))

    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:  # noqa: ARG002
        return min(grantable, key=_oldest).expert.id

    def frame(self, replica: ReplicaView) -> int:
        return min(replica.expert.queued, self.frame_batches * replica.max_running)

    def wake_at(self, view: HostView) -> float:
        wanted = _wanted(view)
        if not wanted:
            return math.inf
        moments = [min(c.expert.oldest for c in wanted) + self.ageing_s]
        moments.extend(r.ready_at + self.min_residency_s for r in view.residents)
        moments.extend(r.ready_at + self.linger * r.load_s for r in view.residents)
        return min((moment for moment in moments if moment > view.now), default=math.inf)

    def _served(self, resident: ReplicaView, now: float) -> bool:
        """Whether its load has paid off so far that it may be closed at all."""
        return not resident.frame_left and now >= resident.ready_at + self.min_residency_s

    def _closable(self, resident: ReplicaView, now: float, overdue: ReplicaView | None) -> bool:
        if not self._served(resident, now):
            return False
        if resident.expert.queued:
            return overdue is not None and overdue.expert.oldest < resident.expert.oldest
        if resident.running and overdue is None:
            return now >= resident.ready_at + self.linger * resident.load_s
        return True


def _wanted(view: HostView) -> list[ReplicaView]:
    """Candidates whose queue is longer than what their replicas elsewhere take in one batch."""
    return [c for c in view.candidates if c.expert.queued > c.expert.supply]


def _oldest(replica: ReplicaView) -> float:
    return replica.expert.oldest


def _gain(replica: ReplicaView, now: float) -> float:
    """Seconds of waiting ended per second of the host's time. A millisecond per request breaks ties
    between requests that have only just arrived in favour of the longer queue."""
    expert = replica.expert
    waited = expert.queued * (now + 0.001) - expert.arrivals_sum
    batches = -(-expert.queued // replica.max_running)
    return waited / (replica.load_s + batches * expert.run_s + EPSILON)


def _victims(closable: Sequence[ReplicaView], missing: float) -> tuple[ExpertId, ...]:
    """The fewest losses that free ``missing``: without work first, then without a queue, then those
    whose queue is youngest; least recently used first."""

    def loss(resident: ReplicaView) -> tuple[bool, bool, float, float]:
        queued = resident.expert.queued > 0
        return queued, resident.running > 0, -resident.expert.oldest if queued else 0.0, resident.used_at

    chosen: list[ReplicaView] = []
    for resident in sorted(closable, key=loss):
        if missing <= EPSILON:
            break
        chosen.append(resident)
        missing -= resident.footprint
    return tuple(r.expert.id for r in _needed(chosen, -missing))


def _needed(chosen: Sequence[ReplicaView], spare: float) -> Iterator[ReplicaView]:
    """``chosen`` without those that turn out not to be needed (a later one freed enough for both)."""
    for resident in chosen:
        if resident.footprint <= spare + EPSILON:
            spare -= resident.footprint
        else:
            yield resident
