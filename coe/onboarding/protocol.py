"""Whether an expert that joins a service may be routed to: the protocol.

An expert joins in this order: its entry is *validated*, it is *profiled*, the *gate* compares the routing
with and without it, and it is *admitted*: routed to, or, where the gate says no, listed as a shadow
(``shadow: true``: whoever names it gets it, no router chooses it).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from coe.core.types import ExpertId
from coe.registry.schema import Registry

Ask = Callable[[str], Awaitable[str]]
"""Puts one question to the expert and gives its answer. Raises CoeError when the expert cannot answer."""


@dataclass(frozen=True)
class GateReport:
    """``reasons``: sentences for people, also when the expert is admitted."""

    admit: bool
    reasons: tuple[str, ...] = ()


class Gate(Protocol):
    """The regression gate."""

    def check(self, registry: Registry, expert: ExpertId) -> GateReport:
        """May ``expert`` be routed to? ``registry`` has it, as it would be admitted (not as a shadow).

        Blocking (seconds); it is called off the event loop. Raises ConfigError where the evidence that it
        needs cannot be used.
        """
        ...


@dataclass(frozen=True)
class ProfileReport:
    """What profiling did. ``lines``: sentences for people."""

    expert: ExpertId
    questions: int
    lines: tuple[str, ...] = ()


class Profiler(Protocol):
    """Learns what an expert can do by asking it."""

    def require(self, registry: Registry) -> None:
        """Raises BadRequest when ``registry`` has no questions to ask."""
        ...

    async def profile(self, registry: Registry, expert: ExpertId, ask: Ask) -> ProfileReport:
        """Ask ``expert`` of ``registry`` and store its profile. Must not block the event loop.

        Raises CoeError when it cannot (no probe questions, the expert does not answer).
        """
        ...
