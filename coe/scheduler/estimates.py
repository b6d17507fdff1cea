"""What the scheduler learns from what it sees: what swaps and runs take, and how often experts are wanted."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from itertools import combinations

from coe.core.types import ExpertId
from coe.scheduler.events import HostId

Pair = tuple[ExpertId, ExpertId]
"""Two experts, in the order of their names."""
LEARNING_RATE = 0.2
"""Weight of the newest observation in a moving mean."""
WINDOW = 20
"""How many of the last observations a percentile is of."""
FADING = 0.999
"""What is left of an extreme at the next observation."""
RATE_HORIZON_S = 60.0
"""How far back arrivals count in a rate; older ones fade."""


@dataclass(slots=True)
class MovingMean:
    """Follows the first observation at once, later ones slowly."""

    value: float
    seen: bool = False

    def add(self, observation: float) -> None:
        rate = LEARNING_RATE if self.seen else 1.0
        self.value += rate * (observation - self.value)
        self.seen = True


@dataclass(slots=True)
class Observations:
    """What something took: a moving mean, and the 90th percentile of the last ``WINDOW`` times."""

    mean: float = 0.0
    p90: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, seconds: float) -> None:
        rate = LEARNING_RATE if self.recent else 1.0
        self.mean += rate * (seconds - self.mean)
        self.recent.append(seconds)
        self.p90 = sorted(self.recent)[math.ceil(0.9 * len(self.recent)) - 1]


@dataclass(slots=True)
class Cost:
    """What a transition of one expert on one host takes: as it was seen; until then as it was seen of its
    ``like`` (models of that size on that hardware); until then the first guess ``prior``. Seconds."""

    prior: float
    like: Observations = field(default_factory=Observations)
    own: Observations = field(default_factory=Observations)

    def add(self, seconds: float) -> None:
        self.own.add(seconds)
        self.like.add(seconds)

    @property
    def seen(self) -> bool:
        return bool(self.own.recent or self.like.recent)

    @property
    def mean(self) -> float:
        return self.own.mean if self.own.recent else self.like.mean if self.like.recent else self.prior

    @property
    def p90(self) -> float:
        return self.own.p90 if self.own.recent else self.like.p90 if self.like.recent else self.prior


@dataclass(slots=True)
class Costs:
    """Of all transitions of one expert on one host. A load after its weights were read ahead and a wake from
    level 2, whose weights are read again, are transitions of their own."""

    load: Cost
    load_read: Cost
    wake: Cost
    wake_dropped: Cost
    sleep: Cost
    read: Cost


@dataclass(slots=True)
class SharedCost:
    """Observations that experts of one kind share."""

    seen: dict[tuple[str, str, str], Observations] = field(default_factory=dict)

    def cost(self, transition: str, prior: float, size: str, hardware: str) -> Cost:
        """Without a ``size`` nothing is known to be like it."""
        if not size:
            return Cost(prior)
        return Cost(prior, self.seen.setdefault((transition, size, hardware), Observations()))


@dataclass(slots=True)
class Longest:
    """The longest run and the longest swap (sleep and load) recently; old extremes fade."""

    run_s: float = 1.0
    load_s: float = 0.0
    sleep_s: float = 0.0

    @property
    def swap_s(self) -> float:
        return self.load_s + self.sleep_s

    def ran(self, seconds: float) -> None:
        self.run_s = max(seconds, self.run_s * FADING)

    def loaded(self, seconds: float) -> None:
        self.load_s = max(seconds, self.load_s * FADING)

    def slept(self, seconds: float) -> None:
        self.sleep_s = max(seconds, self.sleep_s * FADING)


@dataclass(slots=True)
class Rate:
    """Arrivals a second, of the last ``RATE_HORIZON_S`` or so."""

    count: float = 0.0
    counted_at: float = 0.0

    def add(self, now: float) -> None:
        self.count = self._faded(now) + 1.0
        self.counted_at = now

    def at(self, now: float) -> float:
        return self._faded(now) / RATE_HORIZON_S

    def _faded(self, now: float) -> float:
        return self.count * math.exp((self.counted_at - now) / RATE_HORIZON_S) if self.count else 0.0


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
