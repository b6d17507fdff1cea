"""What a lease of an owner is for the pipeline of a gateway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coe.core.types import Engine, EngineAnswer, EngineCall, EngineStats, ExpertId, ExpertSpec, WakeFrom
from coe.engines.address import Address, AddressBook
from coe.scheduler.events import HostId


class AddressedEngine:
    """A leased expert's server. Asking is a gateway's part of :class:`coe.core.types.Engine`; the rest is its
    owner's, and does nothing here."""

    def __init__(self, host: HostId, address: Address, book: AddressBook) -> None:
        self.id = host
        self._address, self._book = address, book

    async def ask(self, expert: ExpertId, call: EngineCall) -> EngineAnswer:
        return await self._book.ask(self._address, expert, call)

    async def start(self) -> None: ...
    async def ensure_ready(self, expert: ExpertId) -> None: ...
    async def sleep(self, expert: ExpertId, level: int = 1) -> None: ...
    async def set_experts(self, experts: Sequence[ExpertSpec]) -> None: ...
    async def stop(self) -> None: ...

    def stats(self) -> EngineStats:
        return EngineStats("ready")


@dataclass(frozen=True)
class ClusterLease:
    """See :class:`coe.pipeline.Lease`."""

    expert: ExpertId
    asked_for: ExpertId
    engine: Engine
    queue_ms: float
    swap_ms: float
    wake_from: WakeFrom
