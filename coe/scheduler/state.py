"""Everything the scheduler knows: hosts and experts, who waits, who has a lease, and what was learned."""

from __future__ import annotations

from dataclasses import dataclass, field

from coe.core.types import ExpertId, RequestId
from coe.scheduler.estimates import Longest, SharedCost, UsageMeter
from coe.scheduler.events import HostId
from coe.scheduler.plan import PoolPlan
from coe.scheduler.replica import ExpertState, HostState, Ram, Replica


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
    usage: UsageMeter = field(default_factory=UsageMeter)
    shared_costs: SharedCost = field(default_factory=SharedCost)
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
