"""The service's own policy: whose queue is worth most for the time it takes, without anybody starving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from coe.pool.plan import EPSILON
from coe.pool.policies.protocol import HostView, ReplicaView, Rules, Swap
from coe.pool.policies.victims import choose_victims, credit, last_use
from coe.registry.scheduling import Mechanisms
from coe.types import ExpertId


@dataclass(frozen=True)
class Coe:
    """Slack density with frames, an ageing bound, and victims by what is known of the future.

    * Next is the expert with the most value for the seconds that it would hold its place, swap included.
      A request that can still be in time counts the square of its wait in SLOs (so that waits are even and
      nobody slips over his deadline for a longer queue elsewhere), one that cannot counts ``late_worth``
      plus ``overdue_worth`` for each SLO that it is late.
    * From its class's ageing on a request goes before all others, in order of age.
    * A resident is closed once its frame (what was queued when it came, ``max_frame`` batches at most) is
      granted and its queue is empty. While it still works, it takes newcomers until ``linger_runs`` mean
      run times after it came, or until the queues elsewhere are ``crowding`` times as long as a swap is
      worth. One with a queue is closed for an overdue expert, and from ``cut_runs`` run times on for one
      that is worth more than what remains.
    * Who nobody's work displaces stays.

    Each mechanism can be switched off; times in seconds.
    """

    mechanisms: Mechanisms = field(default_factory=Mechanisms)
    min_residency_s: float = 0.0
    late_worth: float = 0.5
    overdue_worth: float = 0.0
    linger_runs: float = 2.0
    crowding: float = 1.0
    cut_runs: float = 4.0
    max_frame: int = 8
    name: str = "coe"
    across_hosts: bool = False

    @property
    def rules(self) -> Rules:
        on = self.mechanisms
        return Rules(
            timely_first=on.slack_density,
            prefetch=on.prefetch,
            groups=on.groups,
            reroute=on.reroute,
            promise=on.promise,
        )

    def swap(self, view: HostView) -> Swap | None:
        if view.switching and not self.mechanisms.prewake:
            return None
        served = [r for r in view.residents if self._served(r, view.now)]
        if view.room <= EPSILON and not served:
            return None
        wanted = [c for c in view.candidates if c.expert.queued > c.expert.supply]
        if not wanted:
            return None
        first = min(wanted, key=_overdue_at)
        if view.now >= first.expert.overdue_at:
            # An overdue expert is tried alone: small ones must not keep taking the room it waits for.
            closable = [r for r in served if _gives_way(r, first)]
            return self._choose([first], closable, view)
        crowd = sum(c.expert.queued for c in wanted) / len(wanted)
        closable = [r for r in served if not r.expert.queued and self._done(r, view.now, crowd)]
        return self._choose(wanted, closable, view) or self._cut(wanted, served, view)

    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:  # noqa: ARG002
        return min(grantable, key=_overdue_at).expert.id

    def frame(self, replica: ReplicaView) -> int:
        batches = self.max_frame if self.mechanisms.frames else 1
        return min(replica.expert.queued, batches * replica.max_running)

    def wake_at(self, view: HostView) -> float:
        moments = [c.expert.overdue_at for c in view.candidates if c.expert.queued > c.expert.supply]
        if not moments:
            return math.inf
        moments.extend(r.ready_at + self.min_residency_s for r in view.residents)
        for resident in view.residents:
            if resident.running:
                runs = self.cut_runs if resident.expert.queued else self.linger_runs
                moments.append(resident.ready_at + runs * resident.expert.run_s)
        return min((moment for moment in moments if moment > view.now), default=math.inf)

    def _choose(
        self, wanted: Sequence[ReplicaView], closable: Sequence[ReplicaView], view: HostView
    ) -> Swap | None:
        """The best of those that fit into the room and what can be closed."""
        available = view.room + sum(r.footprint for r in closable) + EPSILON
        fitting = [c for c in wanted if c.footprint <= available]
        if not fitting:
            return None
        best = fitting[0] if len(fitting) == 1 else self._best(fitting, view.now)
        loss = credit if self.mechanisms.belady else last_use
        kin = best.expert.groups if self.mechanisms.groups else frozenset()
        return Swap(best.expert.id, choose_victims(closable, best.footprint - view.room, view.now, loss, kin))

    def _best(self, wanted: Sequence[ReplicaView], now: float) -> ReplicaView:
        on = self.mechanisms
        if not on.slack_density or (on.oldest_at_low_load and all(c.expert.queued == 1 for c in wanted)):
            return min(wanted, key=_oldest)
        return max(wanted, key=lambda c: (self.density(c, now, c.load_s), -c.expert.oldest))

    def density(self, replica: ReplicaView, now: float, bring_s: float) -> float:
        """Value of its queue per second that it would hold its place, ``bring_s`` of them to bring it in."""
        expert = replica.expert
        worth = expert.worth(now, now + bring_s + expert.run_s)
        value = worth.squared_waits + self.late_worth * worth.late + self.overdue_worth * worth.overdue
        frame = self.frame(replica)
        batches = -(-frame // replica.max_running)
        return value * frame / expert.queued / (bring_s + batches * expert.run_s + EPSILON)

    def _cut(
        self, wanted: Sequence[ReplicaView], served: Sequence[ReplicaView], view: HostView
    ) -> Swap | None:
        """Close residents that never run out of work when work elsewhere is worth more."""
        queued = [
            r for r in served if r.expert.queued and view.now >= r.ready_at + self.cut_runs * r.expert.run_s
        ]
        if not queued or not self.mechanisms.admission_closing:
            return None
        best = self._best(wanted, view.now)
        value = self.density(best, view.now, best.load_s)
        less = [r for r in queued if self.density(r, view.now, 0.0) < value]
        return self._choose([best], less, view) if less else None

    def _served(self, resident: ReplicaView, now: float) -> bool:
        """Whether its load has paid off so far that it may be closed at all."""
        return not resident.frame_left and now >= resident.ready_at + self.min_residency_s

    def _done(self, resident: ReplicaView, now: float, crowd: float) -> bool:
        """Whether a resident without a queue is closed for those who wait, ``crowd`` at each expert. Its
        newcomers would share a batch, but they would also keep the others waiting."""
        if not resident.running:
            return True
        if not self.mechanisms.admission_closing:
            return False
        worth_of_swap = 1.0 + resident.load_s / (resident.expert.run_s + EPSILON)
        return crowd > self.crowding * worth_of_swap or now >= resident.ready_at + self.linger_runs * (
            resident.expert.run_s
        )


def _gives_way(resident: ReplicaView, overdue: ReplicaView) -> bool:
    return not resident.expert.queued or overdue.expert.overdue_at < resident.expert.overdue_at


def _oldest(replica: ReplicaView) -> float:
    return replica.expert.oldest


def _overdue_at(replica: ReplicaView) -> float:
    return replica.expert.overdue_at
