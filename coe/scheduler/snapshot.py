"""What the pool looks like at one moment, for status pages and metrics."""

from __future__ import annotations

from dataclasses import dataclass

from coe.core.types import ExpertId
from coe.scheduler.events import HostId
from coe.scheduler.replica import ExpertState, State
from coe.scheduler.state import SchedulerState

WARMTH: tuple[State, ...] = ("awake", "draining", "loading", "going_to_sleep", "sleeping", "cold")


@dataclass(frozen=True)
class ReplicaSnapshot:
    """One expert on one host; ``swaps`` counts successful loads and wakes. ``quarantined``: it failed too
    often in a row and has not answered since."""

    host: HostId
    state: State
    running: int
    swaps: int
    failures: int
    quarantined: bool = False


@dataclass(frozen=True)
class ExpertSnapshot:
    expert: ExpertId
    queued: int
    run_s: float
    retiring: bool
    replicas: tuple[ReplicaSnapshot, ...]

    @property
    def state(self) -> State:
        """The state of its warmest replica."""
        states = {replica.state for replica in self.replicas}
        return next((state for state in WARMTH if state in states), "cold")

    @property
    def shown(self) -> str:
        """For people: the state, or what matters more."""
        if self.retiring:
            return "leaving"
        given_up = self.replicas and all(replica.quarantined for replica in self.replicas)
        return "quarantined" if given_up else self.state

    @property
    def running(self) -> int:
        return sum(replica.running for replica in self.replicas)


@dataclass(frozen=True)
class PoolSnapshot:
    experts: tuple[ExpertSnapshot, ...]

    @property
    def queued(self) -> int:
        return sum(expert.queued for expert in self.experts)

    @property
    def running(self) -> int:
        return sum(expert.running for expert in self.experts)

    @property
    def swaps(self) -> int:
        return sum(replica.swaps for expert in self.experts for replica in expert.replicas)

    def expert(self, expert_id: ExpertId) -> ExpertSnapshot | None:
        return next((e for e in self.experts if e.expert == expert_id), None)


def take_snapshot(state: SchedulerState) -> PoolSnapshot:
    return PoolSnapshot(tuple(_expert(expert) for expert in state.experts.values()))


def _expert(expert: ExpertState) -> ExpertSnapshot:
    replicas = tuple(
        ReplicaSnapshot(host, r.state, r.running, r.bringing.count, r.health.failures, r.health.quarantined)
        for host, r in expert.replicas.items()
    )
    return ExpertSnapshot(expert.id, expert.queued, expert.run_s, expert.retiring, replicas)
