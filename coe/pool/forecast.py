"""How long a request for an expert would wait, from what the scheduler has seen so far."""

from __future__ import annotations

import math

from coe.pool.plan import EPSILON
from coe.pool.state import ExpertState, Replica


def expected_wait(expert: ExpertState, now: float) -> float:
    """Seconds until a request that came now would be granted, on its best host.

    A rough mean: batches ahead of it at the mean run time, plus what it takes to bring the expert in,
    plus the turns of experts whose work is older. ``inf`` when it would be rejected.
    """
    if expert.retiring or expert.quarantined_until(now) is not None:
        return math.inf
    return min(_on(replica, now) for replica in expert.replicas.values() if not replica.retired)


def _on(replica: Replica, now: float) -> float:
    if replica.state == "awake":
        return _own_queue(replica, replica.running)
    if replica.state == "loading":
        left = max(0.0, replica.load_started + replica.load_s - now)
        return left + _own_queue(replica, 0)
    backoff = max(0.0, replica.retry_at - now) if math.isfinite(replica.retry_at) else 0.0
    return backoff + _place(replica, now) + replica.load_s + _own_queue(replica, 0)


def _own_queue(replica: Replica, running: int) -> float:
    """Time until the leases and requests ahead leave batch room for one more."""
    excess = replica.expert.queued + running + 1 - replica.max_running
    return max(0, excess) / replica.max_running * replica.expert.run_s


def _place(replica: Replica, now: float) -> float:
    """Time until the host has room for the replica: nothing if it has, else the work in its way."""
    host = replica.host
    if replica.committed or host.free >= replica.footprint - EPSILON:
        ahead = 0.0
    else:
        ahead = sum(_turn(r) for r in host.waiting.values() if r is not replica and _goes_before(r, replica))
    leaving = [r for r in host.residents.values() if r.running]
    if host.free >= replica.footprint - EPSILON or not leaving:
        return ahead
    last_grant = max(r.used_at + r.expert.run_s for r in leaving)
    return ahead + max(0.0, last_grant - now)


def _goes_before(other: Replica, replica: Replica) -> bool:
    return other.expert.oldest <= replica.expert.oldest


def _turn(replica: Replica) -> float:
    """Host time that another expert's present queue takes."""
    batches = -(-replica.expert.queued // replica.max_running)
    swap_s = 0.0 if replica.state == "awake" else replica.load_s
    return swap_s + batches * replica.expert.run_s
