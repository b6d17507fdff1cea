"""Lets requests in and writes down what they used."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from coe.access.api_keys import Holder, KeyLimits, KeyRing
from coe.core.errors import CoeError, OverLimit, ServiceDown, Unauthorised
from coe.core.openai import is_data_url
from coe.core.types import Leg, Receipt
from coe.registry.schema import Registry
from coe.state.memory import MemoryStore
from coe.state.store import Admission, Bill, Bucket, Store, StoreDown

log = logging.getLogger(__name__)

DAY_S = 86_400.0
MONTH_S = 32 * DAY_S
WhenDown = Literal["open", "closed"]
_BUDGETS = ("requests", "tokens", "usd", "gpu_seconds", "swaps")
_UNITS = {"usd": "US dollars", "gpu_seconds": "GPU seconds"}

ANYBODY = Holder(id="anonymous", sha256="0" * 64)


@dataclass(frozen=True)
class Used:
    """What one request used, over all its legs. ``gpu_seconds``: time that experts were leased to it."""

    tokens: float = 0.0
    usd: float = 0.0
    gpu_seconds: float = 0.0
    swaps: float = 0.0


@dataclass(frozen=True)
class _Month:
    """The month's name, as found on ``day`` (days since 1970)."""

    day: float
    name: str


class AccessControl:
    """Checks keys against ``ring`` (None: everybody may come) and limits in ``store``.

    ``when_down``: without the store, ``open`` counts in this process only, ``closed`` refuses.
    """

    def __init__(
        self,
        ring: KeyRing | None,
        store: Store,
        when_down: WhenDown = "open",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ring, self._store, self._when_down, self._now = ring, store, when_down, now
        self._meanwhile = MemoryStore()
        self._month = _Month(-1, "")
        self.down = 0
        """times that the store could not be reached"""

    async def admit(self, headers: Mapping[bytes, bytes]) -> Holder:
        """Whose request it is. Raises Unauthorised, OverLimit, or ServiceDown (closed without a store)."""
        holder = self.identify(headers)
        if holder is ANYBODY:
            return holder
        buckets, budgets = _buckets(holder.limits), _budgets(holder.limits)
        if not (buckets or budgets):
            return holder
        ask = Admission(holder.id, buckets, budgets, self._period())
        try:
            refusal = await self._store.admit(ask)
        except StoreDown as error:
            self._lost(error)
            if self._when_down == "closed":
                raise ServiceDown(
                    "limits cannot be checked at the moment",
                    hint="Send the request again in a moment.",
                    retry_after_s=2.0,
                ) from error
            refusal = await self._meanwhile.admit(ask)
        if refusal is not None:
            raise _over(refusal.name, refusal.retry_after_s, ask)
        return holder

    async def charge(self, holder: Holder, used: Used) -> None:
        """Never raises: the answer has been given."""
        if holder is ANYBODY:
            return
        amounts = {"requests": 1.0, **{name: value for name, value in vars(used).items() if value}}
        bill = Bill(holder.id, amounts, _token_buckets(holder.limits), self._period(), MONTH_S)
        try:
            await self._store.charge(bill)
        except StoreDown as error:
            self._lost(error)
            await self._meanwhile.charge(bill)

    def identify(self, headers: Mapping[bytes, bytes]) -> Holder:
        """Whose request it is, without counting it. Raises Unauthorised."""
        if self._ring is None:
            return ANYBODY
        scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        holder = self._ring.holder(key.strip()) if scheme.lower() == "bearer" else None
        if holder is None:
            what = "is not known" if key else "is missing"
            raise Unauthorised(f"the API key {what}", hint="Send the header Authorization: Bearer KEY.")
        return holder

    def change_keys(self, ring: KeyRing) -> None:
        """From now on these holders may come. What one has used counts by its id, and stays."""
        self._ring = ring

    def _period(self) -> str:
        now = self._now()
        if self._month.day != now // DAY_S:
            self._month = _Month(now // DAY_S, datetime.fromtimestamp(now, UTC).strftime("%Y-%m"))
        return self._month.name

    def _lost(self, error: StoreDown) -> None:
        self.down += 1
        log.warning("shared state: %s", error)


def _buckets(limits: KeyLimits) -> tuple[Bucket, ...]:
    requests = limits.requests_per_minute
    found = (Bucket("requests", requests, 60.0, 1.0),) if requests is not None else ()
    return (*found, *_token_buckets(limits))


def _token_buckets(limits: KeyLimits) -> tuple[Bucket, ...]:
    tokens = limits.tokens_per_minute
    return (Bucket("tokens", tokens, 60.0, 0.0),) if tokens is not None else ()


def _budgets(limits: KeyLimits) -> Mapping[str, float]:
    named = {name: getattr(limits, f"{name}_per_month") for name in _BUDGETS}
    return {name: bound for name, bound in named.items() if bound is not None}


def _over(name: str, retry_after_s: float | None, ask: Admission) -> CoeError:
    if retry_after_s is None:
        unit = _UNITS.get(name, name)
        return OverLimit(
            f"this month's budget of {ask.budgets[name]:g} {unit} is used up",
            code="budget_exceeded",
            hint="It is reset when the next month begins (UTC). The operator of the service can raise it.",
        )
    bucket = next(bucket for bucket in ask.buckets if bucket.name == name)
    return OverLimit(
        f"the limit of {bucket.limit:g} {name} per minute is reached",
        code="rate_limit_exceeded",
        hint=f"Send the request again in {retry_after_s:.0f} s.",
        retry_after_s=retry_after_s,
    )


CHARS_PER_TOKEN = 4.0
"""Where an expert does not say how long a prompt was (a stream without usage)."""


def used(receipt: Receipt, registry: Registry, body: Mapping[str, Any]) -> Used:
    """Summed over all legs, those included that failed or were not needed: their time was used too. ``body``:
    what the client sent."""
    total = Used()
    for leg in receipt.legs:
        prompt, completion = _tokens(leg, body)
        expert = registry.experts_by_id.get(leg.expert)
        price = expert.price if expert else None
        usd = (prompt * price.input + completion * price.output) / 1e6 if price else 0.0
        total = Used(
            tokens=total.tokens + prompt + completion,
            usd=total.usd + usd,
            gpu_seconds=total.gpu_seconds + (leg.run_ms or 0.0) / 1000,
            swaps=total.swaps + (leg.wake_from != "awake"),
        )
    return total


def _tokens(leg: Leg, body: Mapping[str, Any]) -> tuple[float, float]:
    """Prompt and completion. A stream without usage is counted by its events, about one a token."""
    if leg.run_ms is None:
        return 0.0, 0.0
    known = leg.prompt_tokens
    prompt = float(known) if known is not None else prompt_characters(body) / CHARS_PER_TOKEN
    return prompt, float(leg.tokens if leg.tokens is not None else leg.events)


def prompt_characters(body: Mapping[str, Any]) -> int:
    """Characters of all that a request has the expert read: turns, texts of parts, tools, prompts. Token
    ids count as four characters each, media not at all."""
    read = [body.get(key) for key in ("messages", "prompt", "tools", "functions", "suffix")]
    return sum(map(_characters, read))


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return 0 if is_data_url(value) else len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    if isinstance(value, list):
        return sum(map(_characters, value))
    return 4 if type(value) is int else 0
