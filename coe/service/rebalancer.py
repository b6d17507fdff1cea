"""A running service moves its experts, slowly, to where their work has room (``pool.rebalance_s``).

It looks every N seconds; the decision is :func:`coe.placement.rebalance.relocate`, the change a generation
like any other (:meth:`coe.service.live_registry.LiveRegistry.move`): leases under way end where they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from coe.core.errors import CoeError
from coe.core.status import RebalanceCounts
from coe.core.types import EngineStats
from coe.pipeline.generation import Generation, Generations
from coe.placement.rebalance import Looks, Relocation, movable, relocate
from coe.registry.history import Circumstances
from coe.registry.schema import Registry
from coe.scheduler.estimates import WorkDone
from coe.service.live_registry import LiveRegistry

log = logging.getLogger(__name__)


class Rebalancer:
    """Looks at the work of one service. ``run`` in a task of its event loop."""

    def __init__(
        self,
        live: LiveRegistry,
        generations: Generations,
        work_done: Callable[[], WorkDone],
        engines: Callable[[], Mapping[str, EngineStats]],
        counts: RebalanceCounts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live, self._generations, self._counts = live, generations, counts
        self._work_done, self._engines, self._clock = work_done, engines, clock
        self._looks = Looks()
        self._every_s: float | None = None
        self._next_at = 0.0
        self._changed = asyncio.Event()
        live.on_change(self._changed.set)

    async def run(self) -> None:
        """Until cancelled; an edit of ``pool.rebalance_s`` counts at once."""
        while True:
            self._changed.clear()
            every_s = self._generations.current.registry.pool.rebalance_s
            if every_s != self._every_s:
                self._every_s = every_s
                self._begin(every_s or 0.0)
            if every_s is None:
                await self._changed.wait()
            elif self._clock() >= self._next_at:
                await self.look(every_s)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._next_at - self._clock()):
                        await self._changed.wait()

    async def look(self, horizon_s: float) -> None:
        """Look once; next time ``horizon_s`` later. What goes wrong is logged, and the experts stay."""
        try:
            moved = await self._look(horizon_s)
        except CoeError as error:
            self._counts.failed += 1
            log.warning("the experts stay where they are: %s (%s)", error.message, error.hint)
        except Exception:
            self._counts.failed += 1
            log.exception("rebalancing the experts failed unexpectedly")
        else:
            self._counts.experts += moved
            self._counts.moved += moved > 0
            self._counts.kept += not moved

    async def _look(self, horizon_s: float) -> int:
        """How many experts moved."""
        of = self._generations.current
        self._next_at = self._clock() + horizon_s
        self._looks.add(self._work_done(), self._clock())
        free = await self._live.without_host()
        down = sorted(host for host in movable(of.registry, free) if not self._is_ready(host))
        if down:
            log.info("the experts stay where they are: %s not ready", ", ".join(down))
            self._begin(horizon_s)  # The work of a host that was down says nothing.
            return 0
        found = await asyncio.to_thread(relocate, of.registry, free, self._looks(), horizon_s)
        wanted = Circumstances(_reason(of, found), found.hosts)
        if not found.hosts or not await self._live.move(of, wanted):
            return 0
        self._begin(horizon_s)
        return len(found.hosts)

    def _begin(self, horizon_s: float) -> None:
        now = self._clock()
        self._looks.begin(self._work_done(), now)
        self._next_at = now + horizon_s

    def _is_ready(self, host: str) -> bool:
        stats = self._engines().get(host)
        return stats is not None and stats.state == "ready"


def _reason(of: Generation, found: Relocation) -> str:
    moves = ", ".join(f"{e} from {_host(of.registry, e)} to {host}" for e, host in found.hosts.items())
    return f"rebalanced: {moves} (saves {found.gain_s:.0f} s of host time, takes {found.moves_s:.0f} s)"


def _host(registry: Registry, expert_id: str) -> str | None:
    expert = registry.expert(expert_id)
    return expert.host if expert is not None else None
