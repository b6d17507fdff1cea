"""Whether the service can answer: what /readyz says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coe.types import EngineStats


@dataclass(frozen=True)
class Readiness:
    """``ready``: some engine can answer and none is still starting. ``reasons``: what is amiss."""

    ready: bool
    reasons: tuple[str, ...] = ()


def readiness(engines: Mapping[str, EngineStats], draining: bool = False) -> Readiness:
    """Judged from the engines' stats. A failed engine beside a ready one is a reason, not an end."""
    reasons = [_reason(engine, stats) for engine, stats in engines.items() if stats.state != "ready"]
    if draining:
        return Readiness(False, ("the service is stopping", *reasons))
    states = {stats.state for stats in engines.values()}
    return Readiness("ready" in states and states <= {"ready", "failed"}, tuple(reasons))


def _reason(engine: str, stats: EngineStats) -> str:
    cause = f": {stats.last_error}" if stats.last_error else ""
    return f"engine {engine} is {stats.state}{cause}"
