"""The scheduler's books: experts with their queues, hosts with their residents, leases.

Only ``Scheduler`` changes these objects; policies see them through the read-only protocols in
:mod:`coe.scheduler.policies`. Times in seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from coe.core.types import ExpertId, RequestId, WakeFrom
from coe.scheduler.estimates import Cost, Costs, Longest, MovingMean, Rate, SharedCost
from coe.scheduler.events import HostId
from coe.scheduler.plan import EPSILON, ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.queue import NOBODY, Age, Queue, Waiter, Worth
from coe.scheduler.usage import UsageMeter

Ahead = Literal["no", "reading", "read", "failed"]
"""Whether a cold expert's weights are read ahead into RAM."""
State = Literal["cold", "sleeping", "loading", "awake", "draining", "going_to_sleep"]


AT_REST: frozenset[State] = frozenset({"cold", "sleeping"})
DROPPED = 2
"""The sleep level that does not keep the weights in RAM."""


@dataclass(slots=True)
class Lease:
    """``began``: see :meth:`UsageMeter.begin`."""

    replica: Replica
    granted: float
    group: RequestId | None = None
    began: float = 0.0


@dataclass(slots=True)
class Group:
    """A client's request with several legs. ``since``: when its first one came. ``experts``: that it got."""

    since: float
    legs: int = 0
    experts: set[ExpertId] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Expectation:
    """A lease that will be wanted."""

    expert: ExpertState
    group: RequestId | None


@dataclass(slots=True, eq=False)
class ExpertState:
    """An expert and its queue. ``legs``: those that wait or are expected, by group. ``named``: requests
    that wait elsewhere and may be served here. ``retiring``: not in the plan any more, only its queue is
    still served."""

    id: ExpertId
    queue: Queue
    replicas: dict[HostId, Replica] = field(default_factory=dict)
    run: MovingMean = field(default_factory=lambda: MovingMean(1.0))
    rate: Rate = field(default_factory=Rate)
    legs: Counter[RequestId] = field(default_factory=Counter)
    named: dict[RequestId, None] = field(default_factory=dict)
    expected: int = 0
    retiring: bool = False
    queued: int = 0
    oldest: float = math.inf
    overdue_at: float = math.inf
    pressing_at: float = math.inf
    arrivals_sum: float = 0.0
    arrived: int = 0
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
        self.arrivals_sum += waiter.since
        self.arrived += 1
        self._count()

    def pop(self, request: RequestId) -> Waiter:
        waiter = self.queue.remove(request)
        if waiter.group is not None:
            self.leave_group(waiter.group)
        self.arrivals_sum -= waiter.since
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
        if not replicas or not all(r.quarantined and now < r.retry_at for r in replicas):
            return None
        return min(r.retry_at for r in replicas)

    def _count(self) -> None:
        had, self.queued = self.queued, len(self.queue)
        self.oldest, self.overdue_at = self.queue.oldest, self.queue.overdue_at
        self.pressing_at = self.queue.pressing_at
        if not self.queued:
            self.arrivals_sum = 0.0
        if bool(had) == bool(self.queued):
            return
        for replica in self.replicas.values():
            replica.list_waiting()


