"""Decisions about one host: carry out what the policy wants within the rules that always hold.

No budget is exceeded, nothing with leases out is put away, and what was promised is kept or withdrawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from coe.pool.events import Action, Evict, Grant, Load, Prefetch, Release, Sleep, Wake
from coe.pool.plan import EPSILON
from coe.pool.policies import HostView, Policy, Swap
from coe.pool.policies.victims import choose_victims, credit
from coe.pool.ram import credit as ram_credit
from coe.pool.ram import victims as ram_victims
from coe.pool.state import AT_REST, DROPPED, Commitment, HostState, Replica
from coe.types import ExpertId

LOOK_AHEAD = 8
"""How many of those with work are considered for reading ahead."""


@dataclass(slots=True)
class Turn:
    """One call of ``step``: the time, the actions so far, and the hosts to look at again.

    ``changes`` counts grants and swaps.
    """

    now: float
    changes: int = 0
    actions: list[Action] = field(default_factory=list)
    dirty: dict[str, HostState] = field(default_factory=dict)

    def touch(self, host: HostState) -> None:
        self.dirty[host.plan.id] = host

    def touch_hosts_of(self, replica: Replica) -> None:
        """What one replica does changes what the expert's others should do."""
        for other in replica.expert.replicas.values():
            self.touch(other.host)


