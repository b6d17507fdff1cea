"""Processor sharing on one host: how fast batches run, and which request ends next.

All requests of a batch advance at the same rate, so each batch keeps one clock of work done per request;
a request ends when the clock reaches what it read at its start plus the request's work. A change of the
batch changes only the clock's rate: O(log batch) per request.
"""

from __future__ import annotations

import heapq
import math

from coe.core.types import ExpertId
from coe.simulate.cluster import HostModel
from coe.simulate.hardware import BATCH_EXPONENT

CLOSE = 1e-9
"""Requests that end within this many seconds of work of each other end together."""


class _Batch:
    """``ends``: heap of (clock reading at the end, request)."""

    __slots__ = ("clock", "ends", "rate")

    def __init__(self) -> None:
        self.clock = 0.0
        self.rate = 1.0
        self.ends: list[tuple[float, int]] = []


class HostMachine:
    """Runs requests (numbers) with given work. ``now`` must not go backwards."""

    def __init__(self, model: HostModel) -> None:
        self._model = model
        self._speeds = [1.0, *(batch_speed(size, model.exponent) for size in range(1, 257))]
        self._batches: dict[ExpertId, _Batch] = {}
        self._now = 0.0
        self.version = 0
        """Grows with every change: an end announced before a change no longer holds."""

    def start(self, request: int, expert: ExpertId, work: float, now: float) -> None:
        self._advance(now)
        key = expert if self._model.sharing == "by_expert" else ""
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = _Batch()
        heapq.heappush(batch.ends, (batch.clock + work, request))
        self._changed()

    def next_end(self) -> float:
        """When the next request ends if nothing changes; ``inf`` when none runs."""
        left = min(((b.ends[0][0] - b.clock) / b.rate for b in self._batches.values()), default=math.inf)
        return self._now + max(0.0, left)

    def end(self, now: float) -> list[int]:
        """Take out the requests that end at ``now``, which ``next_end`` announced: at least one."""
        self._advance(now)
        next_batch = min(self._batches.values(), key=lambda b: (b.ends[0][0] - b.clock) / b.rate)
        next_batch.clock = max(next_batch.clock, next_batch.ends[0][0])
        ended: list[int] = []
        for key, batch in list(self._batches.items()):
            while batch.ends and batch.ends[0][0] <= batch.clock + CLOSE:
                ended.append(heapq.heappop(batch.ends)[1])
            if not batch.ends:
                del self._batches[key]
        self._changed()
        return sorted(ended)

    def _advance(self, now: float) -> None:
        passed = now - self._now
        if passed > 0.0:
            for batch in self._batches.values():
                batch.clock += batch.rate * passed
            self._now = now

    def _changed(self) -> None:
        self.version += 1
        if self._model.sharing == "none":
            return
        exponent = self._model.exponent
        for batch in self._batches.values():
            size = len(batch.ends)
            batch.rate = self._speeds[size] if size < len(self._speeds) else batch_speed(size, exponent)
            batch.rate /= len(self._batches)


def batch_speed(size: int, exponent: float = BATCH_EXPONENT) -> float:
    """Speed of each request in a batch, against running alone."""
    return float(size ** (exponent - 1.0))
