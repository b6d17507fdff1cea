"""Lets requests in and writes down what they used."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from coe.access.api_keys import Holder, KeyLimits, KeyRing
from coe.core.errors import BadRequest, CoeError, OverLimit, ServiceDown, Unauthorised
from coe.core.types import Leg, Request, is_data_url, is_true, number
from coe.registry.schema import Expert, Registry
from coe.state.memory import MemoryStore
from coe.state.store import Admission, Bill, Bucket, Refusal, Reservation, Store, StoreDown

log = logging.getLogger(__name__)

DAY_S = 86_400.0
MONTH_S = 32 * DAY_S
WhenDown = Literal["open", "closed"]
_BUDGETS = ("requests", "tokens", "usd", "gpu_seconds", "swaps")
_UNITS = {"usd": "US dollars", "gpu_seconds": "GPU seconds"}

ANYBODY = Holder(id="anonymous", sha256="0" * 64)


@dataclass(frozen=True)
class Used:
    """What one request used, over all its legs. ``gpu_seconds``: time that experts worked on it."""

    tokens: float = 0.0
    usd: float = 0.0
    gpu_seconds: float = 0.0
    swaps: float = 0.0


@dataclass(frozen=True)
class _Month:
    """The month's name, as found on ``day`` (days since 1970)."""

    day: float
    name: str


@dataclass
class Visit:
    """One request of a holder, from its admission to its bill, which it gets on every path."""

    holder: Holder
    period: str
    requests: float
    """as how many it counts: one for each answer to each prompt"""
    reserve: Reservation
    at: Store | None = None
    """where it is admitted, or about to be"""


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
        self._usual = Used(tokens=200.0, gpu_seconds=1.0, swaps=0.0)
        self.down = 0
        """times that the store could not be reached"""

    async def admit(self, headers: Mapping[bytes, bytes]) -> Holder:
        """Whose request it is, one that experts are not asked for: it counts to the rates alone. Raises
        Unauthorised, OverLimit, or ServiceDown (closed without a store)."""
        holder = self.identify(headers)
        await self.count(holder)
        return holder

    async def count(self, holder: Holder) -> None:
        """See :meth:`admit`."""
        if buckets := _buckets(holder.limits, 1.0):
            await self._require(Admission(holder.id, buckets))

    def visit(self, holder: Holder, request: Request, registry: Registry) -> Visit:
        """What is to be reserved for a request until its experts have answered. Reserves nothing yet."""
        requests, limits = float(request.prompts * request.choices), registry.limits
        names = [] if holder is ANYBODY else [*_budgets(holder.limits)]
        amounts = {"requests": requests, **estimate(request, registry, self._usual)} if names else {}
        reserve = Reservation(
            request.id,
            {name: amounts[name] for name in names},
            hold_s=limits.request_timeout_s + LATEST_BILL_S,
        )
        return Visit(holder, self._period(), requests, reserve)

    async def enter(self, visit: Visit) -> None:
        """Raises BadRequest (more at once than ever may come), OverLimit, or ServiceDown."""
        limits = visit.holder.limits
        buckets, budgets = _buckets(limits, visit.requests), _budgets(limits)
        if not (buckets or budgets):
            return
        if limits.requests_per_minute is not None and 1 < visit.requests > limits.requests_per_minute:
            raise _never(visit.requests, limits.requests_per_minute)
        visit.at = self._store  # before it is asked: what it has reserved is given back though nobody waits
        ask = Admission(visit.holder.id, buckets, budgets, visit.period, visit.reserve)
        try:
            visit.at = await self._require(ask)
        except CoeError:
            visit.at = None
            raise

    async def charge(self, visit: Visit, used: Used, requests: float) -> None:
        """The bill, in place of what was reserved. ``requests``: as how many it counts after all. Never
        raises: the answer has been given."""
        holder = visit.holder
        if requests:
            self._usual = _moved(self._usual, used, requests)
        if holder is ANYBODY or not (requests or visit.at):
            return
        amounts = {"requests": requests, **vars(used)}
        bill = Bill(
            holder.id,
            {name: value for name, value in amounts.items() if value},
            _token_buckets(holder.limits),
            visit.period,
            MONTH_S,
            visit.reserve if visit.at else None,
        )
        try:
            await self._store.charge(bill)
        except StoreDown as error:
            self._lost(error)
            await self._meanwhile.charge(bill)
        else:
            if visit.at is self._meanwhile:
                await self._meanwhile.charge(replace(bill, used={}, buckets=()))

    async def _require(self, ask: Admission) -> Store:
        """Where it was admitted. Raises what :meth:`admit` does."""
        admitting: Store = self._store
        try:
            refusal = await admitting.admit(ask)
        except StoreDown as error:
            self._lost(error)
            if self._when_down == "closed":
                raise ServiceDown(
                    "limits cannot be checked at the moment",
                    hint="Send the request again in a moment.",
                    retry_after_s=2.0,
                ) from error
            admitting = self._meanwhile
            refusal = await admitting.admit(ask)
        if refusal is not None:
            raise _over(refusal, ask)
        return admitting

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


def _buckets(limits: KeyLimits, charged: float) -> tuple[Bucket, ...]:
    requests = limits.requests_per_minute
    found = (Bucket("requests", requests, 60.0, charged),) if requests is not None else ()
    return (*found, *_token_buckets(limits))


def _token_buckets(limits: KeyLimits) -> tuple[Bucket, ...]:
    tokens = limits.tokens_per_minute
    return (Bucket("tokens", tokens, 60.0, 0.0),) if tokens is not None else ()


