"""How long a request for an expert would wait, from what the scheduler has seen so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from coe.core.types import DeadlineClass
from coe.scheduler.plan import EPSILON
from coe.scheduler.replica import ExpertState, Replica
from coe.scheduler.state import SchedulerState


@dataclass(frozen=True, slots=True)
class Times:
    """What to expect of a load and of a run, in seconds."""

    load_s: Callable[[Replica], float]
    run_s: Callable[[ExpertState], float]


MEAN = Times(lambda replica: replica.load_s, lambda expert: expert.run_s)
SEEN = Times(
    lambda replica: replica.load_cost.p90 if replica.load_cost.seen else 0.0,
    lambda expert: expert.run_s if expert.run.seen else 0.0,
)


def expected_wait(expert: ExpertState, now: float) -> float:
    """Seconds until a request that came now would be granted, on its best host.

    A rough mean: batches ahead of it at the mean run time, plus what it takes to bring the expert in,
    plus the work of other experts that is older. ``inf`` when it would be rejected.
    """
    return _best(expert, now, MEAN)


def likely_wait(expert: ExpertState, now: float) -> float:
    """As :func:`expected_wait`, with what 9 of 10 swaps need at most. Counts only what was seen: by first
    guesses alone nobody should be turned away."""
    return _best(expert, now, SEEN)


def _best(expert: ExpertState, now: float, times: Times) -> float:
    if expert.retiring or expert.quarantined_until(now) is not None:
        return math.inf
    return min(_on(replica, now, times) for replica in expert.replicas.values() if not replica.retired)


def _on(replica: Replica, now: float, times: Times) -> float:
    if replica.state == "awake":
        return _own_queue(replica, replica.running, times)
    if replica.state == "loading":
        left = max(0.0, replica.bringing.started + times.load_s(replica) - now)
        return left + _own_queue(replica, 0, times)
    backoff = max(0.0, replica.retry_at - now) if math.isfinite(replica.retry_at) else 0.0
    return backoff + _place(replica, now, times) + times.load_s(replica) + _own_queue(replica, 0, times)


def _own_queue(replica: Replica, running: int, times: Times) -> float:
    """Time until the leases and requests ahead leave batch room for one more."""
    excess = replica.expert.queued + running + 1 - replica.max_running
    return max(0, excess) / replica.max_running * times.run_s(replica.expert)


def _place(replica: Replica, now: float, times: Times) -> float:
    """Time until the host has room for the replica: nothing if it has, else the work in its way."""
    host, ahead = replica.host, 0.0
    if host.free >= replica.footprint - EPSILON:
        return ahead
    if not replica.committed:
        others = (r for r in host.waiting.values() if r is not replica)
        ahead = sum(_work(r, times) for r in others if r.expert.oldest <= replica.expert.oldest)
    ends = (r.used_at + times.run_s(r.expert) for r in host.residents.values() if r.running)
    return ahead + max(0.0, max(ends, default=now) - now)


def _work(replica: Replica, times: Times) -> float:
    """Host time that another expert's present queue takes."""
    batches = -(-replica.expert.queued // replica.max_running)
    swap_s = 0.0 if replica.state == "awake" else times.load_s(replica)
    return swap_s + batches * times.run_s(replica.expert)


def promised_wait(state: SchedulerState, expert: ExpertState, deadline_class: DeadlineClass) -> float:
    """Seconds that a request for ``expert`` that comes now waits at most; 0 when it is granted at once."""
    if expert.has_batch_room:
        return 0.0
    replicas = [replica for replica in expert.replicas.values() if not replica.retired]
    if not replicas or all(replica.host.plan.always_awake for replica in replicas):
        batches = math.ceil((expert.queued + 1) / max(1, sum(r.max_running for r in replicas)))
        return batches * state.longest.run_s
    batch = min(min(r.max_running, r.host.plan.max_running or r.max_running) for r in replicas)
    wanted = {e: r.expert for r in replicas for e, r in (*r.host.waiting.items(), *r.host.expected.items())}
    others = sum(_batches(other, batch) for other in wanted.values() if other is not expert)
    rounds = _batches(expert, batch, ahead_of=1) + others // len(replicas)
    run_s, load_s = state.longest.run_s, max(state.longest.load_s, *(r.load_cost.p90 for r in replicas))
    sleep_s = max(state.longest.sleep_s, *(r.costs.sleep.p90 for r in replicas))
    ageing_s = state.plan.classes[deadline_class].ageing_s
    return ageing_s + rounds * (run_s + load_s + sleep_s) + max(rounds * run_s, load_s)


def _batches(expert: ExpertState, batch: int, ahead_of: int = 0) -> int:
    return math.ceil((expert.queued + expert.expected + ahead_of) / batch)
