"""Time of single calls, in the wall clock and in CPU time of the calling thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Milliseconds. ``cpu_p50``: the thread's CPU time, which a busy machine lengthens less."""

    p50: float
    p95: float
    cpu_p50: float

    def as_json(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in vars(self).items()}


def latency(calls: Sequence[Callable[[], object]]) -> Latency:
    """Of one round of ``calls``, after the first of them was called once to warm up."""
    calls[0]()
    wall, cpu = [], []
    for call in calls:
        started, cpu_started = time.perf_counter(), time.thread_time()
        call()
        cpu.append(time.thread_time() - cpu_started)
        wall.append(time.perf_counter() - started)
    p50, p95 = (float(value) * 1e3 for value in np.percentile(wall, [50, 95]))
    return Latency(p50, p95, float(np.median(cpu)) * 1e3)
