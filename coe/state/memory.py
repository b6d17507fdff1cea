"""Shared state for one process."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

from cachetools import TLRUCache

from coe.state.store import Admission, Bill, Refusal, fill


class MemoryStore:
    """Belongs to one event loop. Of more than ``max_values`` values those used longest ago are forgotten."""

    def __init__(self, max_values: int = 10_000, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._until: dict[tuple[str, str], float] = {}
        self._totals: dict[tuple[str, str], dict[str, float]] = {}
        # Each value with its time to live.
        self._values: TLRUCache[str, tuple[bytes, float]] = TLRUCache(
            max_values, lambda _key, kept, now: now + kept[1], timer=now
        )
        self._listeners: dict[str, set[asyncio.Queue[bytes]]] = {}

    async def admit(self, ask: Admission) -> Refusal | None:
        totals = self._totals.get((ask.key, ask.period), {})
        for name, budget in ask.budgets.items():
            if totals.get(name, 0.0) >= budget:
                return Refusal(name, None)
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
        return None

    async def charge(self, bill: Bill) -> None:
        totals = self._totals.setdefault((bill.key, bill.period), {})
        for name, amount in bill.used.items():
            totals[name] = totals.get(name, 0.0) + amount
        for key, period in [k for k in self._totals if k[0] == bill.key and k[1] != bill.period]:
            del self._totals[key, period]
        now = self._now()
        for bucket in bill.buckets:
            place = bill.key, bucket.name
            amount = bill.used.get(bucket.name, 0.0)
            self._until[place] = fill(self._until.get(place, 0.0), now, bucket, amount).until

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
    async def close(self) -> None: ...
