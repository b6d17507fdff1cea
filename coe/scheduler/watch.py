"""Whether the scheduler is stuck: somebody waits, and nothing that really goes on can end the waiting.

Pure, like the scheduler: its state is held against what its owner says is under way. A load, a drain, a
quarantine or running work is a reason to wait, however long it takes; an order or a lease that only the
scheduler knows of is none, and an idle place is none beyond what the policy allows (:attr:`Rules.idle_s`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from coe.core.types import ExpertId, RequestId
from coe.scheduler.events import HostId
from coe.scheduler.plan import EPSILON
from coe.scheduler.replica import HostState, Replica
from coe.scheduler.state import SchedulerState


@dataclass(frozen=True)
class UnderWay:
    """What really goes on, by the account of who does it: the requests that wait, how many leases are out on
    each host, and the loads (wakes included) and sleeps there that have not ended."""

    waiting: Mapping[RequestId, ExpertId]
    leases: Mapping[HostId, Mapping[ExpertId, int]]
    loads: Mapping[HostId, Collection[ExpertId]]
    sleeps: Mapping[HostId, Collection[ExpertId]]

    def leases_on(self, host: HostState) -> Mapping[ExpertId, int]:
        return self.leases.get(host.plan.id, {})

    def moves(self, host: HostState) -> bool:
        """Whether anything is brought in or put away there, or where the RAM is shared."""
        at = {host.plan.id, *(r.host.plan.id for r in host.ram.held)}
        return any(self.loads.get(each) or self.sleeps.get(each) for each in at)


@dataclass
class StuckWatch:
    """Who has waited in vain at every look for so long that it is no accident."""

    since: dict[ExpertId, float] = field(default_factory=dict)

    def look(self, found: Mapping[ExpertId, str], now: float, limit_s: float) -> Mapping[ExpertId, str]:
        """Of those that are ``found`` now, the ones for which it has been so for ``limit_s``."""
        self.since = {expert: self.since.get(expert, now) for expert in found}
        return {e: why for e, why in found.items() if now - self.since[e] >= limit_s}


def waits_in_vain(state: SchedulerState, under_way: UnderWay, now: float, idles: bool) -> dict[ExpertId, str]:
    """Experts whose requests have no reason to wait at this moment, and what is wrong. ``idles``: whether an
    idle place is wrong under the policy."""
    found = {
        expert: "a request waits that the scheduler does not know"
        for request, expert in under_way.waiting.items()
        if request not in state.waiting
    }
    waiting = [expert for expert in state.experts.values() if expert.queued]
    lost = {host.plan.id: _lost(host, under_way, now) for host in state.hosts.values()} if waiting else {}
    for expert in waiting:
        replicas = [r for r in expert.replicas.values() if not r.retired]
        fault = next(filter(None, (lost[r.host.plan.id] for r in replicas)), None)
        if fault := fault or _fault(replicas, under_way, now, idles):
            found[expert.id] = fault
    return found


def describe(state: SchedulerState, under_way: UnderWay, now: float) -> dict[str, Any]:
    """The state at one moment for the log: names, numbers and ages in seconds."""
    experts = [each for each in state.experts.values() if each.queued]
    return {
        "queues": {e.id: {"queued": e.queued, "oldest_s": _age(e.oldest, now)} for e in experts},
        "waiting": len(under_way.waiting),
        "hosts": {host.plan.id: _describe_host(host, under_way, now) for host in state.hosts.values()},
    }


def _describe_host(host: HostState, under_way: UnderWay, now: float) -> dict[str, Any]:
    shown = [r for r in host.replicas.values() if r.state != "cold" or r.expert.queued or r.committed]
    return {
        "room": _number(host.room),
        "free": _number(host.free),
        "running": host.running,
        "leases": dict(under_way.leases_on(host)),
        "loads": sorted(under_way.loads.get(host.plan.id, ())),
        "sleeps": sorted(under_way.sleeps.get(host.plan.id, ())),
        "promised": [each.replica.expert.id for each in host.commitments],
        "wake_in_s": _age(now, host.wake_at),
        "experts": {
            r.expert.id: {
                "state": r.state,
                "running": r.running,
                "of": r.max_running,
                "frame_left": r.frame_left,
                "failures": r.health.failures,
                "retry_in_s": _age(now, r.retry_at),
                "used_s": _age(r.used_at, now),
            }
            for r in shown
        },
    }


def _age(moment: float, now: float) -> float | None:
    return _number(now - moment)


def _number(value: float) -> float | None:
    """None for what JSON cannot say."""
    return round(value, 3) if math.isfinite(value) else None


def _fault(replicas: list[Replica], under_way: UnderWay, now: float, idles: bool) -> str | None:
    """Why the requests of their expert wait in vain; None where they have something to wait for."""
    if idles and any(_open(r, under_way) for r in replicas):
        return "a place in the batch is free and is not granted"
    if idles and not any(r.serves for r in replicas) and any(_fits(r, now) for r in replicas):
        return "there is room for the expert and it is not loaded"
    if all(_nothing_happens(r, under_way, now, idles) for r in replicas):
        return "nothing is under way that it could wait for"
    return None


def _lost(host: HostState, under_way: UnderWay, now: float) -> str | None:
    """An order or a lease on ``host`` that only the scheduler knows of."""
    leases, at = under_way.leases_on(host), host.plan.id
    for r in host.replicas.values():
        expert = r.expert.id
        if r.running > leases.get(expert, 0):
            return f"a lease on {expert} was never given back, or never handed out"
        if r.state == "loading" and expert not in under_way.loads.get(at, ()):
            return f"{expert} is said to be loading, and is not"
        if (
            r.state == "going_to_sleep"
            and expert not in under_way.sleeps.get(at, ())
            and not _retries(r, now)
        ):
            return f"{expert} is said to be put away, and is not"
    return None


def _retries(replica: Replica, now: float) -> bool:
    """Whether it is left alone for a while after a failure."""
    return now < replica.retry_at < math.inf


def _open(replica: Replica, under_way: UnderWay) -> bool:
    """Whether a request of its queue could be granted there."""
    leases, most = under_way.leases_on(replica.host), replica.host.plan.max_running
    free = most is None or sum(leases.values()) < most
    return replica.awake and leases.get(replica.expert.id, 0) < replica.max_running and free


def _fits(replica: Replica, now: float) -> bool:
    """Whether it could be loaded there at once, and so could everyone else who waits: where one does not fit,
    room may be kept for it. Not while anything comes or leaves."""
    host = replica.host
    if not replica.loadable(now) or host.commitments or any(not r.awake for r in host.residents.values()):
        return False
    wanted = [r for r in host.waiting.values() if not r.expert.supply and r.loadable(now)]
    return all(r.footprint <= host.room + EPSILON for r in wanted)


def _nothing_happens(replica: Replica, under_way: UnderWay, now: float, idles: bool) -> bool:
    """Whether nothing goes on at its host that could get it a place. A policy that says nothing of idle
    places may have a plan for later."""
    host = replica.host
    later = now < host.wake_at < math.inf and not idles
    retries = any(_retries(r, now) for r in (replica, *host.residents.values()))
    return not (retries or later or any(under_way.leases_on(host).values()) or under_way.moves(host))
