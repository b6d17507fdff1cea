"""The service's own policy: next is the queue worth most for the time it takes, and nobody starves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from coe.core.types import ExpertId
from coe.registry.scheduling_settings import Mechanisms
from coe.registry.schema import Pool
from coe.scheduler.plan import EPSILON
from coe.scheduler.policies.protocol import HostView, ReplicaView, Rules, Swap
from coe.scheduler.policies.victims import choose_victims
from coe.scheduler.queue import NOBODY


@dataclass(frozen=True)
class Coe:
    """Slack density with frames, an ageing bound, and victims by what is known of the queues.

    * Next is the expert with the most value for the seconds until its first answers, swap included. Its
      value is what waiting would lose: by how much fewer requests are likely to be in time if it came a
      quarter of an SLO later. Those that have little chance even now count ``late_worth`` each.
    * An expert whose oldest request presses (waits of 1.6 SLOs) is next in line, in order of age. From its
      class's ageing on it goes before all others.
    * A resident is closed once its frame (what was queued when it came, ``max_frame`` batches at most) is
      granted and it has run out of work: as long as it is fed, newcomers share its batches and no swap is
      as cheap as that. One that never runs out is closed for an overdue expert, and from ``cut_runs`` run
      times on for one that is worth ``cut_worth`` times as much.
    * An expert that is awake somewhere gets a second place only where nobody else wants it.
    * An expert stays unless somebody's work needs its room.

    Each mechanism can be switched off; times in seconds.
    """

    mechanisms: Mechanisms = field(default_factory=Mechanisms)
    min_residency_s: float = 0.0
    late_worth: float = 0.25
    cut_runs: float = 4.0
    cut_worth: float = 10.0
    max_frame: int = 8
    name: str = "coe"
    across_hosts: bool = False
    options_type: ClassVar[type[Mechanisms]] = Mechanisms

    @classmethod
    def build(cls, name: str, options: Mechanisms, pool: Pool) -> Coe:
        return cls(mechanisms=options, min_residency_s=pool.min_residency_s, name=name)

    @property
    def rules(self) -> Rules:
        on = self.mechanisms
        return Rules(
            timely_first=on.slack_density,
            prefetch=on.prefetch,
            groups=on.groups,
            reroute=on.reroute,
            promise=on.promise,
            only_for_waiting=True,
            idle_s=self.min_residency_s,
        )

    def swap(self, view: HostView) -> Swap | None:
        if view.switching and not self.mechanisms.prewake:
            return None
        wanted = _wanted(view)
        if not wanted:
            return None
        overdue, pressing = _longest_waiting(wanted, view.now)
        if overdue is not None:
            # An overdue expert is tried alone: small ones must not keep taking the room it waits for.
            closable = [r for r in view.residents if self._gives_way(r, overdue, view.now)]
            return self._choose([overdue], closable, view)
        served = [r for r in view.residents if self._served(r, view.now)]
        if view.room <= EPSILON and not served:
            return None
        idle = [r for r in served if not (r.expert.queued or r.running)]
        if view.now >= pressing.expert.pressing_at:
            return self._choose([pressing], idle, view) or self._cut(pressing, served, view)
        return self._choose(wanted, idle, view)

    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:
        if len(grantable) == 1:
            return grantable[0].expert.id
        now = view.now
        return min(grantable, key=lambda r: (r.expert.overdue_age(now), r.expert.overdue_at)).expert.id

    def frame(self, replica: ReplicaView) -> int:
        batches = self.max_frame if self.mechanisms.frames else 1
        return min(replica.expert.queued, batches * replica.max_running)

    def wake_at(self, view: HostView) -> float:
        now, soonest = view.now, math.inf
        for candidate in _wanted(view):  # A loop: this is asked after every event, with every queue.
            pressing_at, overdue_at = candidate.expert.pressing_at, candidate.expert.overdue_at
            if now < pressing_at < soonest:
                soonest = pressing_at
            if now < overdue_at < soonest:
                soonest = overdue_at
        if not view.candidates:
            return math.inf
        moments = [r.ready_at + self.min_residency_s for r in view.residents]
        moments.extend(r.ready_at + self.cut_runs * r.expert.run_s for r in view.residents if r.expert.queued)
        return min((moment for moment in moments if now < moment < soonest), default=soonest)

    def _choose(
        self, wanted: Sequence[ReplicaView], closable: Sequence[ReplicaView], view: HostView
    ) -> Swap | None:
        """The best of those that fit into the room and what can be closed."""
        available = view.room + sum(r.footprint for r in closable) + EPSILON
        fitting = [c for c in wanted if c.footprint <= available]
        if not fitting:
            return None
        best = fitting[0] if len(fitting) == 1 else self._best(fitting, view.now)
        kin = best.expert.groups if self.mechanisms.groups else frozenset()
        return Swap(best.expert.id, choose_victims(closable, best.footprint - view.room, kin))

    def _best(self, wanted: Sequence[ReplicaView], now: float) -> ReplicaView:
        if not self.mechanisms.slack_density:
            return min(wanted, key=_oldest)
        return max(wanted, key=lambda c: (self.density(c, now, c.load_s), -c.expert.oldest))

    def density(self, replica: ReplicaView, now: float, bring_s: float) -> float:
        """Value of what it would serve, per second until its first answers, ``bring_s`` of them to bring it
        in. Its later batches are not charged: while they run they keep nobody from a cheaper place."""
        expert = replica.expert
        worth = expert.worth(now, bring_s, self.frame(replica))
        return (worth.saved + self.late_worth * worth.late) / (bring_s + expert.run_s + EPSILON)

    def _cut(self, pressing: ReplicaView, served: Sequence[ReplicaView], view: HostView) -> Swap | None:
        """Close residents that never run out of work for one that presses and is worth more by far."""
        queued = [
            r for r in served if r.expert.queued and view.now >= r.ready_at + self.cut_runs * r.expert.run_s
        ]
        if not queued or not self.mechanisms.admission_closing:
            return None
        value = self.density(pressing, view.now, pressing.load_s)
        less = [r for r in queued if self.density(r, view.now, 0.0) * self.cut_worth < value]
        return self._choose([pressing], less, view) if less else None

    def _gives_way(self, resident: ReplicaView, overdue: ReplicaView, now: float) -> bool:
        """Whether it is closed for an expert that is overdue: after one batch of its frame, which the bound
        on waiting counts, unless its own work is older."""
        if now < resident.ready_at + self.min_residency_s or (resident.frame_left and not resident.running):
            return False
        return overdue.expert.overdue_age(now) < resident.expert.overdue_age(now)

    def _served(self, resident: ReplicaView, now: float) -> bool:
        """Whether its load has paid off so far that it may be closed at all."""
        return not resident.frame_left and now >= resident.ready_at + self.min_residency_s


def _wanted(view: HostView) -> list[ReplicaView]:
    """Candidates that are awake nowhere; where there are none, those with more than one place can serve."""
    alone = [c for c in view.candidates if not c.expert.supply]
    return alone or [c for c in view.candidates if c.expert.queued > c.expert.supply]


def _oldest(replica: ReplicaView) -> float:
    return replica.expert.oldest


def _longest_waiting(wanted: Sequence[ReplicaView], now: float) -> tuple[ReplicaView | None, ReplicaView]:
    """Whose overdue request has waited longest, if there is one, and who presses first."""
    overdue, longest, pressing = None, NOBODY, wanted[0]
    for candidate in wanted:
        if candidate.expert.overdue_at <= now and (age := candidate.expert.overdue_age(now)) < longest:
            overdue, longest = candidate, age
        if candidate.expert.pressing_at < pressing.expert.pressing_at:
            pressing = candidate
    return overdue, pressing
