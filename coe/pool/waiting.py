"""The requests that wait for one expert: by deadline class, those that can still be in time apart.

What a queue is worth to serve is asked far more often than it changes, so counts and sums are kept, and a
question costs the logarithm of its length at most. Times in seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from coe.pool.plan import ClassPlan
from coe.types import DeadlineClass, ExpertId, RequestId

HEAD_START_S = 0.5


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request in the queue of ``expert``. ``since`` is when its client began to wait: for a later leg of
    a group that is before it ``arrived``. ``number`` orders those that came at the same time."""

    request: RequestId
    expert: ExpertId
    arrived: float
    since: float
    number: int
    deadline_class: DeadlineClass = "standard"
    group: RequestId | None = None
    alternatives: tuple[ExpertId, ...] = ()


@dataclass(frozen=True, slots=True)
class Worth:
    """What a queue holds: ``timely`` requests that would be in time, ``late`` ones that would not. In units
    of their SLO: the squared waits of the timely, summed, and how late the late are together (``overdue``).
    """

    timely: float = 0.0
    late: float = 0.0
    overdue: float = 0.0
    squared_waits: float = 0.0


@dataclass(slots=True)
class Lane:
    """The waiting requests of one deadline class, oldest first.

    ``timely`` (from ``start`` on, with their times beside them) were not yet late when last looked at;
    ``late`` were: even granted at once they would have missed their SLO. The sums are of times since
    ``origin``, which keeps them small.
    """

    plan: ClassPlan
    timely: list[Waiter] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    start: int = 0
    origin: float = 0.0
    times_sum: float = 0.0
    squares_sum: float = 0.0
    late: OrderedDict[RequestId, Waiter] = field(default_factory=OrderedDict)
    late_sum: float = 0.0

    def __len__(self) -> int:
        return len(self.timely) - self.start + len(self.late)

    @property
    def oldest(self) -> float:
        first = self.first()
        return first.since if first else math.inf

    def first(self) -> Waiter | None:
        """Who has waited longest."""
        timely = self.timely[self.start] if self.start < len(self.timely) else None
        late = next(iter(self.late.values())) if self.late else None
        if timely and late:
            return late if late.since <= timely.since else timely
        return late or timely

    def add(self, waiter: Waiter) -> None:
        if not len(self):
            self.origin, self.times_sum, self.squares_sum = waiter.since, 0.0, 0.0
        place = bisect_right(self.times, waiter.since, self.start)
        self.timely.insert(place, waiter)
        self.times.insert(place, waiter.since)
        self._count(waiter.since, 1.0)

    def remove(self, waiter: Waiter) -> None:
        if self.late.pop(waiter.request, None):
            self.late_sum -= waiter.since
        else:
            place = bisect_left(self.times, waiter.since, self.start)
            while self.timely[place] is not waiter:
                place += 1
            self._count(waiter.since, -1.0)
            if place == self.start:
                self._advance()
            else:
                del self.timely[place], self.times[place]
        if not self.late:
            self.late_sum = 0.0

    def look(self, now: float, run_s: float) -> None:
        """Note which requests have become late: they would not be in time any more if granted ``now``."""
        horizon = now + run_s - self.plan.slo_s
        while self.start < len(self.timely) and self.times[self.start] < horizon:
            waiter = self.timely[self.start]
            self.late[waiter.request] = waiter
            self.late_sum += waiter.since
            self._count(waiter.since, -1.0)
            self._advance()

    def worth(self, now: float, done_at: float) -> Worth:
        """Of all its requests, if they were answered at ``done_at``."""
        slo_s = self.plan.slo_s
        missed = bisect_left(self.times, done_at - slo_s, self.start) - self.start
        timely = len(self.timely) - self.start - missed
        late = len(self.late) + missed
        overdue = max(0.0, len(self.late) * (now - slo_s) - self.late_sum) / slo_s
        return Worth(timely, late, overdue, self._squared_waits(now, missed) / slo_s**2)

    def _squared_waits(self, now: float, missed: int) -> float:
        """Of those that would be in time; a trifle more than they have waited, so that newcomers count."""
        count = len(self.timely) - self.start
        now += HEAD_START_S - self.origin
        total = count * now * now - 2.0 * now * self.times_sum + self.squares_sum
        if missed:  # The first ones: estimated by the longest and the shortest wait among them.
            longest = now + self.origin - self.times[self.start]
            shortest = now + self.origin - self.times[self.start + missed - 1]
            total -= missed * (longest * longest + shortest * shortest) / 2.0
        return max(0.0, total)

    def _count(self, since: float, sign: float) -> None:
        since -= self.origin
        self.times_sum += sign * since
        self.squares_sum += sign * since * since

    def _advance(self) -> None:
        self.start += 1
        if self.start > 32 and self.start * 2 > len(self.timely):
            del self.timely[: self.start], self.times[: self.start]
            self.start = 0


