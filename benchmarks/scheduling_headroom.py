"""What knowing more would be worth: how much of the goodput gap a schedule closes that looks ahead.

    python -m benchmarks.scheduling_headroom --seeds 0,1     # load .9, experts drawn Zipf, all traces

When a slot is free, each of a few experts is tried: the next ``HORIZON_S`` seconds are played with that one
first and the rule of the policy ``coe`` after it. The first step of the best future is taken: that with most
requests in time, less those that end later than ``LATE_SLOS``. Three runs: with the rule alone; knowing the
run times of those that wait (which no service does); knowing all arrivals and run times to come. The last is
no bound (a longer search might find more), but one that guesses has less to choose by.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from coe.scheduler.queue import DEFERRED_SLOS, PRESSING_SLOS, SPREAD
from coe.simulate.cluster import Cluster
from coe.simulate.machine import batch_speed
from coe.simulate.runs import run_policy
from coe.simulate.workload import Workload

HORIZON_S, CANDIDATES, LATE_SLOS = 60.0, 5, 2.0
PRESSING_AHEAD_SLOS = 1.8
"""From here on the longest waiting goes first, whatever the look ahead says: that is what bounds p99."""
LATE_WORTH = 0.25

Knows = Literal["nothing", "queue", "future"]


@dataclass(frozen=True)
class Known:
    """The requests and what swaps take."""

    workload: Workload
    slo_s: float
    load_s: float
    sleep_s: float
    batch: int


@dataclass
class Slot:
    """``running``: work left (seconds at batch 1), request and grant of each lease."""

    expert: str = ""
    ready_at: float = 0.0
    running: list[tuple[float, int, float]] = field(default_factory=list)


@dataclass
class World:
    """Both slots, the queues in order of arrival, and mean run times as the scheduler learns them."""

    known: Known
    slots: list[Slot]
    now: float = 0.0
    next: int = 0
    queues: dict[str, list[int]] = field(default_factory=dict)
    run_s: dict[str, float] = field(default_factory=dict)
    ended: list[tuple[int, float]] = field(default_factory=list)

    def fork(self) -> World:
        other = copy.copy(self)
        other.slots = [Slot(s.expert, s.ready_at, list(s.running)) for s in self.slots]
        other.queues = {expert: list(queue) for expert, queue in self.queues.items() if queue}
        other.run_s, other.ended = dict(self.run_s), []
        return other

    def play(self, until: float, last: int, ahead: LookAhead | None) -> None:
        """Events up to ``until``, of requests before ``last``."""
        arrivals, experts = self.known.workload.arrivals, self.known.workload.experts
        while True:
            arrival = arrivals[self.next] if self.next < last else math.inf
            at, slot = min(((self._next_at(s), i) for i, s in enumerate(self.slots)), default=(math.inf, 0))
            if min(at, arrival) > until or min(at, arrival) == math.inf:
                return
            self._advance(min(at, arrival))
            if arrival <= at:
                self.queues.setdefault(experts[self.next], []).append(self.next)
                self.next += 1
            else:
                self._end(self.slots[slot])
            self.decide(ahead)

    def decide(self, ahead: LookAhead | None) -> None:
        for slot in self.slots:
            self._grant(slot)
        for slot in self.slots:
            if slot.ready_at > self.now or slot.running:
                continue
            wanted = self.wanted()
            if wanted:
                chosen = ahead.choose(self, slot, wanted) if ahead else self.best(wanted)
                self.bring(slot, chosen)

    def bring(self, slot: Slot, expert: str) -> None:
        known = self.known
        slot.ready_at = self.now + known.load_s + (known.sleep_s if slot.expert else 0.0)
        slot.expert = expert

    def wanted(self) -> list[str]:
        """Experts with work that have no slot; where there are none, those whose slots are full."""
        there = [slot.expert for slot in self.slots]
        waiting = [expert for expert, queue in self.queues.items() if queue]
        alone = [expert for expert in waiting if expert not in there]
        batch = self.known.batch
        return alone or [e for e in waiting if len(self.queues[e]) > batch * there.count(e)]

    def best(self, wanted: Sequence[str], pressing: float = PRESSING_SLOS) -> str:
        """As the policy ``coe`` chooses."""
        oldest = min(wanted, key=self.oldest)
        if self.now - self.oldest(oldest) >= pressing * self.known.slo_s:
            return oldest
        return max(wanted, key=lambda e: (self.density(e), -self.oldest(e)))

    def oldest(self, expert: str) -> float:
        return self.known.workload.arrivals[self.queues[expert][0]]

    def density(self, expert: str) -> float:
        run_s, known = self.run_s.get(expert, 1.0), self.known
        spread, due = run_s**SPREAD, known.slo_s - known.load_s - self.now
        saved = late = 0.0
        for request in self.queues[expert]:
            slack = known.workload.arrivals[request] + due
            in_time, later = _chance(slack, spread), _chance(slack - DEFERRED_SLOS * known.slo_s, spread)
            saved, late = saved + in_time - later, late + 1.0 - in_time
        return (saved + LATE_WORTH * late) / (known.load_s + run_s)

    def _next_at(self, slot: Slot) -> float:
        if slot.ready_at > self.now:
            return slot.ready_at
        if not slot.running:
            return math.inf
        return self.now + min(slot.running)[0] / batch_speed(len(slot.running))

    def _advance(self, to: float) -> None:
        for slot in self.slots:
            if slot.running and slot.ready_at <= self.now:
                done = (to - self.now) * batch_speed(len(slot.running))
                slot.running = [(left - done, request, since) for left, request, since in slot.running]
        self.now = to

    def _end(self, slot: Slot) -> None:
        over = [lease for lease in slot.running if lease[0] <= 1e-9]
        slot.running = [lease for lease in slot.running if lease[0] > 1e-9]
        for _, request, since in over:
            self.ended.append((request, self.now))
            mean = self.run_s.get(slot.expert)
            took = self.now - since
            self.run_s[slot.expert] = took if mean is None else mean + 0.2 * (took - mean)

    def _grant(self, slot: Slot) -> None:
        """Those who can be in time first, the oldest of them first."""
        queue = self.queues.get(slot.expert)
        while queue and slot.ready_at <= self.now and len(slot.running) < self.known.batch:
            horizon = self.now + self.run_s.get(slot.expert, 1.0) - self.known.slo_s
            arrivals = self.known.workload.arrivals
            place = next((i for i, r in enumerate(queue) if arrivals[r] >= horizon), 0)
            request = queue.pop(place)
            slot.running.append((self.known.workload.work[request], request, self.now))


@dataclass(frozen=True)
class LookAhead:
    """``last``: requests that are looked at; None: those that have come."""

    last: int | None

    def choose(self, world: World, slot: Slot, wanted: Sequence[str]) -> str:
        usual = world.best(wanted, PRESSING_AHEAD_SLOS)
        if len(wanted) == 1 or world.now - world.oldest(usual) >= PRESSING_AHEAD_SLOS * world.known.slo_s:
            return usual
        ranked = sorted(wanted, key=lambda e: (e != usual, -world.density(e)))[:CANDIDATES]
        return max(ranked, key=lambda expert: self._value(world, world.slots.index(slot), expert))

    def _value(self, world: World, slot: int, expert: str) -> float:
        known, fork = world.known, world.fork()
        fork.bring(fork.slots[slot], expert)
        fork.decide(None)
        until = world.now + HORIZON_S
        fork.play(until, fork.next if self.last is None else self.last, None)
        arrivals, value = known.workload.arrivals, 0.0
        for request, at in fork.ended:
            latency = at - arrivals[request]
            value += (latency <= known.slo_s) - (latency > LATE_SLOS * known.slo_s)
        left = [r for queue in fork.queues.values() for r in queue]
        return value - sum(until - arrivals[r] > LATE_SLOS * known.slo_s for r in left)


def _chance(slack: float, spread: float) -> float:
    grown = slack**SPREAD
    return grown / (grown + spread) if slack > 0.0 else 0.0


def latencies(workload: Workload, cluster: Cluster, slo_s: float, knows: Knows) -> list[float]:
    """Of each request that ends, under the look ahead, on slots that hold one expert each."""
    host, expert = next(iter(cluster.hosts)), workload.experts[0]
    load_s, sleep_s = cluster.load_s(expert, host), cluster.sleep_s(expert, host)
    known = Known(workload, slo_s, load_s, sleep_s, cluster.hosts[host].batch)
    world = World(known, [Slot() for _ in cluster.hosts])
    ahead = {"nothing": None, "queue": LookAhead(None), "future": LookAhead(len(workload))}[knows]
    world.play(math.inf, len(workload), ahead)
    return [at - workload.arrivals[request] for request, at in world.ended]


@dataclass(frozen=True)
class HeadRoom:
    """``closed``: share of the gap between collating FIFO's goodput and that without switching costs;
    ``tail``: p99 over collating FIFO's."""

    trace: str
    knows: Knows
    goodput: float
    closed: float
    tail: float


