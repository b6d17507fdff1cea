"""Experts with their queues, hosts with what they hold, and the replicas between them.

Only the scheduler changes these objects; policies see them through the read-only protocols in
:mod:`coe.scheduler.policies`. Times in seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from coe.core.types import ExpertId, RequestId, WakeFrom
from coe.scheduler.estimates import Cost, Costs, MovingMean, Rate
from coe.scheduler.events import HostId
from coe.scheduler.plan import EPSILON, HostPlan
from coe.scheduler.queue import NOBODY, Age, Queue, Waiter, Worth

State = Literal["cold", "sleeping", "loading", "awake", "draining", "going_to_sleep"]
AT_REST: frozenset[State] = frozenset({"cold", "sleeping"})
DROPPED = 2
"""The sleep level that does not keep the weights in RAM."""


@dataclass(slots=True, eq=False)
class ExpertState:
    """An expert and its queue.

    ``legs``: those that wait or are expected, by group. ``stealable``: requests that wait elsewhere and may
    be served here. ``retiring``: not in the plan any more, only its queue is still served. ``supply``: batch
    capacity of the replicas that serve it. The figures of the queue are copies: they are read far more often
    than the queue changes.
    """

    id: ExpertId
    queue: Queue
    replicas: dict[HostId, Replica] = field(default_factory=dict)
    run: MovingMean = field(default_factory=lambda: MovingMean(1.0))
    rate: Rate = field(default_factory=Rate)
    legs: Counter[RequestId] = field(default_factory=Counter)
    stealable: dict[RequestId, None] = field(default_factory=dict)
    expected: int = 0
    retiring: bool = False
    queued: int = 0
    oldest: float = math.inf
    overdue_at: float = math.inf
    pressing_at: float = math.inf
    supply: int = 0

    @property
    def run_s(self) -> float:
        return self.run.value

    @property
    def groups(self) -> AbstractSet[RequestId]:
        return self.legs.keys()

    def worth(self, now: float, bring_s: float, most: int) -> Worth:
        return self.queue.worth(now, bring_s, self.run.value, most)

    def overdue_age(self, now: float) -> Age:
        return NOBODY if now < self.overdue_at else self.queue.overdue_age(now)

    def rate_at(self, now: float) -> float:
        return self.rate.at(now)

    def push(self, waiter: Waiter) -> None:
        self.queue.add(waiter)
        if waiter.group is not None:
            self.legs[waiter.group] += 1
        self._count()

    def pop(self, request: RequestId) -> Waiter:
        waiter = self.queue.remove(request)
        if waiter.group is not None:
            self.leave_group(waiter.group)
        self._count()
        for replica in self.replicas.values():
            replica.frame_left = min(replica.frame_left, self.queued)
        return waiter

    def leave_group(self, group: RequestId) -> None:
        self.legs[group] -= 1
        if not self.legs[group]:
            del self.legs[group]

    def recount(self) -> None:
        """Bring ``supply`` up to date after a change of a replica."""
        self.supply = sum(r.max_running for r in self.replicas.values() if r.serves)

    @property
    def has_batch_room(self) -> bool:
        """Whether a request that came now would not have to wait."""
        return not self.queued and any(r.has_batch_room for r in self.replicas.values())

    def quarantined_until(self, now: float) -> float | None:
        """When it may be tried again, if it may not be tried on any host now."""
        replicas = [r for r in self.replicas.values() if not r.retired]
        if not replicas or not all(r.health.quarantined and now < r.retry_at for r in replicas):
            return None
        return min(r.retry_at for r in replicas)

    def _count(self) -> None:
        had, self.queued = self.queued, len(self.queue)
        self.oldest, self.overdue_at = self.queue.oldest, self.queue.overdue_at
        self.pressing_at = self.queue.pressing_at
        if bool(had) == bool(self.queued):
            return
        for replica in self.replicas.values():
            replica.list_waiting()


@dataclass(slots=True)
class Bringing:
    """The last load or wake, which is under way while its replica is loading. ``cost``: what it was expected
    to take, and learns from it. ``count``: how many have succeeded."""

    started: float = -math.inf
    source: WakeFrom = "cold"
    cost: Cost | None = None
    count: int = 0


@dataclass(slots=True)
class Leaving:
    """The last sleep or eviction, which is under way while its replica is going to sleep. ``failures`` in
    a row."""

    started: float = -math.inf
    to: Literal["cold", "sleeping"] = "cold"
    level: int = 1
    failures: int = 0


@dataclass(slots=True)
class ReadAhead:
    """Whether a cold replica's weights are read into RAM before it is loaded."""

    state: Literal["no", "reading", "read", "failed"] = "no"
    started: float = -math.inf


