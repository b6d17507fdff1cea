"""Looks every few seconds, while somebody waits, whether the scheduler is stuck, and says so once."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from coe.core.status import ExpertStatus
from coe.core.types import ExpertId, RequestId
from coe.scheduler.events import During, Grant, HostId
from coe.scheduler.scheduler import Scheduler
from coe.scheduler.watch import StuckWatch, UnderWay

log = logging.getLogger(__name__)

LOOKS = 6
"""In the time after which a wait counts as in vain."""


@dataclass(frozen=True)
class WatchLimits:
    """``stuck_after_s``: whoever has waited in vain for so long is stuck. ``lease_s``: a lease that is out
    longer was forgotten."""

    stuck_after_s: float = 30.0
    lease_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits in the pool."""

    expert: ExpertId
    grant: asyncio.Future[Grant]


class Watch:
    """What it is given are the pool's own accounts, to look at only."""

    def __init__(
        self,
        scheduler: Scheduler,
        waiting: Mapping[RequestId, Waiting],
        leases: Mapping[RequestId, tuple[Grant, float]],
        orders: Mapping[During, Mapping[HostId, set[ExpertId]]],
        clock: Callable[[], float],
        limits: WatchLimits,
    ) -> None:
        self.limits = limits
        self.stuck: Mapping[ExpertId, str] = {}
        """Experts whose requests are stuck, and why."""
        self._scheduler, self._waiting, self._leases = scheduler, waiting, leases
        self._orders, self._clock = orders, clock
        self._watch = StuckWatch()
        self._timer: asyncio.TimerHandle | None = None

    def arm(self) -> None:
        """Somebody waits."""
        if self._timer is None:
            delay_s = self.limits.stuck_after_s / LOOKS
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def experts(self) -> Mapping[ExpertId, ExpertStatus]:
        """How each expert is."""
        lost = {expert: ExpertStatus("leaving", 0, 0, why) for expert, why in self.stuck.items()}
        return lost | {
            e.expert: ExpertStatus(e.shown, e.queued, e.running, self.stuck.get(e.expert))
            for e in self._scheduler.snapshot().experts
        }

    def _look(self) -> None:
        self._timer = None
        now, under_way = self._clock(), self._under_way()
        found = self._scheduler.waits_in_vain(under_way, now)
        stuck = self._watch.look(found, now, self.limits.stuck_after_s + self._scheduler.idle_s)
        if stuck and not self.stuck:
            state = json.dumps(self._scheduler.describe(under_way, now))
            log.error("the scheduler is stuck: %s; its state: %s", json.dumps(dict(stuck)), state)
        elif self.stuck and not stuck:
            log.warning("the scheduler is not stuck any more")
        self.stuck = stuck
        if self._waiting:
            self.arm()

    def _under_way(self) -> UnderWay:
        leases: dict[HostId, dict[ExpertId, int]] = {}
        oldest = self._clock() - self.limits.lease_s
        for grant, since in self._leases.values():
            if since >= oldest:
                on_host = leases.setdefault(grant.host, {})
                on_host[grant.expert] = on_host.get(grant.expert, 0) + 1
        return UnderWay(
            waiting={r: each.expert for r, each in self._waiting.items() if not each.grant.done()},
            leases=leases,
            loads=self._orders["load"],
            sleeps=self._orders["sleep"],
        )
