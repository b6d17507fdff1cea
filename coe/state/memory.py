"""Shared state for one process."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from cachetools import TLRUCache

from coe.state.store import Admission, Bill, Refusal, Reservation, fill
from coe.state.usage_file import UsageFile

SAVE_EVERY_S = 2.0
LAST_SAVE_S = 5.0


class MemoryStore:
    """Belongs to one event loop. Of more than ``max_values`` values those used longest ago are forgotten."""

    def __init__(self, max_values: int = 10_000, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until: dict[tuple[str, str], float] = {}
        self._totals: dict[tuple[str, str], dict[str, float]] = {}
        # By holder and period. Its process charges each on every path, so none of them has to expire.
        self._reserved: dict[tuple[str, str], dict[str, Reservation]] = {}
        # Each value with its time to live.
        self._values: TLRUCache[str, tuple[bytes, float]] = TLRUCache(
            max_values, lambda _key, kept, now: now + kept[1], timer=now
        )
        self._listeners: dict[str, set[asyncio.Queue[bytes]]] = {}
        self._file: UsageFile | None = None
        self._saving: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def keep_totals(self, path: Path) -> None:
        """In a file from now on, with what is there already. Blocking."""
        self._file = UsageFile(path)
        self._totals = self._file.read()

    async def admit(self, ask: Admission) -> Refusal | None:
        totals = self._totals.get((ask.key, ask.period), {})
        reserved = self._reserved.get((ask.key, ask.period), {}).values()
        for name in ask.budgets:
            used = totals.get(name, 0.0)
            if not ask.fits(name, used + sum(each.amounts.get(name, 0.0) for each in reserved)):
                return Refusal(name, None, under_way=ask.fits(name, used))
        now = self._now()
        filled = [
            fill(self._until.get((ask.key, bucket.name), 0.0), now, bucket, bucket.charged)
            for bucket in ask.buckets
        ]
        for bucket, after in zip(ask.buckets, filled, strict=True):
            if after.retry_after_s > 0:
                return Refusal(bucket.name, after.retry_after_s)
        for bucket, after in zip(ask.buckets, filled, strict=True):
            self._until[ask.key, bucket.name] = after.until
        if ask.reserve is not None:
            self._reserved.setdefault((ask.key, ask.period), {})[ask.reserve.id] = ask.reserve
        return None

    async def charge(self, bill: Bill) -> None:
        self._release(bill)
        totals = self._totals.setdefault((bill.key, bill.period), {})
        for name, amount in bill.used.items():
            totals[name] = totals.get(name, 0.0) + amount
        for place in [k for k in self._totals if k[0] == bill.key and k[1] < bill.period]:
            del self._totals[place]
        if self._file is not None:
            self._file.note(bill)
        now = self._now()
        for bucket in bill.buckets:
            place = bill.key, bucket.name
            amount = bill.used.get(bucket.name, 0.0)
            self._until[place] = fill(self._until.get(place, 0.0), now, bucket, amount).until

    def _release(self, bill: Bill) -> None:
        place = bill.key, bill.period
        if bill.reserved is not None and (held := self._reserved.get(place)) is not None:
            held.pop(bill.reserved.id, None)
            if not held:
                del self._reserved[place]

    async def used(self, key: str, period: str) -> Mapping[str, float]:
        return dict(self._totals.get((key, period), {}))

    async def get(self, key: str) -> bytes | None:
        found = self._values.get(key)
        return None if found is None else found[0]

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        self._values[key] = (value, ttl_s)

    async def replace(self, key: str, old: bytes | None, new: bytes) -> bool:
        if await self.get(key) != old:
            return False
        await self.put(key, new, math.inf)
        return True

    async def publish(self, channel: str, message: bytes) -> None:
        for queue in self._listeners.get(channel, ()):
            queue.put_nowait(message)

    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._listeners.setdefault(channel, set()).add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            with suppress(KeyError):
                self._listeners[channel].remove(queue)

    async def ping(self) -> None: ...

    def start(self) -> None:
        if self._file is not None and self._saving is None:
            self._saving = asyncio.create_task(self._save_totals(self._file), name="save usage")

    async def close(self) -> None:
        self._closing.set()
        if self._saving is not None:
            with suppress(TimeoutError):  # the disk stalls
                await asyncio.wait_for(self._saving, LAST_SAVE_S)

    async def _save_totals(self, file: UsageFile) -> None:
        """Until it is closed, and once more then."""
        last = False
        while not last:
            with suppress(TimeoutError):
                last = await asyncio.wait_for(self._closing.wait(), SAVE_EVERY_S)
            if (saved := await file.save()) is not None:
                self._totals = saved