@dataclass(slots=True)
class Health:
    """Failed loads and crashes since it last answered a request. ``quarantined``: too many in a row."""

    failures: int = 0
    quarantined: bool = False


@dataclass(slots=True, eq=False)
class Replica:
    """One expert on one host.

    Its states, and the functions that move it from one to another (hosts that have every expert awake for
    good are left out):

          start_load             _ready
    cold -------------> loading ----------> awake <--------.
     ^ ^                 |  ^                 | drain      | withdraw
     | |     _failed     |  |                 | _failed    | _stay
     | '-----------------'  |                 v            |
     |                      |              draining -------'
     |      put_away        |                 |  |
     |<---------------------|-----------------'  | put_away
     |                      |                    v evict
     |      _slept          |             going_to_sleep
     |<---------------------|-----------------'  |  ^
            _sleep_failed   |             _slept |  | evict
                            |                    v  |
                            '----------------- sleeping
                                 start_load

    =============== =============== =============== ====================================================
    from            to              by              when
    =============== =============== =============== ====================================================
    cold            loading         start_load      its room is free: Load is ordered
    sleeping        loading         start_load      its room is free: Wake is ordered
    loading         awake           _ready          Ready: it takes requests from now on
    loading         cold            _failed         Failed(load): it is tried again later
    awake           draining        drain           another expert gets its room, or the plan drops it
    awake           draining        _failed         Failed(run): it crashed
    draining        awake           withdraw        the expert it makes room for is not wanted any more
    draining        awake           _stay           the plan has it again
    draining        going_to_sleep  put_away        its last lease is back: Sleep is ordered
    draining        going_to_sleep  evict           its last lease is back: Evict is ordered
    draining        cold            put_away        its last lease is back, and nothing of it is left
    going_to_sleep  sleeping        _slept          Slept, after Sleep
    going_to_sleep  cold            _slept          Slept, after Evict
    going_to_sleep  cold            _sleep_failed   Failed(sleep) once too often: its room counts as free
    sleeping        going_to_sleep  evict           its RAM is needed, or the plan drops it: Evict is ordered
    cold            awake           _new_replica    its host has every expert awake for good
    =============== =============== =============== ====================================================

    What it may have in each state besides ``quarantined``, which only an answer ends:

    =============== ====================================================================================
    state           may have
    =============== ====================================================================================
    cold            committed, read
    sleeping        committed
    loading         held, read, retired, stale
    awake           held, running, frame_left
    draining        held, running, retired, stale, crashed
    going_to_sleep  held, retired, stale
    =============== ====================================================================================

    ``committed``: it will be loaded as soon as its victims have left. ``crashed``: it was lost with leases
    out. ``retired``: the plan no longer has this pair. ``stale``: what is in memory is its former content.
    ``held``: room that it takes on the host. ``frame_left``: how many of those who waited when it came it
    still owes an answer. ``retry_at``: it is left alone until then.
    """

    expert: ExpertState
    host: HostState
    costs: Costs
    max_running: int
    footprint: float
    weights_gb: float = 0.0
    content: str = ""

    state: State = "cold"
    committed: bool = False
    crashed: bool = False
    retired: bool = False
    stale: bool = False

    held: float = 0.0
    running: int = 0
    frame_left: int = 0
    ready_at: float = -math.inf
    used_at: float = -math.inf
    retry_at: float = -math.inf

    bringing: Bringing = field(default_factory=Bringing)
    leaving: Leaving = field(default_factory=Leaving)
    read: ReadAhead = field(default_factory=ReadAhead)
    health: Health = field(default_factory=Health)

    @property
    def load_s(self) -> float:
        """Expected cost of bringing it in from where it is (or was, when it is in)."""
        return self.load_cost.mean

    @property
    def load_cost(self) -> Cost:
        if self.state == "loading" and self.bringing.cost is not None:
            return self.bringing.cost
        origin = self.state if self.state in AT_REST else self.bringing.source
        if origin == "sleeping":
            return self.costs.wake_dropped if self.leaving.level == DROPPED else self.costs.wake
        return self.costs.load_read if self.read.state == "read" else self.costs.load

    @property
    def needed(self) -> bool:
        """Whether somebody waits for it, or has announced a request."""
        return self.committed or self.expert.queued > 0 or self.expert.expected > 0

    @property
    def serves(self) -> bool:
        return not self.retired and (self.committed or self.state in ("loading", "awake"))

    @property
    def outdated(self) -> bool:
        """Whether what it has in memory must go and may not only be put to sleep."""
        return self.retired or self.stale or self.expert.retiring

    @property
    def awake(self) -> bool:
        return self.state == "awake"

    def loadable(self, now: float) -> bool:
        at_rest = self.state in AT_REST and not self.committed and not self.retired
        return at_rest and self.retry_at <= now

    @property
    def has_batch_room(self) -> bool:
        return self.state == "awake" and self.running < self.max_running and self.host.has_batch_room

    def retry(self, moment: float) -> None:
        """Leave it alone until ``moment``."""
        self.retry_at = moment
        self.host.retrying[self.expert.id] = self

    def forgive(self) -> None:
        """Its former content failed; that says nothing of another one."""
        self.health = Health()
        if self.state in AT_REST:
            self.retry_at = -math.inf

    def move(self, state: State) -> None:
        """Change state and with it the host's residents and the expert's supply."""
        self.state = state
        if state == "cold":
            self.stale = False
        if state in ("cold", "awake"):
            self.forget_ram()
        if state in AT_REST:
            self.held = 0.0
            self.host.residents.pop(self.expert.id, None)
        elif self.expert.id not in self.host.residents:
            self.held = self.footprint
            self.host.residents[self.expert.id] = self
        if state != "awake":
            self.frame_left = 0
        self.expert.recount()

    def forget_ram(self) -> None:
        """Its weights are not in RAM any more, or not for the scheduler to count."""
        self.read.state = "no"
        self.host.ram.drop(self)

    def list_waiting(self) -> None:
        """Keep the host's list of replicas with work true."""
        if self.expert.queued and not self.retired:
            self.host.waiting[self.expert.id] = self
        else:
            self.host.waiting.pop(self.expert.id, None)


