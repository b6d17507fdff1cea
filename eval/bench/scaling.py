"""Autoscaling of nodes against a fixed copy, on a local cluster: ``python -m eval.bench.scaling``.

Two experts share one slot, so requests for both make it swap; vLLM is the stand-in. Prints how long the first
request takes that finds no copy at all, and the answers and latencies of the same clients with one fixed copy
and with up to three.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from coe.cluster.settings import set_local_env
from eval.bench.chaos import Load, Outcome, ask

SECONDS = 60.0
CLIENTS = 12
MAX_COPIES = 3
TARGET_WAIT_S = 1.0


@dataclass(frozen=True)
class Measured:
    """``first_s``: the first request, which finds ``copies`` copies. Latencies of the second half."""

    name: str
    first_s: float
    copies: int
    answers: int
    others: int
    median_s: float
    worst_s: float


def run(name: str, copies: int, max_copies: int | None) -> Measured:
    from coe.testing.ray_cluster import service_on_ray
    from coe.testing.tiny_models import build_tiny_family

    scaling: dict[str, Any] = {"max_copies": max_copies} if max_copies else {}
    with tempfile.TemporaryDirectory(prefix="coe-scaling-") as folder:
        family = build_tiny_family(Path(folder) / "tiny")
        with service_on_ray(
            family, Path(folder), MAX_COPIES, copies, 1, target_wait_s=TARGET_WAIT_S, **scaling
        ) as service:
            first = asyncio.run(_first(service.where.url))
            with Load(service.where.url, CLIENTS) as load:
                time.sleep(SECONDS)
                reached = service.owners()
            return _measured(name, first, reached, load.outcomes)


async def _first(url: str) -> float:
    async with aiohttp.ClientSession() as session:
        outcome = await ask(session, url, "a", stream=False)
    return outcome.ended - outcome.started


def _measured(name: str, first_s: float, copies: int, outcomes: list[Outcome]) -> Measured:
    half = min(o.started for o in outcomes) + SECONDS / 2
    late = [o.ended - o.started for o in outcomes if o.kind == "answer" and o.started >= half]
    answers = sum(o.kind == "answer" for o in outcomes)
    return Measured(
        name=name,
        first_s=round(first_s, 1),
        copies=copies,
        answers=answers,
        others=len(outcomes) - answers,
        median_s=round(statistics.median(late), 2),
        worst_s=round(max(late), 2),
    )


def main() -> None:
    set_local_env()
    print("| copies | first request | copies at the end | answers | others | median | worst |")
    print("|---|" + "--:|" * 6)
    for name, copies, most in (("1, fixed", 1, None), (f"0 to {MAX_COPIES}", 0, MAX_COPIES)):
        found = run(name, copies, most)
        times = f"{found.median_s:g} s | {found.worst_s:g} s"
        print(
            f"| {name} | {found.first_s:g} s | {found.copies} | {found.answers} | {found.others} | {times} |"
        )


if __name__ == "__main__":
    main()
