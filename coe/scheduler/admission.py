"""Who takes a request that comes: its expert, an alternative, or nobody."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice

from coe.core.types import ExpertId, RequestId
from coe.scheduler.events import Arrived, Reject, RejectCode
from coe.scheduler.forecast import likely_wait, promised_wait
from coe.scheduler.groups import fulfil, join, leave
from coe.scheduler.policies import Rules
from coe.scheduler.queue import Waiter
from coe.scheduler.replica import ExpertState, HostState, Replica
from coe.scheduler.state import SchedulerState
from coe.scheduler.swaps import StepContext


@dataclass(slots=True)
class Admission:
    """Fills the queues: part of the scheduler, which alone calls it."""

    state: SchedulerState
    rules: Rules
    number: int = 0

    def arrived(self, event: Arrived, step: StepContext) -> None:
        """Queue it, or reject it at once. Raises ValueError when it is here already."""
        if event.request in self.state.waiting or event.request in self.state.leases:
            raise ValueError(f"request {event.request!r} is already in the pool")
        self._admit(event, step)
        fulfil(self.state, event.request, step)

    def _admit(self, event: Arrived, step: StepContext) -> None:
        state = self.state
        expert = self._server(event.expert, event.alternatives, step.now)
        if expert is None:
            self._reject(event, "expert_unavailable", self._why(event.expert, step.now), step)
            return
        waiting = len(state.waiting)
        if waiting >= state.plan.max_queue and not expert.has_batch_room:
            self._reject(
                event, "queue_full", f"cannot be queued: {waiting} requests are waiting already", step
            )
            return
        if self.rules.promise and self._waits_too_long(event, expert, step):
            return
        self._enqueue(event, expert, step)

    def _waits_too_long(self, event: Arrived, expert: ExpertState, step: StepContext) -> bool:
        """Refuse what could have to wait longer than its class may, or will not be served while its client
        waits. Against patience stands the forecast: the bound, with its ageing, is no likely wait."""
        if expert.has_batch_room:
            return False
        limit_s = self.state.plan.classes[event.deadline_class].max_wait_s
        wait_s = promised_wait(self.state, expert, event.deadline_class)
        if wait_s <= limit_s and math.isfinite(event.patience_s):
            limit_s, wait_s = event.patience_s, likely_wait(expert, step.now)
        if wait_s <= limit_s:
            return False
        why = f"cannot be promised within {limit_s:g} s: it could take {wait_s:.0f} s now"
        self._reject(event, "wait_not_promised", why, step, retry_after_s=wait_s - limit_s)
        return True

    def steal_queued(self, host: HostState, step: StepContext) -> list[Replica]:
        """Idle experts on ``host`` take requests that wait elsewhere and named them as alternatives, as far
        as there is batch room. Who took one, once for each."""
        residents = host.residents.values() if self.rules.reroute else ()
        idle = [r for r in residents if r.expert.stealable and not r.expert.queued and r.has_batch_room]
        takers: list[Replica] = []
        if not idle or any(r.expert.queued and r.has_batch_room for r in residents):
            return takers
        room = math.inf if host.plan.max_running is None else host.plan.max_running - host.running
        for replica in idle:
            most = min(replica.max_running - replica.running, room - len(takers))
            for request in list(islice(replica.expert.stealable, int(most))):
                self._move(request, replica.expert, step)
                takers.append(replica)
        return takers

    def hand_over(self, expert: ExpertState, why: str, step: StepContext) -> None:
        """Nobody can serve ``expert`` any more: its requests go to alternatives or are rejected."""
        for waiter in list(expert.queue.waiters.values()):
            other = self._server("", waiter.alternatives, step.now)
            if other is not None and other is not expert:
                self._move(waiter.request, other, step)
                continue
            self.gone(waiter.request)
            leave(self.state, waiter.group)
            message = f"expert {expert.id!r} {why}"
            step.actions.append(Reject(waiter.request, expert.id, "expert_unavailable", message))

    def gone(self, request: RequestId) -> Waiter:
        """Take a waiting request out of its queue."""
        waiter = self.state.waiting.pop(request).pop(request)
        for name in waiter.alternatives:
            if other := self.state.experts.get(name):
                other.stealable.pop(request, None)
        return waiter

    def _server(self, asked: ExpertId, alternatives: tuple[ExpertId, ...], now: float) -> ExpertState | None:
        """The expert asked for; an alternative where that one cannot be had, or would have to wait while the
        alternative is free."""
        own = self._available(asked, now)
        if own is not None and (own.has_batch_room or not (self.rules.reroute and alternatives)):
            return own
        others = [other for e in alternatives if (other := self._available(e, now)) is not None]
        free = next((other for other in others if other.has_batch_room), None)
        return free or own or next(iter(others), None)

    def _available(self, expert: ExpertId, now: float) -> ExpertState | None:
        state = self.state.experts.get(expert)
        if state is None or state.retiring or state.quarantined_until(now) is not None:
            return None
        return state

    def _why(self, asked: ExpertId, now: float) -> str:
        """Why nobody can serve a request for ``asked``."""
        expert = self.state.experts.get(asked)
        if expert is None:
            return "is not in the pool"
        until = expert.quarantined_until(now)
        if expert.retiring or until is None:
            return "was removed and takes no new requests"
        return f"could not be loaded and is tried again in {until - now:.0f} s"

    def _enqueue(self, event: Arrived, expert: ExpertState, step: StepContext) -> None:
        self.number += 1
        group = event.group if self.rules.groups else None
        since = join(self.state, group, step.now)
        alternatives = tuple(e for e in (event.expert, *event.alternatives) if e != expert.id)
        request, number, kind = event.request, self.number, event.deadline_class
        expert.rate.add(step.now)
        expert.push(Waiter(request, expert.id, step.now, since, number, kind, group, alternatives))
        self.state.waiting[request] = expert
        if self.rules.reroute:
            for name in alternatives:
                if other := self.state.experts.get(name):
                    other.stealable[request] = None
        for replica in sorted(expert.replicas.values(), key=lambda r: _reluctance(r, step.now)):
            step.touch(replica.host)

    def _move(self, request: RequestId, to: ExpertState, step: StepContext) -> None:
        """Into another expert's queue, with all the waiting that it has done."""
        left = self.state.waiting[request]
        waiter = self.gone(request)
        to.push(replace(waiter, expert=to.id, alternatives=()))
        self.state.waiting[request] = to
        for replica in (*left.replicas.values(), *to.replicas.values()):
            step.touch(replica.host)

    def _reject(
        self,
        event: Arrived,
        code: RejectCode,
        why: str,
        step: StepContext,
        retry_after_s: float | None = None,
    ) -> None:
        message = f"expert {event.expert!r} {why}"
        step.actions.append(Reject(event.request, event.expert, code, message, retry_after_s))


def _reluctance(replica: Replica, now: float) -> tuple[float, float]:
    """How unwillingly a host would serve one more request: where the expert is awake least, then where room
    is free, then where what would have to leave is missed least."""
    if replica.awake:
        return 0.0, replica.running / replica.max_running
    if replica.host.room >= replica.footprint:
        return 1.0, 0.0
    idle = [r for r in replica.host.residents.values() if r.awake and not (r.running or r.expert.queued)]
    spare = [r.expert.rate_at(now) * r.load_s for r in idle if not r.expert.expected]
    return (2.0, min(spare)) if spare else (3.0, replica.host.running)