@dataclass(slots=True)
class Commitment:
    """A load that waits for its victims to leave."""

    replica: Replica
    victims: tuple[Replica, ...]


@dataclass(slots=True, eq=False)
class HostState:
    """A host, its replicas that hold room (``residents``), those with work (``waiting``) and those that
    failed and may be tried again later (``retrying``). ``reads``: experts with a Prefetch that is not
    answered yet. ``retired``: not in the plan any more. ``leavers``: some replicas must be put away for good.
    """

    plan: HostPlan
    ram: Ram
    replicas: dict[ExpertId, Replica] = field(default_factory=dict)
    residents: dict[ExpertId, Replica] = field(default_factory=dict)
    waiting: dict[ExpertId, Replica] = field(default_factory=dict)
    retrying: dict[ExpertId, Replica] = field(default_factory=dict)
    expected: dict[ExpertId, Replica] = field(default_factory=dict)
    reads: set[ExpertId] = field(default_factory=set)
    commitments: list[Commitment] = field(default_factory=list)
    running: int = 0
    wake_at: float = math.inf
    retired: bool = False
    leavers: bool = False

    @property
    def has_batch_room(self) -> bool:
        return self.plan.max_running is None or self.running < self.plan.max_running

    def at_rest(self, only_for_waiting: bool) -> bool:
        """Whether there is plainly nothing to decide: nobody waits, and nothing moves or has to leave. A
        policy that does not act ``only_for_waiting`` is asked even then, unless all are awake for good."""
        if self.waiting or self.retrying or self.leavers or not math.isinf(self.wake_at):
            return False
        if any(r.state != "awake" or r.expert.stealable for r in self.residents.values()):
            return False
        moves = self.expected or self.commitments or self.ram.free < 0
        return self.plan.always_awake or (only_for_waiting and not moves)

    @property
    def free(self) -> float:
        """Capacity that nobody holds now."""
        return self.plan.capacity - sum(r.held for r in self.residents.values())

    @property
    def room(self) -> float:
        """Capacity that is free once all that leaves has left and all that is promised has come."""
        leaving = sum(r.held for r in self.residents.values() if r.state in ("draining", "going_to_sleep"))
        return self.free + leaving - sum(c.replica.footprint for c in self.commitments)


@dataclass(slots=True, eq=False)
class Ram:
    """Who holds how much of ``budget``, from the order to sleep or read to weights awake or gone."""

    budget: float = math.inf
    held: dict[Replica, float] = field(default_factory=dict)

    @property
    def free(self) -> float:
        return self.budget - sum(self.held.values())

    @property
    def reading(self) -> bool:
        return any(replica.read.state == "reading" for replica in self.held)

    def takes(self, size: float) -> bool:
        return size <= self.free + EPSILON

    def hold(self, replica: Replica) -> None:
        self.held[replica] = replica.weights_gb

    def drop(self, replica: Replica) -> None:
        self.held.pop(replica, None)