@dataclass(slots=True, eq=False)
class Replica:
    """One expert on one host, made of ``content``.

    ``retired``: the plan no longer has this pair. ``crashed``: it was lost with leases out; its place is
    free when they are back. ``quarantined``: it failed too often in a row. ``committed``: it will be
    loaded as soon as its victims have left. ``stale``: what is in memory is its former content. ``bring``:
    the cost of the load or wake under way.
    """

    expert: ExpertState
    host: HostState
    max_running: int
    footprint: float
    costs: Costs
    weights_gb: float = 0.0
    state: State = "cold"
    ahead: Ahead = "no"
    slept_at_level: int = 1
    read_started: float = -math.inf
    running: int = 0
    held: float = 0.0
    frame_left: int = 0
    load_started: float = -math.inf
    ready_at: float = -math.inf
    used_at: float = -math.inf
    left_at: float = -math.inf
    loaded_from: WakeFrom = "cold"
    bring: Cost | None = None
    sleeps_to: Literal["cold", "sleeping"] = "cold"
    committed: bool = False
    crashed: bool = False
    retired: bool = False
    content: str = ""
    stale: bool = False
    quarantined: bool = False
    failures: int = 0
    retry_at: float = -math.inf
    sleep_failures: int = 0
    swaps: int = 0

    @property
    def load_s(self) -> float:
        """Expected cost of bringing it in from where it is (or was, when it is in)."""
        return self.load_cost.mean

    @property
    def load_cost(self) -> Cost:
        if self.state == "loading" and self.bring is not None:
            return self.bring
        origin = self.state if self.state in ("cold", "sleeping") else self.loaded_from
        if origin == "sleeping":
            return self.costs.wake_dropped if self.slept_at_level == DROPPED else self.costs.wake
        return self.costs.load_read if self.ahead == "read" else self.costs.load

    @property
    def needed(self) -> bool:
        """Whether somebody waits for it or announced that he will."""
        return self.committed or self.expert.queued > 0 or self.expert.expected > 0

    @property
    def serves(self) -> bool:
        return self.committed or self.state in ("loading", "awake")

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
    def leaving(self) -> bool:
        return self.state in ("draining", "going_to_sleep")

    @property
    def has_batch_room(self) -> bool:
        return self.state == "awake" and self.running < self.max_running and self.host.has_batch_room

    def retry(self, moment: float) -> None:
        """Leave it alone until ``moment``."""
        self.retry_at = moment
        self.host.retrying[self.expert.id] = self

    def forgive(self) -> None:
        """Its former content failed; that says nothing of another one."""
        self.failures, self.quarantined = 0, False
        if self.state in AT_REST:
            self.retry_at = -math.inf

    def move(self, state: State) -> None:
        """Change state and with it the host's residents and the expert's supply."""
        self.state = state
        if state == "cold":
            self.stale = False
        if state in ("cold", "awake"):
            self.forget_ram()
        if state in ("cold", "sleeping"):
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
        self.ahead = "no"
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
    answered yet; one that was loaded or given up meanwhile is answered all the same.

    ``retired``: no longer in the plan. ``leavers``: some of its replicas have to be put away for good.
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
    wave: float = -math.inf
    retired: bool = False
    leavers: bool = False

    @property
    def has_batch_room(self) -> bool:
        return self.plan.max_running is None or self.running < self.plan.max_running

    @property
    def at_rest(self) -> bool:
        """Whether there is plainly nothing to decide: all are awake for good, and nobody waits for them."""
        if not self.plan.always_awake or self.waiting or self.retrying or self.leavers:
            return False
        return math.isinf(self.wake_at) and not any(r.expert.named for r in self.residents.values())

    @property
    def free(self) -> float:
        """Capacity that nobody holds now."""
        return self.plan.capacity - sum(r.held for r in self.residents.values())

    @property
    def room(self) -> float:
        """Capacity that is free once all that leaves has left and all that is promised has come."""
        leaving = sum(r.held for r in self.residents.values() if r.leaving)
        return self.free + leaving - sum(c.replica.footprint for c in self.commitments)


def new_replica(expert: ExpertState, host: HostState, plan: ExpertPlan, likes: SharedCost) -> Replica:
    """A replica as the plan has it: cold, or awake where everything always is."""
    costs = _costs(plan, host.plan.hardware, likes)
    replica = Replica(expert, host, plan.max_running, plan.footprint, costs, plan.weights_gb)
    replica.content = plan.content
    expert.replicas[host.plan.id] = replica
    host.replicas[expert.id] = replica
    if host.plan.always_awake:
        replica.loaded_from = "awake"
        replica.move("awake")
    replica.list_waiting()
    return replica


