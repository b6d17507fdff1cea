"""The protocol of shared state, and the arithmetic of limits that every store uses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol


class StoreDown(Exception):
    """The store cannot be reached now; it may be again soon."""


@dataclass(frozen=True)
class Bucket:
    """A rate: ``limit`` units in ``period_s`` seconds, all of which may come at once.

    ``charged``: units that admission takes (1 for requests, 0 for tokens, which are known afterwards).
    """

    name: str
    limit: float
    period_s: float
    charged: float


@dataclass(frozen=True)
class Admission:
    """May the holder of ``key`` send another request? ``budgets`` bound its totals in ``period``."""

    key: str
    buckets: tuple[Bucket, ...] = ()
    budgets: Mapping[str, float] = field(default_factory=dict)
    period: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why not: a bucket's or a budget's name, and seconds until it helps to ask again (None: unknown)."""

    name: str
    retry_after_s: float | None


@dataclass(frozen=True)
class Bill:
    """What a request has used, added to the totals of ``period``; tokens also fill their buckets."""

    key: str
    used: Mapping[str, float]
    buckets: tuple[Bucket, ...] = ()
    period: str = ""
    keep_s: float = 0.0
    """how long the period's totals are kept"""


class Store(Protocol):
    """Every method but ``listen`` returns quickly or raises :class:`StoreDown`."""

    async def admit(self, ask: Admission) -> Refusal | None:
        """Check all buckets and budgets, and charge the buckets if all agree. Atomic."""
        ...

    async def charge(self, bill: Bill) -> None: ...

    async def used(self, key: str, period: str) -> Mapping[str, float]:
        """Totals of a period."""
        ...

    async def get(self, key: str) -> bytes | None: ...
    async def put(self, key: str, value: bytes, ttl_s: float) -> None: ...

    async def replace(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Put ``new``, for good, if the value is ``old`` (None: there is none). Atomic."""
        ...

    async def publish(self, channel: str, message: bytes) -> None:
        """To all that listen now. Nothing is kept."""
        ...

    def listen(self, channel: str) -> AsyncIterator[bytes]:
        """Messages from now on, for ever. Reconnects by itself, and then gives an empty message: some
        may have been missed."""
        ...

    async def ping(self) -> None: ...
    async def close(self) -> None: ...


@dataclass(frozen=True)
class Filled:
    """A bucket after a charge: ``until`` is when it will be empty again (Unix seconds)."""

    until: float
    retry_after_s: float


def fill(until: float, now: float, bucket: Bucket, amount: float) -> Filled:
    """The generic cell rate algorithm (ITU-T I.371): a bucket is described by when it will be empty.

    ``retry_after_s`` is 0 when ``amount`` fits, else the time until it does.
    """
    step = bucket.period_s / bucket.limit
    empty_at = max(until, now) + amount * step
    # An amount of 0 is let in while there is any room at all.
    needed = empty_at if amount else max(until, now) + step
    return Filled(empty_at, max(0.0, needed - now - bucket.period_s))
