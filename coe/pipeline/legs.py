"""One expert asked for one request: the lease, the engine's answer under way, and the account of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from opentelemetry.trace import Span, SpanKind

from coe.core.errors import CoeError, EngineError, ExpertRefused, ExpertUnavailable
from coe.core.types import EngineCall, ExpertId, Leg, Request, RequestId, Role, is_true
from coe.engines.upstream import AnswerReader
from coe.observe.tracing import (
    begin,
    code_of,
    fail,
    headers_under,
    hop,
    note,
    of_leg,
    of_question,
    operation,
)
from coe.pipeline.leases import Clock, Lease, Leases


@dataclass
class Account:
    """What a request has had done for it so far, whatever becomes of it: every leg from the moment that its
    expert was asked. ``prompts``: those of its prompts that were put to an expert."""

    legs: list[LiveLeg] = field(default_factory=list)
    prompts: set[RequestId] = field(default_factory=set)


class LiveLeg:
    """One expert at work: the lease, the engine's answer under way, and what is known of it so far. ``sent``:
    what it was asked."""

    def __init__(
        self,
        lease: Lease,
        held: AsyncExitStack,
        body: Mapping[str, Any],
        clock: Clock,
        role: Role,
        span: Span,
    ) -> None:
        self.expert = lease.expert
        self.asked_for = lease.asked_for
        self.sent = body
        self.span = span
        self._role: Role = role
        self._lease = lease
        self._held = held
        self._clock = clock
        self._raw: AsyncIterator[bytes]
        self._reader: AnswerReader | None = None
        self._asked_at = clock()
        self._first = b""
        self._run_ms: float | None = None
        self._outcome = "cancelled"
        self._error: EngineError | None = None

    def hold(self, held: AsyncExitStack) -> None:
        """Own what :meth:`aclose` gives back."""
        self._held = held

    async def begin(self, call: EngineCall, take_usage: bool) -> None:
        """Ask, and wait for the first bytes, which :meth:`chunks` gives again. Raises what the engine raises,
        and EngineError if no bytes come."""
        try:
            answer = await self._lease.engine.ask(self.expert, call)
            # Above the lease, so that it ends first: an expert that still generates must not be moved.
            self._held.push_async_callback(answer.aclose)
            kind = getattr(answer, "content_type", None)
            self._raw = answer.chunks()
            self._reader = AnswerReader(self.expert, call.endpoint, call.stream, take_usage, kind)
            self._first = await self._next(self._reader)
            if not self._first:
                raise EngineError(
                    f"{self.expert} answered nothing", hint="Ask again; look at the log of its engine."
                )
        except BaseException as error:
            if isinstance(error, CoeError):
                self._outcome = f"failed: {error.code}"
            self._finish(code_of(error))
            raise
        note(self.span, {"gen_ai.response.time_to_first_chunk": self._clock() - self._asked_at})

    async def chunks(self) -> AsyncIterator[bytes]:
        """The events of a stream without ``[DONE]``, or a whole body. Raises EngineError if it breaks off."""
        try:
            passed, reader = self._first, self._reader
            while passed and reader is not None:
                yield passed
                passed = await self._next(reader)
            self._outcome = "ok"
        except EngineError as error:
            self._outcome, self._error = f"failed: {error.code}", error
            raise
        finally:
            self._finish()

    async def body(self) -> bytes:
        """All of a whole answer."""
        return b"".join([chunk async for chunk in self.chunks()])

    def leg(self) -> Leg:
        lease, reader = self._lease, self._reader
        usage = reader.usage if reader else {}
        return Leg(
            expert=self.expert,
            role=self._role,
            queue_ms=lease.queue_ms,
            swap_ms=lease.swap_ms,
            wake_from=lease.wake_from,
            run_ms=self._run_ms,
            tokens=usage.get("completion_tokens"),
            outcome=self._outcome,
            usage=usage or None,
            prompt_tokens=usage.get("prompt_tokens"),
            events=reader.events if reader else 0,
        )

    async def aclose(self) -> None:
        """Abort the generation if it still runs, then give the lease back. Idempotent."""
        self._finish()
        # The pool learns of the failure as it would from a `with` block around all of it.
        error = self._error
        await self._held.__aexit__(
            type(error) if error else None, error, error.__traceback__ if error else None
        )

    async def _next(self, reader: AnswerReader) -> bytes:
        """What comes next; empty at the end."""
        while not reader.done:  # after its end nothing is waited for, though more may come
            raw = await anext(self._raw, None)
            if raw is None:
                return reader.end()
            if passed := reader.feed(raw):
                return passed
        return b""

    def _finish(self, why: str = "") -> None:
        if self._run_ms is None:
            self._run_ms = (self._clock() - self._asked_at) * 1000
            if self.span.is_recording():
                note(self.span, of_leg(self.leg()))
            if self._outcome != "ok":
                fail(self.span, why or self._outcome.removeprefix("failed: "))
            self.span.end()


class LegError(Exception):
    """One expert could not answer; another may. ``leg`` is the account of what it did."""

    def __init__(self, leg: Leg, error: ExpertUnavailable | EngineError | ExpertRefused) -> None:
        super().__init__(error.message)
        self.expert, self.leg, self.error = leg.expert, leg, error


class Beginning(Protocol):
    """An answer of several legs that has asked nobody yet."""

    async def begin(self) -> None: ...
    async def aclose(self) -> None: ...


Started = TypeVar("Started", bound=Beginning)


async def started(answer: Started) -> Started:
    """``answer`` once it has begun. Where that fails or is cancelled, its legs have ended."""
    try:
        await answer.begin()
    except BaseException:
        await answer.aclose()
        raise
    return answer


class Asker:
    """Asks experts on behalf of one request. ``grouped``: several at once, whose leases are scheduled as one
    group."""

    def __init__(
        self,
        request: Request,
        pool: Leases,
        patience_s: float,
        clock: Clock,
        account: Account,
        before: tuple[Leg, ...] = (),
        grouped: bool = False,
    ) -> None:
        self.before = before
        """legs of the request that ended before anybody was chosen"""
        self._account = account
        self._request = request
        self._pool = pool
        self._patience_s = patience_s
        self._clock = clock
        self._group = request.id if grouped else None

    def expect(self, expert: ExpertId) -> AbstractContextManager[None]:
        """Announces a leg of role ``aggregator`` that will be asked inside the block."""
        return self._pool.expect(self._name("aggregator"), expert, self._group)

    async def ask(
        self,
        expert: ExpertId,
        body: Mapping[str, Any],
        role: Role = "answer",
        alternatives: Sequence[ExpertId] = (),
        begun: Callable[[LiveLeg], None] = lambda _: None,
    ) -> LiveLeg:
        """Lease ``expert`` and ask it; returns at the first byte. Close what it returns on every path.
        ``begun`` gets the leg as soon as there is one, that is, before its expert is asked.

        On any failure the lease is given back before the error leaves: LegError where another expert may
        be asked, ExpertTimeout, Overloaded or ExpertRefused where not.
        """
        legs: list[LiveLeg] = []
        lease_on = self._pool.lease(
            self._name(role),
            expert,
            self._request.options.deadline_class,
            self._patience_s,
            group=self._group,
            alternatives=alternatives,
        )
        try:
            async with AsyncExitStack() as held:
                leg = self._begun(await _leased(expert, lease_on, held), held, body, role)
                legs.append(leg)
                begun(leg)
                body, wanted = _asking_for_usage(body)
                call = EngineCall(
                    self._request.endpoint, body, headers_under(leg.span), self._request.private
                )
                await leg.begin(call, take_usage=role == "aggregator" or not wanted)
                # Last: up to here a failure gives the lease back, from here on who closes the leg.
                leg.hold(held.pop_all())
                return leg
        except (ExpertUnavailable, EngineError) as error:
            raise LegError(_ended(legs, expert, role, error), error) from error
        except ExpertRefused as error:
            if not error.elsewhere:
                raise
            raise LegError(_ended(legs, expert, role, error), error) from error
        raise AssertionError("a lease swallowed an error")

    def on(self, prompt: Request) -> Asker:
        """Asks for one prompt of the request, on the same account."""
        return Asker(prompt, self._pool, self._patience_s, self._clock, self._account)

    def _begun(self, lease: Lease, held: AsyncExitStack, body: Mapping[str, Any], role: Role) -> LiveLeg:
        """From here on the expert works on it, and it is on the account."""
        endpoint = self._request.endpoint
        span = begin(f"{operation(endpoint)} {lease.expert}", SpanKind.CLIENT)
        note(span, {**of_question(endpoint, lease.expert, body), "coe.host": lease.engine.id})
        leg = LiveLeg(lease, held, body, self._clock, role, span)
        self._account.legs.append(leg)
        if role != "router":
            self._account.prompts.add(self._request.id)
        return leg

    def _name(self, role: Role) -> str:
        # The aggregator's lease has a name of its own, so that no proposer takes what was announced for it.
        return f"{self._request.id}/aggregator" if role == "aggregator" else self._request.id


def _ended(legs: Sequence[LiveLeg], expert: ExpertId, role: Role, error: CoeError) -> Leg:
    """The one of ``legs``, or what stands for it where ``expert`` never came to be asked."""
    return legs[0].leg() if legs else Leg(expert, role, outcome=f"failed: {error.code}")


def _asking_for_usage(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The body of a stream with its usage asked for, as every token is paid, and whether the client asked."""
    options = body.get("stream_options") or {}
    if not is_true(body.get("stream")) or is_true(options.get("include_usage")):
        return body, True
    return {**body, "stream_options": {**options, "include_usage": True}}, False


async def _leased(
    expert: ExpertId, lease_on: AbstractAsyncContextManager[Lease], held: AsyncExitStack
) -> Lease:
    with hop(f"queue {expert}") as span:
        lease = await held.enter_async_context(lease_on)
        if lease.swap_ms:
            begin(f"swap {lease.expert}", since_s=lease.swap_ms / 1000).end()
        note(
            span,
            {
                "coe.expert": lease.expert,
                "coe.queue_ms": lease.queue_ms,
                "coe.swap_ms": lease.swap_ms,
                "coe.wake_from": lease.wake_from,
            },
        )
    return lease