@dataclass(frozen=True, slots=True)
class Decider:
    """The scheduler's part: ``on_grant`` hands over the head of a queue and keeps the lease, ``adopt`` gives
    idle experts what waits elsewhere and may be served by them."""

    policy: Policy
    on_grant: Callable[[Replica, Turn], Grant]
    adopt: Callable[[HostState, Turn], None]

    def decide(self, host: HostState, turn: Turn) -> None:
        """Bring ``host`` to rest: afterwards nothing is left to do before the next event or wake_at."""
        if host.at_rest:
            return
        self._withdraw(host, turn)
        granted = True
        while granted:  # A grant may empty a queue, which may let its expert be closed.
            self._retry_sleeps(host, turn)
            self._retire(host, turn)
            _keep_ram(host, turn)
            self.adopt(host, turn)
            view = self._swap(host, turn)
            self._bring_expected(host, view, turn)
            if self._load(host, turn):
                view = self._view(host, turn.now)
            self._prefetch(host, turn)
            granted = self._grant(host, view, turn) and not host.at_rest
        host.wake_at = min(self._retry_at(host, turn), self.policy.wake_at(view))

    def _withdraw(self, host: HostState, turn: Turn) -> None:
        """Give up loads that nobody waits for any more, and let their victims stay."""
        kept: list[Commitment] = []
        for commitment in host.commitments:
            expert = commitment.replica.expert
            if (expert.queued or expert.expected) and not commitment.replica.retired:
                kept.append(commitment)
            else:
                withdraw(commitment, turn)
        host.commitments = kept

    def _swap(self, host: HostState, turn: Turn) -> HostView:
        """Close residents and promise loads until the policy is content with what the view shows."""
        while True:
            view = self._view(host, turn.now)
            if not view.residents and (not view.candidates or view.room <= EPSILON):
                return view
            swap = self.policy.swap(view)
            if swap is None:
                return view
            self._commit(host, view, swap, turn)

    def _commit(self, host: HostState, view: HostView, swap: Swap, turn: Turn) -> None:
        victims = tuple(self._resident(host, expert) for expert in swap.victims)
        turn.changes += 1
        if swap.wave is not None:
            host.wave = swap.wave
        if swap.load is not None:
            replica = host.replicas[swap.load]
            freed = sum(v.held for v in victims)
            if (
                all(c is not replica for c in view.candidates)
                or replica.footprint > view.room + freed + EPSILON
            ):
                raise ValueError(f"policy {self.policy.name!r}: {swap.load!r} cannot be loaded now")
            replica.committed = True
            replica.expert.recount()
            host.commitments.append(Commitment(replica, victims))
            turn.touch_hosts_of(replica)
        elif not victims and swap.wave is None:
            raise ValueError(f"policy {self.policy.name!r}: a swap without load and victims")
        for victim in victims:
            drain(victim, turn)

    def _bring_expected(self, host: HostState, view: HostView, turn: Turn) -> None:
        """Bring in an expert that will be wanted soon, when nobody else wants the room: at the expense of
        idle residents at most, and of none that another leg of the same group waits for or expects."""
        if not host.expected or host.commitments:
            return
        if any(c.expert.queued > c.expert.supply for c in view.candidates):
            return
        for replica in host.expected.values():
            expert = replica.expert
            if expert.supply or expert.retiring or not replica.loadable(turn.now):
                continue
            idle = [r for r in view.residents if not (r.running or r.expert.queued or r.expert.expected)]
            idle = [r for r in idle if expert.groups.isdisjoint(r.expert.groups)]
            room = view.room + sum(r.footprint for r in idle)
            if replica.footprint <= room + EPSILON:
                victims = choose_victims(idle, replica.footprint - view.room, turn.now, credit)
                chosen = tuple(self._resident(host, victim) for victim in victims)
                replica.committed = True
                expert.recount()
                host.commitments.append(Commitment(replica, chosen))
                turn.touch_hosts_of(replica)
                for victim in chosen:
                    drain(victim, turn)
                return

    def _prefetch(self, host: HostState, turn: Turn) -> None:
        """Have the weights read of who comes next: the promised one, else who has had work longest. One read
        at a time on a node: reads share its disk."""
        plan = host.plan
        if not self.policy.rules.prefetch or not plan.reads_ahead or plan.ram_gb is None or host.ram.reading:
            return
        promised = [c.replica for c in host.commitments]
        for replica in (*promised, *islice(host.waiting.values(), LOOK_AHEAD)):
            wanted = replica.committed or replica.expert.queued > replica.expert.supply
            if replica.state != "cold" or replica.ahead != "no" or not replica.weights_gb or not wanted:
                continue
            if all(other.ahead == "no" for other in replica.expert.replicas.values()):
                if make_room(host, replica.weights_gb, turn):
                    replica.ahead, replica.read_started = "reading", turn.now
                    host.ram.hold(replica)
                    turn.actions.append(Prefetch(replica.expert.id, plan.id))
                return

    def _resident(self, host: HostState, expert: ExpertId) -> Replica:
        resident = host.residents.get(expert)
        if resident is None or resident.state != "awake":
            raise ValueError(f"policy {self.policy.name!r}: {expert!r} is not awake and cannot be closed")
        return resident

    def _load(self, host: HostState, turn: Turn) -> bool:
        """Start promised loads, oldest promise first; a later one may not take an earlier one's room."""
        if not host.commitments:
            return False
        promised, host.commitments = host.commitments, []
        free = host.free
        for commitment in promised:
            free -= commitment.replica.footprint
            if free >= -EPSILON:
                start_load(commitment.replica, turn)
            else:
                host.commitments.append(commitment)
        return len(host.commitments) < len(promised)

    def _grant(self, host: HostState, view: HostView, turn: Turn) -> bool:
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
            turn.actions.append(self.on_grant(replica, turn))
            turn.changes += 1
            granted = True
        return granted

    def _retire(self, host: HostState, turn: Turn) -> None:
        """Put away what the plan no longer has: a moved replica or a former content at once, an expert
        after its queue."""
        if not host.leavers:
            return
        for replica in list(host.replicas.values()):
            gone = replica.retired or (replica.expert.retiring and not replica.expert.queued)
            if not (gone or replica.stale):
                continue
            if replica.state == "awake":
                drain(replica, turn)
            elif replica.state == "sleeping":
                evict(replica, turn)
            if gone and replica.state == "cold" and not replica.committed:
                _forget(replica, turn)
        host.leavers = any(r.outdated for r in host.replicas.values())

    def _retry_sleeps(self, host: HostState, turn: Turn) -> None:
        for replica in host.retrying.values():
            if replica.state == "going_to_sleep" and turn.now >= replica.retry_at:
                evict(replica, turn)

    def _retry_at(self, host: HostState, turn: Turn) -> float:
        """When the next of what failed may be tried again, if anything wants it."""
        for replica in [r for r in host.retrying.values() if r.retry_at <= turn.now]:
            del host.retrying[replica.expert.id]
        wanted = [r for r in host.retrying.values() if r.expert.queued or r.state == "going_to_sleep"]
        return min((r.retry_at for r in wanted), default=math.inf)

    def _view(self, host: HostState, now: float) -> HostView:
        if host.plan.always_awake:
            return HostView(host.plan.id, now, math.inf, (), (), host.waiting.values())
        candidates = [  # As Replica.loadable, without 150 calls after every event.
            r
            for r in host.waiting.values()
            if r.retry_at <= now and r.state in AT_REST and not r.committed and not r.retired
        ]
        residents = [r for r in host.residents.values() if r.state == "awake"]
        switching = len(residents) < len(host.residents) or bool(host.commitments)
        return HostView(
            host.plan.id,
            now,
            host.room,
            candidates,
            residents,
            host.waiting.values(),
            switching,
            host.wave,
        )


def withdraw(commitment: Commitment, turn: Turn) -> None:
    """Take back a promise: its victims stay, unless they have left or must leave anyway."""
    commitment.replica.committed = False
    commitment.replica.expert.recount()
    turn.touch_hosts_of(commitment.replica)
    for victim in commitment.victims:
        if victim.state == "draining" and not victim.crashed:
            victim.move("awake")
            turn.touch_hosts_of(victim)