def _costs(plan: ExpertPlan, hardware: str, likes: SharedCost) -> Costs:
    def cost(transition: str, prior: float) -> Cost:
        return likes.cost(transition, prior, plan.size, hardware)

    wake_s = plan.load_s if plan.wake_s is None else plan.wake_s
    return Costs(
        load=cost("load", plan.load_s),
        load_read=cost("load_read", plan.load_s),
        wake=cost("wake", wake_s),
        wake_dropped=cost("wake_dropped", wake_s),
        sleep=cost("sleep", plan.sleep_s),
        read=cost("read", 0.0),
    )


@dataclass(slots=True)
class SchedulerState:
    """Everything the scheduler knows. ``waiting`` and ``leases`` together are the requests in the pool."""

    plan: PoolPlan
    hosts: dict[HostId, HostState] = field(default_factory=dict)
    experts: dict[ExpertId, ExpertState] = field(default_factory=dict)
    waiting: dict[RequestId, ExpertState] = field(default_factory=dict)
    leases: dict[RequestId, Lease] = field(default_factory=dict)
    expected: dict[RequestId, Expectation] = field(default_factory=dict)
    groups: dict[RequestId, Group] = field(default_factory=dict)
    longest: Longest = field(default_factory=Longest)
    account: UsageMeter = field(default_factory=UsageMeter)
    likes: SharedCost = field(default_factory=SharedCost)
    rams: dict[str, Ram] = field(default_factory=dict)
    leavers: bool = False

    def replica(self, expert: ExpertId, host: HostId) -> Replica | None:
        state = self.experts.get(expert)
        return state.replicas.get(host) if state else None

    def forget_the_gone(self) -> None:
        """Drop experts and hosts that the plan no longer has and that hold nothing any more."""
        if not self.leavers:
            return
        for expert in [e for e in self.experts.values() if e.retiring and not e.replicas]:
            del self.experts[expert.id]
        for host in [h for h in self.hosts.values() if h.retired and not h.replicas]:
            del self.hosts[host.plan.id]
        self.leavers = any(h.retired or h.leavers for h in self.hosts.values())


@dataclass(slots=True, eq=False)
class Ram:
    """Who holds how much of ``budget``. A place is held from the order to sleep or to read until the weights
    are awake or gone, so the sum of what is held is never less than what is used."""

    budget: float = math.inf
    held: dict[Replica, float] = field(default_factory=dict)

    @property
    def free(self) -> float:
        return self.budget - sum(self.held.values())

    @property
    def reading(self) -> bool:
        return any(replica.ahead == "reading" for replica in self.held)

    def takes(self, size: float) -> bool:
        return size <= self.free + EPSILON

    def hold(self, replica: Replica) -> None:
        self.held[replica] = replica.weights_gb

    def drop(self, replica: Replica) -> None:
        self.held.pop(replica, None)


def credit(replica: Replica, now: float) -> float:
    """Landlord's credit: what losing its place in RAM will cost a second, for each GB of it. Arrivals of late
    stand for those to come."""
    costs = replica.costs
    saved = costs.read.mean if replica.state == "cold" else max(0.0, costs.load.mean - costs.wake.mean)
    return replica.expert.rate_at(now) * saved / (replica.weights_gb + EPSILON)


def victims(ram: Ram, missing: float, now: float, below: float = math.inf) -> Sequence[Replica] | None:
    """Whom to send out of RAM for ``missing`` more than is free, those of least credit first and none with
    ``below`` or more; None when that is not enough. Who is queued for, expected or promised stays."""
    chosen: list[Replica] = []
    if missing <= EPSILON:
        return chosen
    idle = [r for r in ram.held if r.state in ("cold", "sleeping") and r.ahead != "reading" and not r.needed]
    for replica in sorted(idle, key=lambda r: (credit(r, now), r.used_at)):
        if credit(replica, now) >= below:
            return None
        chosen.append(replica)
        missing -= ram.held[replica]
        if missing <= EPSILON:
            return chosen
    return None
