"""What gateways and pool owners say to each other: plain values that can be sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from coe.core import errors
from coe.core.errors import CoeError
from coe.core.status import ExpertStatus
from coe.core.types import DeadlineClass, EngineStats, ExpertId, RequestId, WakeFrom
from coe.engines.address import Address
from coe.scheduler.events import HostId

SessionId = str
"""One gateway process."""
TicketId = str
"""One request for a lease; made by the gateway, so that it can give up what it has no answer to yet."""
OwnerId = str


@dataclass(frozen=True)
class LeaseRequest:
    """A request for a lease. ``machine`` is the gateway's, which decides the way of the tokens."""

    session: SessionId
    ticket: TicketId
    machine: str
    request: RequestId
    expert: ExpertId
    deadline_class: DeadlineClass = "standard"
    timeout_s: float = 300.0
    group: RequestId | None = None
    alternatives: tuple[ExpertId, ...] = ()


@dataclass(frozen=True)
class Granted:
    """A lease on the expert that was asked for, or on one of the alternatives."""

    ticket: TicketId
    expert: ExpertId
    host: HostId
    address: Address
    queue_ms: float
    swap_ms: float
    wake_from: WakeFrom


@dataclass(frozen=True)
class Refused:
    """An error of ours that survives the way to another process with all that its client gets."""

    kind: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, error: CoeError) -> Refused:
        fields = {"code": error.code, "param": error.param, "hint": error.hint}
        return cls(type(error).__name__, error.message, {**fields, "retry_after_s": error.retry_after_s})

    def error(self) -> CoeError:
        """The error as it was raised at the owner."""
        found = getattr(errors, self.kind, errors.ExpertUnavailable)
        kind = found if found not in (errors.BadHttp, errors.ExpertRefused) else errors.ExpertUnavailable
        error: CoeError = kind(self.message, **self.fields)
        return error


@dataclass(frozen=True)
class OwnerReport:
    """An owner at one moment; what gateways choose owners and show states by. Waits in seconds. ``refused``:
    why it did not go over to a later generation."""

    owner: OwnerId
    generation: int
    """0 until a gateway has sent it the registry"""
    engines: Mapping[HostId, EngineStats]
    experts: Mapping[ExpertId, ExpertStatus]
    waits_s: Mapping[ExpertId, float]
    swaps: int
    refused: str | None = None
    outdated: tuple[str, ...] = ()
    """settings of its generation that count only for owners that start later"""


@dataclass(frozen=True)
class GatewayReport:
    """A gateway replica at one moment. ``refused``: why it did not go over to a later generation."""

    session: SessionId
    machine: str
    pid: int
    generation: int
    refused: str | None = None
    outdated: tuple[str, ...] = ()
    """settings of its generation that count only for gateways that start later"""


class OwnerLost(Exception):
    """The owner's process is gone or does not answer; it may be on its way back."""


class OwnerCalls(Protocol):
    """An owner as a gateway sees it. Every method raises :class:`OwnerLost` when it cannot be reached."""

    async def acquire(self, wanted: LeaseRequest) -> Granted | Refused: ...
    async def release(self, session: SessionId, ticket: TicketId, failure: str | None) -> None: ...
    async def expect(self, wanted: LeaseRequest) -> None: ...
    async def heartbeat(self, session: SessionId) -> OwnerReport: ...
    async def apply_generation(self, generation: int, registry: str) -> None:
        """Take over a version of the registry (JSON), unless it has it or a later one. One that it cannot
        run is refused, which its report says."""
        ...


@dataclass(frozen=True)
class KnownOwner:
    """An owner that is there, and the hosts that it has."""

    calls: OwnerCalls
    hosts: frozenset[HostId]


class Directory(Protocol):
    """Which owners there are at the moment."""

    async def owners(self) -> Mapping[OwnerId, KnownOwner]:
        """Never raises; the last known ones when the directory itself cannot be reached."""
        ...

    def miss(self, host: HostId) -> None:
        """Somebody waits for an owner of ``host`` and there is none. Quick; may be called often."""
        ...
