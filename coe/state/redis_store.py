"""Shared state in Redis, for many gateways. Every decision is one script, so that it is atomic."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, cast

from coe.state.store import Admission, Bill, Bucket, Refusal, Reservation, StoreDown

log = logging.getLogger(__name__)

TIMEOUT_S = 0.5
RECONNECT_S = 0.2
LONGEST_RECONNECT_S = 5.0

# The same arithmetic as coe.state.store.fill, on the server's clock, which all gateways share.
# Reservations: a sorted set of them by when they end, each written out with what it reserves, and a hash of
# their sums. Those whose gateway died are taken back when the next request is looked at.
RELEASE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local function release(sums, ends, reserved)
  if redis.call('ZREM', ends, reserved) == 0 then return end
  for name, amount in pairs(cjson.decode(reserved).amounts) do
    redis.call('HINCRBYFLOAT', sums, name, -amount)
  end
  if redis.call('ZCARD', ends) == 0 then redis.call('DEL', sums) end
end
"""
ADMIT = (
    RELEASE
    + """
local ask = cjson.decode(ARGV[1])
for _, reserved in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)) do
  release(KEYS[2], KEYS[3], reserved)
end
for name, budget in pairs(ask.budgets) do
  local used = tonumber(redis.call('HGET', KEYS[1], name) or '0')
  local reserved = tonumber(redis.call('HGET', KEYS[2], name) or '0')
  local whole = ask.whole[name] or 0
  local function fits(taken) return taken < budget and taken + whole <= budget end
  if not fits(used + reserved) then return {name, '', fits(used) and '1' or ''} end
end
local filled = {}
for index, bucket in ipairs(ask.buckets) do
  local from = math.max(tonumber(redis.call('GET', KEYS[index + 3]) or '0'), now)
  local step = bucket.period_s / bucket.limit
  local needed = from + step
  if bucket.charged > 0 then needed = from + bucket.charged * step end
  local wait = needed - now - bucket.period_s
  if wait > 0 then return {bucket.name, tostring(wait), ''} end
  filled[index] = from + bucket.charged * step
end
for index, bucket in ipairs(ask.buckets) do
  local ttl = math.ceil(filled[index] - now) + 1
  redis.call('SET', KEYS[index + 3], string.format('%.6f', filled[index]), 'EX', ttl)
end
if ask.reserved ~= '' then
  redis.call('ZADD', KEYS[3], string.format('%.6f', now + ask.hold_s), ask.reserved)
  for name, amount in pairs(cjson.decode(ask.reserved).amounts) do
    redis.call('HINCRBYFLOAT', KEYS[2], name, amount)
  end
  local ttl = math.max(math.ceil(ask.hold_s) + 60, redis.call('TTL', KEYS[3]))
  redis.call('EXPIRE', KEYS[2], ttl)
  redis.call('EXPIRE', KEYS[3], ttl)
end
return {}
"""
)
CHARGE = (
    RELEASE
    + """
local bill = cjson.decode(ARGV[1])
if bill.reserved ~= '' then release(KEYS[2], KEYS[3], bill.reserved) end
for name, amount in pairs(bill.used) do redis.call('HINCRBYFLOAT', KEYS[1], name, amount) end
if bill.keep_s > 0 then redis.call('EXPIRE', KEYS[1], math.ceil(bill.keep_s)) end
for index, bucket in ipairs(bill.buckets) do
  local from = math.max(tonumber(redis.call('GET', KEYS[index + 3]) or '0'), now)
  local filled = from + (bill.used[bucket.name] or 0) * bucket.period_s / bucket.limit
  redis.call('SET', KEYS[index + 3], string.format('%.6f', filled), 'EX', math.ceil(filled - now) + 1)
end
return 1
"""
)
REPLACE = """
if redis.call('GET', KEYS[1]) ~= (ARGV[2] or false) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""


class RedisStore:
    """Belongs to one event loop. ``prefix`` keeps services that share a Redis apart. A call that takes longer
    than ``timeout_s`` finds the store down."""

    def __init__(self, url: str, prefix: str = "coe:", timeout_s: float = TIMEOUT_S) -> None:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError

        # Once more at once: after a restart of Redis every pooled connection fails its first call.
        once_more = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))
        self._prefix = prefix
        self._redis: Any = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=once_more
        )
        self._admit = self._redis.register_script(ADMIT)
        self._charge = self._redis.register_script(CHARGE)
        self._replace = self._redis.register_script(REPLACE)

    async def admit(self, ask: Admission) -> Refusal | None:
        amounts, hold_s = (ask.reserve.amounts, ask.reserve.hold_s) if ask.reserve else ({}, 0.0)
        body = {
            "budgets": dict(ask.budgets),
            "buckets": [vars(bucket) for bucket in ask.buckets],
            "whole": {name: amounts[name] for name in ask.whole if name in amounts},
            "reserved": _written(ask.reserve),
            "hold_s": hold_s,
        }
        answer = await self._reach(
            self._admit(self._places(ask.key, ask.period, ask.buckets), [json.dumps(body)])
        )
        if not answer:
            return None
        name, wait, under_way = (part.decode() for part in answer)
        return Refusal(name, float(wait) if wait else None, bool(under_way))

    async def charge(self, bill: Bill) -> None:
        body = {
            "used": dict(bill.used),
            "keep_s": bill.keep_s,
            "buckets": [vars(bucket) for bucket in bill.buckets],
            "reserved": _written(bill.reserved),
        }
        places = self._places(bill.key, bill.period, bill.buckets)
        await self._reach(self._charge(places, [json.dumps(body)]))

    async def used(self, key: str, period: str) -> Mapping[str, float]:
        found = await self._reach(self._redis.hgetall(self._totals(key, period)))
        return {name.decode(): float(value) for name, value in found.items()}

    async def get(self, key: str) -> bytes | None:
        return cast("bytes | None", await self._reach(self._redis.get(self._prefix + "value:" + key)))

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._reach(self._redis.set(self._prefix + "value:" + key, value, px=max(1, int(ttl_s * 1000))))

    async def replace(self, key: str, old: bytes | None, new: bytes) -> bool:
        known = [] if old is None else [old]
        return bool(await self._reach(self._replace([self._prefix + "value:" + key], [new, *known])))

    async def publish(self, channel: str, message: bytes) -> None:
        await self._reach(self._redis.publish(self._prefix + "channel:" + channel, message))

    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        pause = RECONNECT_S
        while True:
            try:
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(self._prefix + "channel:" + channel)
                    pause = RECONNECT_S
                    yield b""
                    async for message in _messages(subscription):
                        yield message
            except _lost_connections() as error:
                log.warning("Redis cannot be listened to: %s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_RECONNECT_S)

    def start(self) -> None: ...

    async def ping(self) -> None:
        await self._reach(self._redis.ping())

    async def close(self) -> None:
        await self._redis.aclose()

    def _totals(self, key: str, period: str) -> str:
        # Braces: all keys of one holder are in one slot of a Redis cluster, as scripts need.
        return f"{self._prefix}{{{key}}}:totals:{period}"

    def _places(self, key: str, period: str, buckets: tuple[Bucket, ...]) -> list[str]:
        own = f"{self._prefix}{{{key}}}"
        return [
            self._totals(key, period),
            f"{own}:reserved:{period}",
            f"{own}:reservations:{period}",
            *(f"{own}:rate:{bucket.name}" for bucket in buckets),
        ]

    async def _reach(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except _lost_connections() as error:
            raise StoreDown(f"Redis: {error}") from error


def _written(reserved: Reservation | None) -> str:
    """As it stands in Redis: equal for the admission and the bill."""
    return json.dumps({"id": reserved.id, "amounts": dict(reserved.amounts)}) if reserved else ""


async def _messages(subscription: Any) -> AsyncIterator[bytes]:
    while True:
        # With a timeout, so that a connection that died silently is noticed by the ping.
        message = await subscription.get_message(ignore_subscribe_messages=True, timeout=5.0)
        if message is None:
            await subscription.ping()
        elif message["type"] == "message":
            yield message["data"]


def _lost_connections() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError

    return (RedisError, OSError, TimeoutError)
