"""Autoscaling of nodes against fixed copies: ``python -m benchmarks.scaling [simulated | cluster]``.

In simulation: three kinds of load on copies of one H100 that eight 7B experts share. On a local Ray cluster
of a head and three workers: two experts share one slot, so requests for both make it swap; vLLM is the
stand-in, which serves one request at a time, half of them streams of a third of a second. The latter prints
how long the first request takes (with no copy there it waits for a start), and the answers and latencies of
the same clients with fixed copies and with up to three.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.chaos_cluster import Load, Outcome, ask
from coe.cluster.settings import set_local_env

SECONDS = 90.0
CLIENTS = 12
MAX_COPIES = 3
TARGET_WAIT_S = 1.0


@dataclass(frozen=True)
class Measured:
    """``first_s``: the first request; ``mean_copies``: while clients asked. Latencies of the second half."""

    name: str
    first_s: float
    mean_copies: float
    answers: int
    others: int
    median_s: float
    worst_s: float


def run(name: str, copies: int, max_copies: int | None) -> Measured:
    from tests.support.ray_cluster import service_on_ray
    from tests.support.tiny_models import build_tiny_family

    scaling: dict[str, Any] = {"max_copies": max_copies} if max_copies else {}
    with tempfile.TemporaryDirectory(prefix="coe-scaling-") as folder:
        family = build_tiny_family(Path(folder) / "tiny")
        with service_on_ray(
            family, Path(folder), MAX_COPIES, copies, 1, target_wait_s=TARGET_WAIT_S, max_running=1, **scaling
        ) as service:
            first = asyncio.run(_first(service.where.url))
            held: list[int] = []
            with Load(service.where.url, CLIENTS) as load:
                until = time.monotonic() + SECONDS
                while time.monotonic() < until:
                    held.append(service.owners())
                    time.sleep(1.0)
            return _measured(name, first, held, load.outcomes)


async def _first(url: str) -> float:
    async with aiohttp.ClientSession() as session:
        outcome = await ask(session, url, "a", stream=False)
    return outcome.ended - outcome.started


def _measured(name: str, first_s: float, held: Sequence[int], outcomes: list[Outcome]) -> Measured:
    half = min(o.started for o in outcomes) + SECONDS / 2
    late = [o.ended - o.started for o in outcomes if o.kind == "answer" and o.started >= half]
    answers = sum(o.kind == "answer" for o in outcomes)
    return Measured(
        name=name,
        first_s=round(first_s, 1),
        mean_copies=round(statistics.mean(held), 2),
        answers=answers,
        others=len(outcomes) - answers,
        median_s=round(statistics.median(late or [math.nan]), 2),
        worst_s=round(max(late, default=math.nan), 2),
    )


@dataclass(frozen=True)
class Day:
    """A load to simulate; ``fixed``: copies to compare with."""

    name: str
    trace: str
    fixed: Sequence[int]
    scaled: Sequence[tuple[int, int]]


DAYS = (
    Day(
        "day and night",
        "synthetic:diurnal:n=4000,rate=0.8,period=2500,depth=0.95,output=600",
        (1, 2, 3, 4),
        ((1, 4),),
    ),
    Day("bursts", "synthetic:bursty:n=2000,rate=0.5,cv=6,output=600", (1, 2, 4), ((1, 4),)),
    Day("seldom asked", "synthetic:poisson:n=60,rate=0.001", (1,), ((0, 1),)),
)
SLO_S = 30.0
EXPERTS = 8


def simulated(day: Day) -> Iterator[str]:
    """Rows of a table in Markdown."""
    import numpy as np

    from benchmarks.scaling_simulated import Fleet, Scaling
    from coe.simulate.cluster import slots_cluster
    from coe.simulate.hardware import find_preset
    from coe.simulate.synthetic import synthetic_trace, zipf_labels
    from coe.simulate.workload import build_workload, default_experts

    experts = default_experts(EXPERTS)
    cluster = slots_cluster(experts, 1, find_preset("h100"))
    trace = synthetic_trace(day.trace, seed=0)
    load = build_workload(trace, zipf_labels(experts, len(trace.rows), 1.0, seed=0), cluster)
    for low, high in (*((n, n) for n in day.fixed), *day.scaled):
        found = Fleet(cluster, load, Scaling(low, high)).run()
        p50, p99 = np.percentile(found.latencies, (50, 99))
        copies = f"{low}, fixed" if low == high else f"{low} to {high}"
        cells = (
            f"{100 * found.within(SLO_S):.1f}%",
            f"{p50:.1f} s",
            f"{p99:.1f} s",
            f"{found.copy_s / found.span_s:.2f}",
            f"{found.most}",
            f"{found.copy_s / 3600:.1f}",
        )
        yield f"| {day.name} | {copies} | {' | '.join(cells)} |"


def simulate() -> None:
    head = f"| load | copies | within {SLO_S:g} s | median | 99% | mean copies | most | copy-hours |"
    print(f"{head}\n|---|---|{'--:|' * 6}")
    for day in DAYS:
        for row in simulated(day):
            print(row, flush=True)


def on_cluster() -> None:
    set_local_env()
    print("| copies | first request | mean copies | answers | others | median | slowest |")
    print("|---|" + "--:|" * 6)
    fixed = ((f"{copies}, fixed", copies, None) for copies in (1, MAX_COPIES))
    for name, copies, most in (*fixed, (f"0 to {MAX_COPIES}", 0, MAX_COPIES)):
        found = run(name, copies, most)
        counts = f"{found.mean_copies:g} | {found.answers} | {found.others}"
        times = f"{found.median_s:g} s | {found.worst_s:g} s"
        print(f"| {name} | {found.first_s:g} s | {counts} | {times} |", flush=True)


def main(arguments: Sequence[str]) -> None:
    wanted = arguments or ("simulated", "cluster")
    if "simulated" in wanted:
        simulate()
    if "cluster" in wanted:
        on_cluster()


if __name__ == "__main__":
    main(sys.argv[1:])
