"""Engines that have died are started again though nobody asks for their experts: whoever looks at readiness
sends no request while an engine is not ready, and so none that would start it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from coe.pool.pool import Pool
from coe.pool.transitions import Clock
from coe.scheduler.events import HostId

LOOK_S = 1.0
REVIVE_S = (2.0, 300.0)
"""An engine that has died is started again at once; one that dies of that after these seconds, doubled each
time up to the last."""


@dataclass(frozen=True)
class _Revival:
    """When an engine that has died may be started again, and how long after that once more."""

    not_before: float
    pause_s: float


class Revivals:
    """Of the engines of one pool, on its event loop."""

    def __init__(self, pool: Pool, clock: Clock = time.monotonic) -> None:
        self._pool, self._clock = pool, clock
        self._revivals: dict[HostId, _Revival] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        first, longest = REVIVE_S
        for host, engine in self._pool.engines.items():
            state, known = engine.stats().state, self._revivals.get(host)
            if state == "ready":
                self._revivals.pop(host, None)
            elif state == "failed" and (known is None or self._clock() >= known.not_before):
                pause = known.pause_s if known else first
                self._revivals[host] = _Revival(self._clock() + pause, min(2 * pause, longest))
                self._pool.revive(host)