PRESSING_SLOS = 1.5
"""Waits of so many SLOs press: past the SLO itself, so that those who can be in time go first a while."""


@dataclass(slots=True)
class Queue:
    """All requests that wait for one expert. ``plans`` has the SLO and ageing of each class."""

    plans: Mapping[DeadlineClass, ClassPlan]
    lanes: dict[DeadlineClass, Lane] = field(default_factory=dict)
    waiters: dict[RequestId, Waiter] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.waiters)

    @property
    def oldest(self) -> float:
        """When the first of them began to wait; ``inf`` when nobody does."""
        return min((lane.oldest for lane in self.lanes.values()), default=math.inf)

    @property
    def overdue_at(self) -> float:
        """When the first of them has waited so long that it goes before everything else."""
        return min((lane.oldest + lane.plan.ageing_s for lane in self.lanes.values()), default=math.inf)

    @property
    def pressing_at(self) -> float:
        """When the first of them is so late that its expert is next in line."""
        pressing = (lane.oldest + PRESSING_SLOS * lane.plan.slo_s for lane in self.lanes.values())
        return min(pressing, default=math.inf)

    def add(self, waiter: Waiter) -> None:
        lane = self.lanes.get(waiter.deadline_class)
        if lane is None:
            lane = self.lanes[waiter.deadline_class] = Lane(self.plans[waiter.deadline_class])
        lane.add(waiter)
        self.waiters[waiter.request] = waiter

    def remove(self, request: RequestId) -> Waiter:
        waiter = self.waiters.pop(request)
        self.lanes[waiter.deadline_class].remove(waiter)
        return waiter

    def worth(self, now: float, done_at: float, run_s: float) -> Worth:
        total = Worth()
        for lane in self.lanes.values():
            lane.look(now, run_s)
            worth = lane.worth(now, done_at)
            total = worth if len(self.lanes) == 1 else _sum(total, worth)
        return total

    def next(self, now: float, run_s: float, timely_first: bool) -> Waiter:
        """Who is served next: the overdue in order of age; then those who can be in time, the earliest
        deadline first; then the late. Without ``timely_first`` whoever has waited longest."""
        lanes = [lane for lane in self.lanes.values() if len(lane)]
        if not timely_first:
            return _first(min(lanes, key=lambda lane: lane.oldest))
        if self.overdue_at <= now:
            return _first(min(lanes, key=lambda lane: lane.oldest + lane.plan.ageing_s))
        for lane in lanes:
            lane.look(now, run_s)
        timely = [lane for lane in lanes if lane.start < len(lane.timely)]
        if timely:
            lane = min(timely, key=lambda lane: lane.times[lane.start] + lane.plan.slo_s)
            return lane.timely[lane.start]
        return _first(min(lanes, key=lambda lane: lane.oldest + lane.plan.slo_s))


def _first(lane: Lane) -> Waiter:
    first = lane.first()
    if first is None:
        raise LookupError("an empty lane has nobody to serve")
    return first


def _sum(one: Worth, other: Worth) -> Worth:
    return Worth(
        one.timely + other.timely,
        one.late + other.late,
        one.overdue + other.overdue,
        one.squared_waits + other.squared_waits,
    )
