"""The requests that wait for one expert: by deadline class, those that can still be in time apart.

What a queue is worth is asked when a place is free, of its next frame only. Times in seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from coe.core.types import DeadlineClass, ExpertId, RequestId
from coe.scheduler.plan import ClassPlan

SPREAD = 3
"""How sharply run times lie around their mean: an answer is there after ``t`` with the chance
``t**3 / (t**3 + run_s**3)``."""
Age = tuple[float, int]
"""Since when a request has waited, and its number among those that came at the same time: the smaller, the
older."""
NOBODY: Age = (math.inf, 0)
DEFERRED_SLOS = 0.25
"""What is gained by serving a queue now is counted against serving it so many SLOs later."""


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
    """What it is worth to serve a queue now. ``saved``: how many more of its requests will probably be in
    time than if it were served a little later; ``late``: how many will probably not be in time even now."""

    saved: float = 0.0
    late: float = 0.0


@dataclass(slots=True)
class Lane:
    """The waiting requests of one deadline class, oldest first.

    ``timely`` (from ``start`` on, with their times beside them) were not yet late when last looked at;
    ``late`` were: even granted at once they would have missed their SLO.
    """

    plan: ClassPlan
    timely: list[Waiter] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    start: int = 0
    late: OrderedDict[RequestId, Waiter] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self.timely) - self.start + len(self.late)

    @property
    def oldest(self) -> float:
        first = self.first()
        return first.since if first else math.inf

    @property
    def age(self) -> Age:
        """Of who has waited longest."""
        first = self.first()
        return (first.since, first.number) if first else NOBODY

    def first(self) -> Waiter | None:
        """Who has waited longest."""
        timely = self.timely[self.start] if self.start < len(self.timely) else None
        late = next(iter(self.late.values())) if self.late else None
        if timely and late:
            return late if late.since <= timely.since else timely
        return late or timely

    def add(self, waiter: Waiter) -> None:
        place = bisect_right(self.times, waiter.since, self.start)
        self.timely.insert(place, waiter)
        self.times.insert(place, waiter.since)

    def remove(self, waiter: Waiter) -> None:
        if self.late.pop(waiter.request, None):
            return
        place = bisect_left(self.times, waiter.since, self.start)
        while self.timely[place] is not waiter:
            place += 1
        if place == self.start:
            self._advance()
        else:
            del self.timely[place], self.times[place]

    def look(self, now: float, run_s: float) -> None:
        """Note which requests have become late: they would not be in time any more if granted ``now``."""
        horizon = now + run_s - self.plan.slo_s
        while self.start < len(self.timely) and self.times[self.start] < horizon:
            waiter = self.timely[self.start]
            self.late[waiter.request] = waiter
            self._advance()

    def worth(self, start_at: float, run_s: float, most: int) -> Worth:
        """Of the first ``most`` of those not yet late, if they started at ``start_at``."""
        slo_s = self.plan.slo_s
        deferred_s, spread = DEFERRED_SLOS * slo_s, run_s**SPREAD
        in_time = later = 0.0
        times = self.times[self.start : self.start + most]
        for since in times:
            slack = since + slo_s - start_at
            if slack > 0.0:
                grown = slack**SPREAD
                in_time += grown / (grown + spread)
                slack -= deferred_s
                if slack > 0.0:
                    grown = slack**SPREAD
                    later += grown / (grown + spread)
        return Worth(in_time - later, len(times) - in_time)

    def _advance(self) -> None:
        self.start += 1
        if self.start > 32 and self.start * 2 > len(self.timely):
            del self.timely[: self.start], self.times[: self.start]
            self.start = 0


PRESSING_SLOS = 1.6
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

    def overdue_age(self, now: float) -> Age:
        """Of the longest-waiting of the overdue; ``NOBODY`` when nobody is overdue."""
        longest = NOBODY
        for lane in self.lanes.values():  # A loop: this is asked of every queue at every decision.
            age = lane.age
            if age < longest and age[0] + lane.plan.ageing_s <= now:
                longest = age
        return longest

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

    def worth(self, now: float, bring_s: float, run_s: float, most: int) -> Worth:
        """Of ``most`` of them at most, those that can be in time first, if they started ``bring_s`` from
        now."""
        saved = late = 0.0
        for lane in self.lanes.values():
            lane.look(now, run_s)
            worth = lane.worth(now + bring_s, run_s, most)
            saved, late = saved + worth.saved, late + worth.late
            most -= min(most, len(lane.timely) - lane.start)
        return Worth(saved, late + min(most, sum(len(lane.late) for lane in self.lanes.values())))

    def next(self, now: float, run_s: float, timely_first: bool) -> Waiter:
        """Who is served next: the overdue in order of age; then those who can be in time, the earliest
        deadline first; then the late. Without ``timely_first`` whoever has waited longest."""
        lanes = [lane for lane in self.lanes.values() if len(lane)]
        if not timely_first:
            return _first(min(lanes, key=lambda lane: lane.age))
        overdue = [lane for lane in lanes if lane.oldest + lane.plan.ageing_s <= now]
        if overdue:
            return _first(min(overdue, key=lambda lane: lane.age))
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
