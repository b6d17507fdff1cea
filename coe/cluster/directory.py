"""The directory of a cluster: one small actor, in which owners and gateways renew themselves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from coe.cluster.messages import GatewayReport, OwnerId, SessionId
from coe.scheduler.events import HostId

T = TypeVar("T")

SETTLED_S = 3.0
STALE_S = 8.0
"""Who has not renewed itself for so long is not in the directory any more."""


@dataclass(frozen=True)
class Entry:
    """An owner in the directory."""

    owner: OwnerId
    actor: Any
    hosts: frozenset[HostId]


class Directory:
    """Which owners and gateways there are. Holds nothing that they do not send again within a
    second, so it may die and be restarted empty."""

    def __init__(self) -> None:
        self._owners: dict[OwnerId, tuple[float, Entry]] = {}
        self._gateways: dict[SessionId, tuple[float, GatewayReport]] = {}
        self._ending: set[SessionId] = set()
        self._started = time.monotonic()

    async def renew(self, entry: Entry) -> None:
        self._owners[entry.owner] = (time.monotonic(), entry)

    async def leave(self, owner: OwnerId) -> None:
        self._owners.pop(owner, None)

    async def owners(self) -> list[Entry] | None:
        """None while it has just started: not all of them have renewed themselves yet."""
        if time.monotonic() - self._started < SETTLED_S:
            return None
        return _fresh(self._owners)

    async def renew_gateway(self, report: GatewayReport) -> bool:
        """Whether the service ends, of which this gateway is a part."""
        self._gateways[report.session] = (time.monotonic(), report)
        return report.session in self._ending

    async def end(self) -> None:
        """Tell the gateways that are there that the service ends. To be said again until they are gone."""
        self._ending.update(self._gateways)

    async def leave_gateway(self, session: SessionId) -> None:
        self._gateways.pop(session, None)

    async def gateways(self) -> list[GatewayReport]:
        return _fresh(self._gateways)


def _fresh(last_seen: Mapping[str, tuple[float, T]]) -> list[T]:
    now = time.monotonic()
    return [what for when, what in last_seen.values() if now - when < STALE_S]