def _budgets(limits: KeyLimits) -> Mapping[str, float]:
    named = {name: getattr(limits, f"{name}_per_month") for name in _BUDGETS}
    return {name: bound for name, bound in named.items() if bound is not None}


def _over(refusal: Refusal, ask: Admission) -> CoeError:
    name, wait = refusal.name, refusal.retry_after_s
    if wait is None:
        unit = _UNITS.get(name, name)
        budget = f"this month's budget of {ask.budgets[name]:g} {unit}"
        if refusal.under_way:
            return OverLimit(
                f"what is left of {budget} is reserved for requests under way",
                code="budget_exceeded",
                hint="Ask again when some of them have ended.",
                retry_after_s=UNDER_WAY_RETRY_S,
            )
        asks = ask.reserve.amounts.get(name, 0.0) if ask.reserve else 0.0
        return OverLimit(
            f"{budget} has no {asks:g} left" if name in ask.whole and asks > 1 else f"{budget} is used up",
            code="budget_exceeded",
            hint="It is reset when the next month begins (UTC). The operator of the service can raise it.",
        )
    bucket = next(bucket for bucket in ask.buckets if bucket.name == name)
    return OverLimit(
        f"the limit of {bucket.limit:g} {name} per minute is reached",
        code="rate_limit_exceeded",
        hint=f"Send the request again in {wait:.0f} s.",
        retry_after_s=wait,
    )


def _never(requests: float, limit: float) -> BadRequest:
    return BadRequest(
        f"the request counts as {requests:g}, one for each answer to each prompt, and {limit:g} may come in a"
        " minute",
        code="too_many_prompts",
        param="prompt",
        hint="Send fewer prompts in one request, or a smaller n.",
    )


CHARS_PER_TOKEN = 4.0
"""Where an expert does not say how long a prompt was."""
TOKENS_PER_S = 20.0
"""What an expert has written of a whole answer that was given up, for each second of its work."""
UNDER_WAY_RETRY_S = 5.0
LATEST_BILL_S = 60.0
"""After its time-out a request has ended, and its bill is on the way."""
_NEW = 0.1
"""The weight of a request in what is usual."""
_GIVEN_UP = frozenset({"cancelled", "failed: engine_broke_off", "failed: stream_broken"})
"""Outcomes of legs that did not end with the expert's own word: it read the prompt, and wrote."""


def used(legs: Iterable[tuple[Leg, Mapping[str, Any]]], registry: Registry) -> Used:
    """Summed over all legs, those included that failed or were not needed: their time was used too. Each
    comes with what its expert was sent."""
    total = Used()
    for leg, body in legs:
        prompt, completion = _tokens(leg, body)
        expert = registry.experts_by_id.get(leg.expert)
        total = Used(
            tokens=total.tokens + prompt + completion,
            usd=total.usd + _usd(expert, prompt, completion),
            gpu_seconds=total.gpu_seconds + (leg.run_ms or 0.0) / 1000,
            swaps=total.swaps + (leg.wake_from != "awake"),
        )
    return total


def estimate(request: Request, registry: Registry, usual: Used) -> Mapping[str, float]:
    """What a request may come to use: its prompt, and as many tokens as it allows or else as is usual; by the
    price of the dearest expert that may be chosen, for each that it asks for."""
    body, answers = request.body, request.prompts * request.choices
    experts = request.options.experts if isinstance(request.options.experts, int) else 1
    prompt = experts * prompt_characters(body) / CHARS_PER_TOKEN
    completion = experts * answers * (_bound(body) or usual.tokens)
    named = registry.experts_by_id.get(request.model)
    candidates = registry.routed if named is None else (named,)
    return {
        "tokens": prompt + completion,
        "usd": max((_usd(expert, prompt, completion) for expert in candidates), default=0.0),
        "gpu_seconds": experts * answers * usual.gpu_seconds,
        "swaps": experts * usual.swaps,
    }


def _moved(usual: Used, used: Used, requests: float) -> Used:
    """What is usual for one request, after another one."""
    old, new = vars(usual), vars(used)
    return Used(**{name: (1 - _NEW) * old[name] + _NEW * new[name] / requests for name in old})


def _usd(expert: Expert | None, prompt: float, completion: float) -> float:
    price = expert.price if expert else None
    return (prompt * price.input + completion * price.output) / 1e6 if price else 0.0


def _tokens(leg: Leg, body: Mapping[str, Any]) -> tuple[float, float]:
    """Prompt and completion: as reported, else estimated. A stream is counted by its events, about one a
    token; a whole answer that was given up by the time. An error costs no tokens."""
    given_up = leg.outcome in _GIVEN_UP
    known, run_ms = leg.prompt_tokens, leg.run_ms
    if run_ms is None or not (given_up or known or leg.events or leg.outcome == "ok"):
        return 0.0, 0.0
    prompt = float(known) if known is not None else prompt_characters(body) / CHARS_PER_TOKEN
    if leg.tokens is not None:
        return prompt, float(leg.tokens)
    if not given_up or is_true(body.get("stream")):
        return prompt, float(leg.events)
    by_time, bound = run_ms / 1000 * TOKENS_PER_S, _bound(body)
    return prompt, by_time if bound is None else min(by_time, float(bound * (number(body.get("n")) or 1)))


def _bound(body: Mapping[str, Any]) -> int | None:
    """Most tokens of one answer, where the request says."""
    bound = number(body.get("max_completion_tokens")) or number(body.get("max_tokens"))
    return int(bound) if bound else None


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
