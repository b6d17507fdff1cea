"""The completion endpoints: admit, read, answer from the cache or by experts, settle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from opentelemetry.trace import get_current_span

from coe.access.api_keys import Holder
from coe.access.limits import AccessControl, Visit, used
from coe.access.response_cache import Versioned
from coe.core.errors import CoeError
from coe.core.types import Endpoint, Receipt, Request
from coe.gateway.http import Deadline, Exchange
from coe.gateway.metrics import Metrics
from coe.gateway.requests import parse_completion, parsed, read_body
from coe.gateway.responses import (
    DONE_EVENT,
    body_from_cache,
    body_with_receipt,
    completion_id,
    receipt_event,
    receipt_headers,
)
from coe.observe.tracing import code_of, note, of_request
from coe.pipeline import Answer, Pipeline
from coe.pipeline.generation import Generations
from coe.pipeline.legs import Account
from coe.registry.schema import Limits, Registry

log = logging.getLogger(__name__)


@dataclass
class Completion:
    """One completion request and what came of it. ``registry`` was current when it came. ``body``: what was
    sent, unless it was a stream; ``failed``: the code of what went wrong."""

    request: Request
    visit: Visit
    registry: Registry
    exchange: Exchange
    cache_key: str | None = None
    account: Account = field(default_factory=Account)
    """what experts have done for it"""
    begun: bool = False
    """whether experts are asked, so that observers know of it"""
    answer: Answer | None = None
    """None until an expert has begun to answer"""
    body: bytes | None = None
    sent: bytearray | None = None
    """what was sent so far, where an observer asked for it"""
    failed: str | None = None

    @property
    def caller(self) -> Holder:
        """Whose request it is."""
        return self.visit.holder

    @property
    def receipt(self) -> Receipt | None:
        return self.exchange.receipt


class Observer:
    """Sees each completion that experts were asked for. What it raises is logged and harms nobody."""

    def begun(self, done: Completion) -> None:
        """Before anybody is asked. Quick."""

    async def completed(self, done: Completion) -> None:
        """After the last byte was sent, or the request failed or was cancelled."""

    def show_in(self, metrics: Metrics) -> None:
        """Have its numbers shown."""

    def close(self) -> None:
        """After the last completion. Blocking."""


class Cache(Protocol):
    """Where answers may be found (:class:`coe.access.response_cache.ResponseCache`)."""

    def key(self, request: Request, tenant: str, version: Versioned) -> str | None: ...
    async def find(self, key: str | None) -> bytes | None: ...


class NoCache:
    """What is there instead of a response cache that nobody asked for."""

    down = 0
    lookups: Mapping[str, int] = {}

    def key(self, request: Request, tenant: str, version: Versioned) -> None:  # noqa: ARG002
        return None

    async def find(self, key: str | None) -> None:  # noqa: ARG002
        return None


class Completions:
    """Both completion endpoints. Its only state are the answers that are being settled."""

    def __init__(
        self,
        pipeline: Pipeline,
        generations: Generations,
        metrics: Metrics,
        access: AccessControl,
        cache: Cache,
        observers: Sequence[Observer],
    ) -> None:
        self._pipeline, self._generations, self._metrics = pipeline, generations, metrics
        self._access, self._cache, self._observers = access, cache, observers
        self._settling: set[asyncio.Task[None]] = set()

    async def complete(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """Read, admit, answer from the cache or by experts, settle."""
        generation = self._generations.current
        limits = generation.registry.limits
        caller = self._access.identify(exchange.headers)
        async with Deadline(exchange, limits.request_timeout_s) as deadline:
            request = await self._read(exchange, endpoint, caller, limits)
            deadline.watch_client()
            if (span := get_current_span()).is_recording():
                note(span, of_request(request))
            visit = self._access.visit(caller, request, generation.registry)
            key = self._cache.key(request, caller.tenant or caller.id, generation)
            done = Completion(request, visit, generation.registry, exchange, key)
            async with self._settled(done):
                await self._access.enter(visit)
                if (cached := await self._cache.find(key)) is not None:
                    done.account.prompts.add(request.id)
                    body = body_from_cache(cached, request.id)
                    await exchange.send_bytes(body, headers=[(b"x-coe-cache", b"hit")])
                    return
                done.begun = True
                for observer in self._observers:
                    observer.begun(done)
                done.answer = await self._pipeline.answer(request, done.account)
                await (_stream if request.stream else _send_whole)(done, done.answer)

    async def _read(self, exchange: Exchange, endpoint: Endpoint, caller: Holder, limits: Limits) -> Request:
        """The checked request. One that is refused counts to the rates of whoever sent it."""
        try:
            raw = await read_body(exchange.receive, exchange.headers, limits.max_body_bytes)
            parse = partial(parse_completion, endpoint, raw, exchange.headers, limits, exchange.request_id)
            return await parsed(raw, parse)
        except CoeError:
            await self._access.count(caller)
            raise

    @asynccontextmanager
    async def _settled(self, done: Completion) -> AsyncIterator[None]:
        """Whatever ends the block, what was used is given back, charged and seen by the observers."""
        try:
            yield
        except BaseException as error:
            done.failed = code_of(error)
            raise
        finally:
            settling = asyncio.create_task(self._settle(done))
            self._settling.add(settling)
            settling.add_done_callback(self._settling.discard)
            # Goes on when the request is cancelled meanwhile: what was used is charged.
            await asyncio.shield(settling)

    async def _settle(self, done: Completion) -> None:
        """The one place where work is paid for: all that experts did, whether or not an answer came of it."""
        if done.answer is not None:
            await done.answer.aclose()
            if done.exchange.receipt is None:  # it broke off
                done.exchange.receipt = done.answer.receipt()
        account = done.account
        bill = used(((leg.leg(), leg.sent) for leg in account.legs), done.registry)
        self._metrics.charged(bill)
        prompts = max(len(account.prompts), bool(account.legs))
        await self._access.charge(done.visit, bill, float(prompts * done.request.choices))
        for observer in self._observers if done.begun else ():
            try:
                await observer.completed(done)
            except Exception:
                log.exception("request %s: an observer failed", done.request.id)


async def _send_whole(done: Completion, answer: Answer) -> None:
    exchange = done.exchange
    raw = b"".join([chunk async for chunk in answer.chunks()])
    receipt = exchange.receipt = answer.receipt()
    body = body_with_receipt(raw, receipt)
    exchange.completion = completion_id(raw)
    await exchange.send_bytes(body, headers=receipt_headers(receipt))
    done.body = body


async def _stream(done: Completion, answer: Answer) -> None:
    exchange = done.exchange
    await exchange.start_stream(receipt_headers(answer.receipt()))
    async for chunk in answer.chunks():
        if exchange.completion is None:
            exchange.completion = completion_id(chunk)
        await exchange.write(chunk)
    receipt = exchange.receipt = answer.receipt()
    last = receipt_event(receipt, done.request.endpoint, created=int(time.time()))
    await exchange.end(last + DONE_EVENT)