def start_load(replica: Replica, turn: Turn) -> None:
    waking = replica.state == "sleeping"
    replica.committed = False
    replica.bring = replica.load_cost
    replica.loaded_from = "sleeping" if waking else "cold"
    replica.load_started = turn.now
    replica.move("loading")
    order = Wake if waking else Load
    turn.actions.append(order(replica.expert.id, replica.host.plan.id))


def drain(replica: Replica, turn: Turn) -> None:
    """Grant nothing more on an awake replica; put it away when its leases are back."""
    replica.move("draining")
    turn.touch_hosts_of(replica)
    put_away(replica, turn)


def put_away(replica: Replica, turn: Turn) -> None:
    """Order a drained replica to sleep. One that has nothing to free is cold at once."""
    if replica.state != "draining" or replica.running:
        return
    turn.touch_hosts_of(replica)
    if replica.crashed or replica.host.plan.always_awake:
        replica.crashed = False
        replica.move("cold")
        return
    host = replica.host.plan
    replica.sleep_failures = 0
    if replica.outdated or not host.sleeps:
        evict(replica, turn)
        return
    level = _sleep_level(replica, turn)
    if level is None:
        return
    replica.sleeps_to, replica.retry_at, replica.left_at = "sleeping", math.inf, turn.now
    replica.move("going_to_sleep")
    replica.slept_at_level = level
    if level != DROPPED:
        replica.host.ram.hold(replica)
    turn.actions.append(Sleep(replica.expert.id, host.id, level))


def _sleep_level(replica: Replica, turn: Turn) -> int | None:
    """The host's level, or 2 where its weights are worth less than what is in RAM already; None: wait until
    what is worth less has left."""
    ram, size = replica.host.ram, replica.weights_gb
    level = replica.host.plan.sleep_level
    if level == DROPPED or ram.takes(size):
        return level
    leaving = sum(gb for r, gb in ram.held.items() if r.state == "going_to_sleep" and r.sleeps_to == "cold")
    worth = ram_credit(replica, turn.now)
    chosen = ram_victims(ram, size - ram.free - leaving, turn.now, math.inf if replica.needed else worth)
    if chosen is None:
        return DROPPED
    for victim in chosen:
        _leave_ram(victim, turn)
    return level if ram.takes(size) else None


def make_room(host: HostState, size: float, turn: Turn) -> bool:
    """Room in RAM for weights that are read ahead, at the expense of others that were: who sleeps stays."""
    chosen = ram_victims(host.ram, size - host.ram.free, turn.now)
    if chosen is None or any(victim.state == "sleeping" for victim in chosen):
        return False
    for victim in chosen:
        _leave_ram(victim, turn)
    return True


def _leave_ram(replica: Replica, turn: Turn) -> None:
    turn.touch(replica.host)
    if replica.state == "sleeping":
        evict(replica, turn)
    else:
        replica.forget_ram()
        turn.actions.append(Release(replica.expert.id, replica.host.plan.id))


def _keep_ram(host: HostState, turn: Turn) -> None:
    """Send out what a smaller budget has no room for, and put away who waited for room in RAM."""
    ram = host.ram
    if not math.isfinite(ram.budget):
        return
    leaving = sum(gb for r, gb in ram.held.items() if r.state == "going_to_sleep" and r.sleeps_to == "cold")
    for victim in ram_victims(ram, -ram.free - leaving, turn.now) or ():
        _leave_ram(victim, turn)
    for replica in [r for r in host.residents.values() if r.state == "draining" and not r.running]:
        put_away(replica, turn)


def evict(replica: Replica, turn: Turn) -> None:
    """Order that nothing of the expert stays. ``retry_at`` is inf until the order is answered."""
    replica.sleeps_to, replica.retry_at, replica.left_at = "cold", math.inf, turn.now
    slept = replica.state == "sleeping"
    replica.move("going_to_sleep")
    if slept:
        replica.held = 0.0  # Only RAM is freed: it has left the accelerator before.
    turn.actions.append(Evict(replica.expert.id, replica.host.plan.id))


def _forget(replica: Replica, turn: Turn) -> None:
    if replica.ahead in ("reading", "read"):
        _leave_ram(replica, turn)
    replica.expert.replicas.pop(replica.host.plan.id, None)
    replica.host.replicas.pop(replica.expert.id, None)
    replica.host.expected.pop(replica.expert.id, None)
    replica.host.waiting.pop(replica.expert.id, None)
    replica.host.retrying.pop(replica.expert.id, None)
    replica.expert.recount()