def head_room(folder: Path, seeds: Sequence[int]) -> Iterator[HeadRoom]:
    """Means over seeds, at load .9 with experts drawn Zipf."""
    import numpy as np

    from benchmarks.scheduling import SLO_S, SOURCES, settings

    for source in SOURCES:
        found: dict[Knows, list[tuple[float, float]]] = {"nothing": [], "queue": [], "future": []}
        reference = []
        for setting in settings(folder, [source], ["zipf"], seeds):
            paced, cluster = setting.workload.scaled_to(0.9, setting.cluster), setting.cluster
            fifo = run_policy("collating-fifo", cluster, paced, SLO_S)
            free = run_policy("coe", cluster.without_switching_costs(), paced, SLO_S)
            reference.append((fifo.goodput, free.goodput, fifo.p99 or math.nan))
            for knows, figures in found.items():
                took = np.array(latencies(paced, cluster, SLO_S, knows))
                figures.append((float((took <= SLO_S).mean()), float(np.percentile(took, 99))))
        fifo_good, free_good, fifo_tail = np.mean(reference, axis=0)
        for knows, figures in found.items():
            goodput, tail = np.mean(figures, axis=0)
            closed = (goodput - fifo_good) / (free_good - fifo_good)
            yield HeadRoom(source.name, knows, float(goodput), float(closed), float(tail / fifo_tail))


def main(words: Sequence[str] | None = None) -> int:
    from benchmarks.scheduling import SOURCES, trace_folder
    from coe.core.errors import ConfigError

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scheduling_headroom", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seeds", default="0,1", help="numbers between commas")
    parser.add_argument("--traces", type=Path, help="folder with the traces; default: COE_DATA/traces")
    args = parser.parse_args(words)
    folder, sources = trace_folder(args.traces)
    if sources != SOURCES:
        raise ConfigError("no recorded traces", hint="set COE_DATA or --traces")
    print(f"{'trace':<12}{'knows':<10}{'goodput':>8}{'of the gap':>12}{'p99 ratio':>11}")
    for row in head_room(folder, [int(seed) for seed in args.seeds.split(",")]):
        print(
            f"{row.trace:<12}{row.knows:<10}{row.goodput:>8.3f}{row.closed:>12.0%}{row.tail:>11.2f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
