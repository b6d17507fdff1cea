"""What happens to the scheduler (events) and what it orders (actions). Plain values, without times.

Time is a float of seconds on any monotonic clock and is passed to ``Scheduler.step(event, now)``.
Every request that has arrived ends exactly once: granted and then finished, rejected, or cancelled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from coe.core.types import DeadlineClass, ExpertId, RequestId, WakeFrom

HostId = str
During = Literal["load", "sleep", "run", "prefetch"]
RejectCode = Literal["queue_full", "wait_not_promised", "expert_unavailable"]


@dataclass(frozen=True, slots=True)
class OnHost:
    """About one expert on one host."""

    expert: ExpertId
    host: HostId


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request wants a lease on ``expert``. ``request`` must not be in the pool already.

    ``group``: the client's request that this is one leg of; the experts that its legs use do not displace
    each other. ``alternatives``: experts that may serve it instead, nearly as good by the router's own
    estimate; the Grant says which one did. ``patience_s``: how long its client waits at most.
    """

    request: RequestId
    expert: ExpertId
    deadline_class: DeadlineClass = "standard"
    group: RequestId | None = None
    alternatives: tuple[ExpertId, ...] = ()
    patience_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Expected:
    """A lease on ``expert`` will be wanted once other legs of ``group`` are done (the aggregator's).

    A hint: the expert may be brought in meanwhile. An Arrived with the same ``request`` fulfils it,
    Cancelled withdraws it.
    """

    request: RequestId
    expert: ExpertId
    group: RequestId | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The caller has gone. A lease that was granted meanwhile is given back; unknown ids are ignored."""

    request: RequestId


@dataclass(frozen=True, slots=True)
class Ready(OnHost):
    """A Load or Wake has succeeded. ``took_s`` is its cost where the wall time says something else
    (for example when the host's process had to be started first)."""

    took_s: float | None = None


@dataclass(frozen=True, slots=True)
class Slept(OnHost):
    """A Sleep or Evict has succeeded: what the expert held on the host is free."""


@dataclass(frozen=True, slots=True)
class Prefetched(OnHost):
    """The weights of a cold expert are in the host's RAM."""


@dataclass(frozen=True, slots=True)
class Failed(OnHost):
    """A load, sleep or prefetch did not succeed, or a resident expert was lost (``run``)."""

    reason: str
    during: During


@dataclass(frozen=True, slots=True)
class Finished:
    """A lease is given back. ``ok`` is False when the engine failed the request."""

    request: RequestId
    ok: bool = True


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened but time. Send one at ``Scheduler.next_tick()``."""


Event = Arrived | Expected | Cancelled | Ready | Slept | Prefetched | Failed | Finished | Tick


@dataclass(frozen=True, slots=True)
class Load(OnHost):
    """Bring a cold expert in; answer with Ready or Failed(during="load")."""


@dataclass(frozen=True, slots=True)
class Wake(OnHost):
    """Wake a sleeping expert; answer with Ready or Failed(during="load")."""


@dataclass(frozen=True, slots=True)
class Sleep(OnHost):
    """Put an expert without leases to sleep; answer with Slept or Failed(during="sleep")."""

    level: int = 1


@dataclass(frozen=True, slots=True)
class Evict(OnHost):
    """Drop an expert without leases; answer with Slept or Failed(during="sleep")."""


@dataclass(frozen=True, slots=True)
class Prefetch(OnHost):
    """Read the weights of a cold expert from disk into the host's RAM, without slowing down what runs; answer
    with Prefetched or Failed(during="prefetch"). It may be loaded before the answer."""


@dataclass(frozen=True, slots=True)
class Release(OnHost):
    """The RAM of weights that were prefetched is needed for others. Without an answer."""


@dataclass(frozen=True, slots=True)
class Grant:
    """``request`` may use ``expert`` on ``host`` until Finished.

    ``swap_s`` is the part of its waiting in which the expert was being loaded there, ``wake_from`` what
    it was loaded from ("awake": nothing had to be loaded for this request).
    """

    request: RequestId
    expert: ExpertId
    host: HostId
    queued_s: float = 0.0
    swap_s: float = 0.0
    wake_from: WakeFrom = "awake"


@dataclass(frozen=True, slots=True)
class Reject:
    """``request`` gets no lease. ``message`` is for the client, ``retry_after_s`` when to ask again."""

    request: RequestId
    expert: ExpertId
    code: RejectCode
    message: str
    retry_after_s: float | None = None


Action = Load | Wake | Sleep | Evict | Prefetch | Release | Grant | Reject
