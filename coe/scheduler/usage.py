"""What work the hosts have done, for whom, and which experts requests used together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from itertools import combinations

from coe.core.types import ExpertId
from coe.scheduler.events import HostId

Pair = tuple[ExpertId, ExpertId]
"""Two experts, in the order of their names."""


@dataclass(frozen=True)
class WorkDone:
    """Sums since the pool began. ``work_s``: seconds of host time for each expert. ``together``: how many of
    the ``requests`` used both experts of a pair. ``load_s``: what a load of an expert from disk takes now."""

    work_s: Mapping[ExpertId, float] = field(default_factory=dict)
    together: Mapping[Pair, int] = field(default_factory=dict)
    requests: int = 0
    load_s: Mapping[ExpertId, float] = field(default_factory=dict)


@dataclass(slots=True)
class _SharedTime:
    """A host whose leases share its time equally. ``each_s``: the host time that one lease which was out from
    the start would have had until ``at``."""

    running: int = 0
    each_s: float = 0.0
    at: float = 0.0

    def until(self, now: float) -> float:
        return self.each_s + (now - self.at) / self.running if self.running else self.each_s

    def change(self, by: int, now: float) -> float:
        self.each_s, self.at = self.until(now), now
        self.running += by
        return self.each_s


@dataclass(slots=True)
class UsageMeter:
    """What the scheduler counts of the work that is done. Constant time for each lease.

    The time in which a host answers is shared equally among its leases: what an expert gets of it is work
    that would go with the expert to another host, however large the batches were.
    """

    _work_s: defaultdict[ExpertId, float] = field(default_factory=lambda: defaultdict(float))
    _together: Counter[Pair] = field(default_factory=Counter)
    _requests: int = 0
    _shared: defaultdict[HostId, _SharedTime] = field(default_factory=lambda: defaultdict(_SharedTime))

    def begin(self, host: HostId, now: float) -> float:
        """A lease on ``host`` is out; :meth:`end` is to be given the answer."""
        return self._shared[host].change(1, now)

    def end(self, expert: ExpertId, host: HostId, began: float, now: float) -> None:
        self._work_s[expert] += self._shared[host].change(-1, now) - began

    def share_s(self, host: HostId, began: float, now: float) -> float:
        """Of a lease that is still out."""
        return self._shared[host].until(now) - began

    def used(self, experts: Set[ExpertId]) -> None:
        """A request has ended that had leases on ``experts``."""
        self._requests += 1
        self._together.update(combinations(sorted(experts), 2))

    def so_far(
        self, under_way: Iterable[tuple[ExpertId, float]], load_s: Mapping[ExpertId, float]
    ) -> WorkDone:
        """``under_way``: what each lease that is still out has had, see :meth:`share_s`."""
        work_s = dict(self._work_s)
        for expert, seconds in under_way:
            work_s[expert] = work_s.get(expert, 0.0) + seconds
        return WorkDone(work_s, dict(self._together), self._requests, load_s)
