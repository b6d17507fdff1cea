"""Decisions about one host: carry out what the policy wants within the rules that always hold.

No budget is exceeded, nothing with leases out is put away, and what was promised is kept or withdrawn. The
numbers are those of the decision order in :mod:`coe.scheduler.scheduler`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from coe.core.types import ExpertId
from coe.scheduler.events import Grant, Prefetch
from coe.scheduler.plan import EPSILON
from coe.scheduler.policies import HostView, Policy, Swap
from coe.scheduler.policies.victims import choose_victims
from coe.scheduler.queue import NOBODY
from coe.scheduler.replica import AT_REST, Commitment, HostState, Replica
from coe.scheduler.swaps import (
    StepContext,
    commit,
    drain,
    evict,
    forget,
    keep_ram,
    make_room,
    start_load,
    withdraw,
)

LOOK_AHEAD = 8
"""How many of those with work are considered for reading ahead."""


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """The scheduler's part: ``on_grant`` hands over the head of a queue and keeps the lease,
    ``steal_queued`` gives idle experts what waits elsewhere and may be served by them, and says who is to
    be granted one."""

    policy: Policy
    on_grant: Callable[[Replica, StepContext], Grant]
    steal_queued: Callable[[HostState, StepContext], list[Replica]]

    def decide(self, host: HostState, step: StepContext) -> None:
        """Bring ``host`` to rest: afterwards nothing is left to do before the next event or wake_at."""
        # 3. Before anything else: the victims of a load that is given up may be granted again below.
        self._withdraw(host, step)
        granted = True
        while granted:  # A grant may empty a queue, which may let its expert be closed.
            # 4. What must leave in any case, so that the policy counts on the room it frees.
            self._retry_sleeps(host, step)
            self._retire(host, step)
            # 5. Before new experts are sent to sleep: they need room in RAM.
            keep_ram(host, step)
            # 6. Granted at once: were a swap decided first, it could close who took the requests in.
            for replica in self.steal_queued(host, step):
                self._grant_next(replica, step)
            # 7. The policy's choice, and 8. after it: announced requests get only what nobody else wants.
            view = self._swap(host, step)
            self._bring_expected(host, view, step)
            # 9. After both, since closing an idle expert may have freed the room at once.
            if self._load(host, step):
                view = self._view(host, step.now)
            # 10. After the loads were started: what is being loaded needs no reading ahead.
            self._prefetch(host, step)
            # 11. Last: who was chosen to leave gets nothing more.
            granted = self._grant(host, view, step) and not host.at_rest(self.policy.rules.only_for_waiting)
        # 12. With the last view: nothing has changed since.
        host.wake_at = min(self._retry_at(host, step), self.policy.wake_at(view))

    def _withdraw(self, host: HostState, step: StepContext) -> None:
        """Give up loads that nobody waits for any more, and let their victims stay."""
        kept: list[Commitment] = []
        for commitment in host.commitments:
            expert = commitment.replica.expert
            if (expert.queued or expert.expected) and not commitment.replica.retired:
                kept.append(commitment)
            else:
                withdraw(commitment, step)
        host.commitments = kept
        if kept and self.policy.rules.promise:
            self._redirect(host, step)

    def _redirect(self, host: HostState, step: StepContext) -> None:
        """Room that is still to come goes to the expert whose overdue request has waited longest, though it
        was promised to others before: the bound on waiting counts what was begun, not plans."""
        overdue = [r for r in host.waiting.values() if not r.expert.supply and r.loadable(step.now)]
        first = min(overdue, key=lambda r: r.expert.overdue_age(step.now), default=None)
        if first is None or (longest := first.expert.overdue_age(step.now)) == NOBODY:
            return
        ages = {c.replica.expert.id: c.replica.expert.overdue_age(step.now) for c in host.commitments}
        for commitment in sorted(host.commitments, key=lambda c: ages[c.replica.expert.id], reverse=True):
            if ages[commitment.replica.expert.id] < longest or first.footprint <= host.room + EPSILON:
                return
            host.commitments.remove(commitment)
            withdraw(commitment, step)

    def _retry_sleeps(self, host: HostState, step: StepContext) -> None:
        for replica in host.retrying.values():
            if replica.state == "going_to_sleep" and step.now >= replica.retry_at:
                evict(replica, step)

    def _retire(self, host: HostState, step: StepContext) -> None:
        """Put away what the plan no longer has: a moved replica or a former content at once, an expert
        after its queue."""
        if not host.leavers:
            return
        for replica in list(host.replicas.values()):
            gone = replica.retired or (replica.expert.retiring and not replica.expert.queued)
            if not (gone or replica.stale):
                continue
            if replica.state == "awake":
                drain(replica, step)
            elif replica.state == "sleeping":
                evict(replica, step)
            if gone and replica.state == "cold" and not replica.committed:
                forget(replica, step)
        host.leavers = any(r.outdated for r in host.replicas.values())

    def _swap(self, host: HostState, step: StepContext) -> HostView:
        """Close residents and promise loads until the policy is content with what the view shows."""
        while True:
            view = self._view(host, step.now)
            if not view.residents and (not view.candidates or view.room <= EPSILON):
                return view
            swap = self.policy.swap(view)
            if swap is None:
                return view
            self._carry_out(swap, host, view, step)

    def _carry_out(self, swap: Swap, host: HostState, view: HostView, step: StepContext) -> None:
        victims = [self._resident(host, expert) for expert in swap.victims]
        step.changes += 1
        if swap.load is None:
            if not victims:
                raise ValueError(f"policy {self.policy.name!r}: a swap without load and victims")
            for victim in victims:
                drain(victim, step)
            return
        replica = host.replicas[swap.load]
        available = view.room + sum(v.held for v in victims) + EPSILON
        if all(c is not replica for c in view.candidates) or replica.footprint > available:
            raise ValueError(f"policy {self.policy.name!r}: {swap.load!r} cannot be loaded now")
        commit(replica, victims, step)

    def _resident(self, host: HostState, expert: ExpertId) -> Replica:
        resident = host.residents.get(expert)
        if resident is None or resident.state != "awake":
            raise ValueError(f"policy {self.policy.name!r}: {expert!r} is not awake and cannot be closed")
        return resident

    def _bring_expected(self, host: HostState, view: HostView, step: StepContext) -> None:
        """Bring in an expert that will be wanted soon, when nobody else wants the room: at the expense of
        idle residents at most, and of none that another leg of the same group waits for or expects."""
        if not host.expected or host.commitments:
            return
        if any(c.expert.queued > c.expert.supply for c in view.candidates):
            return
        for replica in host.expected.values():
            expert = replica.expert
            if expert.supply or expert.retiring or not replica.loadable(step.now):
                continue
            idle = [r for r in view.residents if not (r.running or r.expert.queued or r.expert.expected)]
            idle = [r for r in idle if expert.groups.isdisjoint(r.expert.groups)]
            if replica.footprint <= view.room + sum(r.footprint for r in idle) + EPSILON:
                victims = choose_victims(idle, replica.footprint - view.room)
                commit(replica, [self._resident(host, victim) for victim in victims], step)
                return

    def _load(self, host: HostState, step: StepContext) -> bool:
        """Start promised loads, oldest promise first; a later one may not take an earlier one's room."""
        if not host.commitments:
            return False
        promised, host.commitments = host.commitments, []
        free = host.free
        for commitment in promised:
            free -= commitment.replica.footprint
            if free >= -EPSILON:
                start_load(commitment.replica, step)
            else:
                host.commitments.append(commitment)
        return len(host.commitments) < len(promised)

    def _prefetch(self, host: HostState, step: StepContext) -> None:
        """Have the weights read of who comes next: the promised one, else who has had work longest. One read
        at a time on a node: reads share its disk."""
        plan = host.plan
        if not self.policy.rules.prefetch or not plan.reads_ahead or plan.ram_gb is None or host.ram.reading:
            return
        promised = [c.replica for c in host.commitments]
        for replica in (*promised, *islice(host.waiting.values(), LOOK_AHEAD)):
            wanted = replica.committed or replica.expert.queued > replica.expert.supply
            if replica.state != "cold" or replica.read.state != "no" or not replica.weights_gb or not wanted:
                continue
            if replica.expert.id in host.reads:  # another would take the former one's answer for its own
                continue
            if all(other.read.state == "no" for other in replica.expert.replicas.values()):
                if make_room(host, replica.weights_gb, step):
                    host.reads.add(replica.expert.id)
                    replica.read.state, replica.read.started = "reading", step.now
                    host.ram.hold(replica)
                    step.actions.append(Prefetch(replica.expert.id, plan.id))
                return

    def _grant(self, host: HostState, view: HostView, step: StepContext) -> bool:
        """Hand out batch room until it or the work is used up, or the policy holds back."""
        granted = False
        while host.waiting and host.has_batch_room:
            smaller = host.residents if len(host.residents) < len(host.waiting) else host.waiting
            grantable = [r for r in smaller.values() if r.expert.queued and r.has_batch_room]
            chosen = self.policy.grant(view, grantable) if grantable else None
            if chosen is None:
                break
            replica = host.replicas[chosen]
            if not (replica.expert.queued and replica.has_batch_room):
                raise ValueError(f"policy {self.policy.name!r}: {chosen!r} cannot take a request now")
            self._grant_next(replica, step)
            granted = True
        return granted

    def _grant_next(self, replica: Replica, step: StepContext) -> None:
        step.actions.append(self.on_grant(replica, step))
        step.changes += 1

    def _retry_at(self, host: HostState, step: StepContext) -> float:
        """When the next of what failed may be tried again, if anything wants it."""
        for replica in [r for r in host.retrying.values() if r.retry_at <= step.now]:
            del host.retrying[replica.expert.id]
        wanted = [r for r in host.retrying.values() if r.expert.queued or r.state == "going_to_sleep"]
        return min((r.retry_at for r in wanted), default=math.inf)

    def _view(self, host: HostState, now: float) -> HostView:
        if host.plan.always_awake:
            return HostView(host.plan.id, now, math.inf, (), ())
        candidates = [  # As Replica.loadable, without 150 calls after every event.
            r
            for r in host.waiting.values()
            if r.retry_at <= now and r.state in AT_REST and not r.committed and not r.retired
        ]
        residents = [r for r in host.residents.values() if r.state == "awake"]
        switching = len(residents) < len(host.residents) or bool(host.commitments)
        return HostView(host.plan.id, now, host.room, candidates, residents, switching)
