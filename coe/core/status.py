"""What the service says of its experts and of itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from coe.core.errors import told
from coe.core.types import EngineStats, ExpertId

_REASON_CHARS = 120
GIVEN_UP = frozenset({"quarantined", "leaving"})


@dataclass(frozen=True)
class Readiness:
    """``ready``: some engine can answer and none is still starting. ``reasons``: what is amiss."""

    ready: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExpertStatus:
    """``state``: awake, sleeping, cold, or on the way between them. ``queued``, ``running``: requests.
    ``stuck``: why its requests wait in vain, where they do."""

    state: str
    queued: int
    running: int
    stuck: str | None = None


@dataclass
class RebalanceCounts:
    """How often experts were ``moved``, ``kept`` where they are, or looking ``failed``; and how many
    ``experts`` moved."""

    moved: int = 0
    kept: int = 0
    failed: int = 0
    experts: int = 0


class Status(Protocol):
    """What the gateway may ask about the service at any moment. All methods are quick."""

    def readiness(self) -> Readiness: ...
    def engines(self) -> Mapping[str, EngineStats]: ...
    def experts(self) -> Mapping[ExpertId, ExpertStatus]: ...


def judge(
    engines: Mapping[str, EngineStats], draining: bool = False, joined: Collection[str] = ()
) -> Readiness:
    """Readiness by the engines' stats. A failed engine beside a ready one is a reason, not an end; nor is
    one that ``joined`` the running service and is not ready yet, or one whose experts are all left alone."""
    reasons = [reason(engine, stats) for engine, stats in engines.items() if not _answers(stats)]
    if draining:
        return Readiness(False, ("the service is stopping", *reasons))
    first = {stats.state for engine, stats in engines.items() if engine not in joined}
    return Readiness(any(map(_answers, engines.values())) and first <= {"ready", "failed"}, tuple(reasons))


def can_answer(
    expert: ExpertId,
    host: str | None,
    experts: Mapping[ExpertId, ExpertStatus],
    engines: Mapping[str, EngineStats],
) -> bool:
    """Whether a request for ``expert`` would be tried now. Not so while it is given up or stuck, or its
    host has failed or does not start; an expert of a host that is not there yet is waited for."""
    its = [stats for name, stats in engines.items() if name.partition("@")[0] == host]
    if expert in experts and (experts[expert].state in GIVEN_UP or experts[expert].stuck):
        return False
    return not its or any(stats.state == "ready" and expert not in stats.broken for stats in its)


def _answers(stats: EngineStats) -> bool:
    return stats.state == "ready" and (not stats.broken or not set(stats.awake) <= set(stats.broken))


def reason(engine: str, stats: EngineStats) -> str:
    """Why ``engine`` does not answer, as anybody may read it."""
    if stats.state == "ready":
        return f"engine {engine} keeps failing and is left alone for the moment"
    cause = told(stats.last_error or "").partition("\n")[0][:_REASON_CHARS]
    return f"engine {engine} is {stats.state}" + (f": {cause}" if cause else "")
