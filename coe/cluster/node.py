"""One node's owner through the generations: it gets its first registry from a gateway, and later ones."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from pathlib import Path

from coe.cluster.journal import Journal
from coe.cluster.messages import (
    Granted,
    LeaseRequest,
    OwnerId,
    OwnerLost,
    OwnerReport,
    Refused,
    SessionId,
    TicketId,
)
from coe.cluster.owner import PoolOwner
from coe.cluster.partition import part
from coe.cluster.proxies import Proxies
from coe.core.errors import CoeError
from coe.engines import build_engine
from coe.pool.registry_pool import EngineBuilder, RegistryPool
from coe.registry.changes import needs_another_owner
from coe.registry.schema import Registry
from coe.scheduler.events import HostId

log = logging.getLogger(__name__)


class NodeOwner:
    """:class:`coe.cluster.messages.OwnerCalls` of one node. ``root``: the folder that paths start from.

    ``node`` is the id in the registry of what ``owner`` is a copy of,
    ``machine`` names the computer and ``interface`` is its address inside the cluster.
    """

    def __init__(
        self,
        owner: OwnerId,
        node: str,
        hosts: Sequence[HostId],
        root: Path,
        machine: str,
        interface: str,
        engine_builder: EngineBuilder = build_engine,
    ) -> None:
        self.id, self._node, self.hosts = owner, node, frozenset(hosts)
        self._root, self._machine, self._build = root, machine, engine_builder
        self._proxies = Proxies(interface)
        self._owner: PoolOwner | None = None
        self._registry_pool: RegistryPool | None = None
        self._first: Registry | None = None
        self._changing = asyncio.Lock()  # Invariant: one change of generation at a time.

    async def apply_generation(self, generation: int, registry: str) -> None:
        """Take over our part of a version of the registry, unless we have it or a later one. One that the
        running engines cannot follow is refused (:meth:`report`)."""
        async with self._changing:
            if generation <= (self._owner.generation if self._owner else 0):
                return
            ours = part(Registry.model_validate_json(registry), self.hosts)
            if not ours.experts:
                raise OwnerLost(f"no expert of generation {generation} is on the hosts of {self.id}")
            if self._owner is None or self._registry_pool is None:
                await self._start(generation, ours)
            else:
                await self._switch(self._owner, self._registry_pool, generation, ours)

    async def _start(self, generation: int, ours: Registry) -> None:
        registry_pool = RegistryPool(ours, self._root, self._build)
        journal = Journal.claim(self._root / "var" / "journal", f"{self._node}-{socket.gethostname()}")
        owner = PoolOwner(self.id, registry_pool.pool, journal, self._proxies, self._machine, generation)
        # Known only once it has started: calls that come meanwhile are sent elsewhere.
        await owner.start()
        self._owner, self._registry_pool, self._first = owner, registry_pool, ours
        log.info("owner %s has generation %d", self.id, generation)

    async def _switch(self, owner: PoolOwner, pool: RegistryPool, generation: int, ours: Registry) -> None:
        """A refusal may pass, so gateways bring the generation again with each heartbeat."""
        try:
            await pool.switch_to(ours)
            owner.generation, owner.refused = generation, None
            owner.outdated = needs_another_owner(self._first or ours, ours)
        except CoeError as error:
            refused = f"generation {generation}: {error}"
            if refused != owner.refused:
                log.warning(
                    "owner %s keeps serving generation %d; refused: %s", self.id, owner.generation, refused
                )
            owner.refused = refused

    async def acquire(self, wanted: LeaseRequest) -> Granted | Refused:
        return await self._ready().acquire(wanted)

    async def release(self, session: SessionId, ticket: TicketId, failure: str | None) -> None:
        if self._owner is not None:
            await self._owner.release(session, ticket, failure)

    async def expect(self, wanted: LeaseRequest) -> None:
        await self._ready().expect(wanted)

    async def heartbeat(self, session: SessionId) -> OwnerReport:
        if self._owner is None:
            return OwnerReport(self.id, 0, {}, {}, {}, 0)
        return await self._owner.heartbeat(session)

    def report(self) -> OwnerReport | None:
        return self._owner.report() if self._owner else None

    async def stop(self, drain_s: float = 30.0) -> None:
        if self._owner is not None:
            await self._owner.stop(drain_s)

    def _ready(self) -> PoolOwner:
        if self._owner is None:
            raise OwnerLost(f"{self.id} has no registry yet")
        return self._owner
