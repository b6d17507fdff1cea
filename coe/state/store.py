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
class Reservation:
    """What a request that was let in may come to use. It counts against the budgets until its bill comes, or
    for ``hold_s``: a gateway that dies sends no bill. ``id`` is its own."""

    id: str
    amounts: Mapping[str, float]
    hold_s: float


@dataclass(frozen=True)
class Admission:
    """May the holder of ``key`` send another request? ``budgets`` bound its totals in ``period``,
    reservations included. Of those in ``whole`` the reservation has to fit; of the others there has to be
    something left, so that what is left can be used, whatever was estimated."""

    key: str
    buckets: tuple[Bucket, ...] = ()
    budgets: Mapping[str, float] = field(default_factory=dict)
    period: str = ""
    reserve: Reservation | None = None
    whole: tuple[str, ...] = ("requests",)

    def fits(self, name: str, taken: float) -> bool:
        """Whether it may come in where so much of a budget is taken."""
        amount = self.reserve.amounts.get(name, 0.0) if self.reserve and name in self.whole else 0.0
        budget = self.budgets[name]
        return taken + amount <= budget if amount else taken < budget


@dataclass(frozen=True)
class Refusal:
    """Why not: a bucket's or a budget's name, and seconds until it helps to ask again (None: unknown).
    ``under_way``: the budget is not used up; what is left of it is reserved."""

    name: str
    retry_after_s: float | None
    under_way: bool = False


@dataclass(frozen=True)
class Bill:
    """What a request has used, added to the totals of ``period`` in place of its reservation there; tokens
    also fill their buckets."""

    key: str
    used: Mapping[str, float]
    buckets: tuple[Bucket, ...] = ()
    period: str = ""
    keep_s: float = 0.0
    """how long the period's totals are kept"""
    reserved: Reservation | None = None


class Store(Protocol):
    """Every method but ``listen`` returns quickly or raises :class:`StoreDown`."""

    async def admit(self, ask: Admission) -> Refusal | None:
        """Check all buckets and budgets; if all agree, charge the buckets and reserve. Atomic."""
        ...

    async def charge(self, bill: Bill) -> None:
        """Atomic."""
        ...

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

    def start(self) -> None:
        """In the event loop where it is used; before that it may be made anywhere. Idempotent."""
        ...

    async def ping(self) -> None: ...
    async def close(self) -> None: ...


@dataclass(frozen=True)
class Filled:
    """A bucket after a charge: ``until`` is when it will be empty again, by the clock of ``fill``."""

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
