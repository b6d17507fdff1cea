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
from coe.scheduler.state import Books, ExpertState, HostState, Replica
from coe.scheduler.swaps import Turn


@dataclass(slots=True)
class Admission:
    """Fills the queues: part of the scheduler, which alone calls it."""

    books: Books
    rules: Rules
    number: int = 0

    def arrived(self, event: Arrived, turn: Turn) -> None:
        """Queue it, or reject it at once. Raises ValueError when it is here already."""
        if event.request in self.books.waiting or event.request in self.books.leases:
            raise ValueError(f"request {event.request!r} is already in the pool")
        self._admit(event, turn)
        fulfil(self.books, event.request, turn)

    def _admit(self, event: Arrived, turn: Turn) -> None:
        books = self.books
        expert = self._server(event.expert, event.alternatives, turn.now)
        if expert is None:
            self._reject(event, "expert_unavailable", self._why(event.expert, turn.now), turn)
            return
        waiting = len(books.waiting)
        if waiting >= books.plan.max_queue and not expert.has_batch_room:
            self._reject(
                event, "queue_full", f"cannot be queued: {waiting} requests are waiting already", turn
            )
            return
        if self.rules.promise and self._waits_too_long(event, expert, turn):
            return
        self._enqueue(event, expert, turn)

    def _waits_too_long(self, event: Arrived, expert: ExpertState, turn: Turn) -> bool:
        """Refuse what could have to wait longer than its class may, or will not be served while its client
        waits. Against patience stands the forecast: the bound, with its ageing, is no likely wait."""
        if expert.has_batch_room:
            return False
        limit_s = self.books.plan.classes[event.deadline_class].max_wait_s
        wait_s = promised_wait(self.books, expert, event.deadline_class)
        if wait_s <= limit_s and math.isfinite(event.patience_s):
            limit_s, wait_s = event.patience_s, likely_wait(expert, turn.now)
        if wait_s <= limit_s:
            return False
        why = f"cannot be promised within {limit_s:g} s: it could take {wait_s:.0f} s now"
        self._reject(event, "wait_not_promised", why, turn, retry_after_s=wait_s - limit_s)
        return True

    def adopt(self, host: HostState, turn: Turn) -> list[Replica]:
        """Idle experts on ``host`` take requests that wait elsewhere and named them as alternatives, as far
        as there is batch room. Who took one, once for each."""
        residents = host.residents.values() if self.rules.reroute else ()
        idle = [r for r in residents if r.expert.named and not r.expert.queued and r.has_batch_room]
        takers: list[Replica] = []
        if not idle or any(r.expert.queued and r.has_batch_room for r in residents):
            return takers
        room = math.inf if host.plan.max_running is None else host.plan.max_running - host.running
        for replica in idle:
            most = min(replica.max_running - replica.running, room - len(takers))
            for request in list(islice(replica.expert.named, int(most))):
                self._move(request, replica.expert, turn)
                takers.append(replica)
        return takers

    def hand_over(self, expert: ExpertState, why: str, turn: Turn) -> None:
        """Nobody can serve ``expert`` any more: its requests go to alternatives or are rejected."""
        for waiter in list(expert.queue.waiters.values()):
            other = self._server("", waiter.alternatives, turn.now)
            if other is not None and other is not expert:
                self._move(waiter.request, other, turn)
                continue
            self.gone(waiter.request)
            leave(self.books, waiter.group)
            message = f"expert {expert.id!r} {why}"
            turn.actions.append(Reject(waiter.request, expert.id, "expert_unavailable", message))

    def gone(self, request: RequestId) -> Waiter:
        """Take a waiting request out of its queue."""
        waiter = self.books.waiting.pop(request).pop(request)
        for name in waiter.alternatives:
            if other := self.books.experts.get(name):
                other.named.pop(request, None)
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
        state = self.books.experts.get(expert)
        if state is None or state.retiring or state.quarantined_until(now) is not None:
            return None
        return state

    def _why(self, asked: ExpertId, now: float) -> str:
        """Why nobody can serve a request for ``asked``."""
        expert = self.books.experts.get(asked)
        if expert is None:
            return "is not in the pool"
        until = expert.quarantined_until(now)
        if expert.retiring or until is None:
            return "was removed and takes no new requests"
        return f"could not be loaded and is tried again in {until - now:.0f} s"

    def _enqueue(self, event: Arrived, expert: ExpertState, turn: Turn) -> None:
        self.number += 1
        group = event.group if self.rules.groups else None
        since = join(self.books, group, turn.now)
        alternatives = tuple(e for e in (event.expert, *event.alternatives) if e != expert.id)
        request, number, kind = event.request, self.number, event.deadline_class
        expert.rate.add(turn.now)
        expert.push(Waiter(request, expert.id, turn.now, since, number, kind, group, alternatives))
        self.books.waiting[request] = expert
        if self.rules.reroute:
            for name in alternatives:
                if other := self.books.experts.get(name):
                    other.named[request] = None
        for replica in sorted(expert.replicas.values(), key=lambda r: _reluctance(r, turn.now)):
            turn.touch(replica.host)

    def _move(self, request: RequestId, to: ExpertState, turn: Turn) -> None:
        """Into another expert's queue, with all the waiting that it has done."""
        left = self.books.waiting[request]
        waiter = self.gone(request)
        to.push(replace(waiter, expert=to.id, alternatives=()))
        self.books.waiting[request] = to
        for replica in (*left.replicas.values(), *to.replicas.values()):
            turn.touch(replica.host)

    def _reject(
        self, event: Arrived, code: RejectCode, why: str, turn: Turn, retry_after_s: float | None = None
    ) -> None:
        message = f"expert {event.expert!r} {why}"
        turn.actions.append(Reject(event.request, event.expert, code, message, retry_after_s))


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
