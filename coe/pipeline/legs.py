"""One expert asked for one request: the lease, the engine's answer under way, and the account of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from typing import Any

from opentelemetry.trace import Span, SpanKind

from coe.core.errors import EngineError, ExpertRefused, ExpertUnavailable
from coe.core.types import EngineAnswer, EngineCall, ExpertId, Leg, Request, Role, is_true
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


class LiveLeg:
    """One expert answering: the lease, the engine's answer under way, and what is known of it so far."""

    def __init__(
        self,
        lease: Lease,
        answer: EngineAnswer,
        reader: AnswerReader,
        asked_at: float,
        clock: Clock,
        role: Role,
        span: Span,
    ) -> None:
        self.expert = lease.expert
        self.asked_for = lease.asked_for
        self._role: Role = role
        self._lease = lease
        self._held = AsyncExitStack()
        self._clock = clock
        self._span = span
        self._raw = answer.chunks()
        self._reader = reader
        self._asked_at = asked_at
        self._first = b""
        self._run_ms: float | None = None
        self._outcome = "cancelled"
        self._error: EngineError | None = None

    def hold(self, held: AsyncExitStack) -> None:
        """Own what :meth:`aclose` gives back."""
        self._held = held

    async def begin(self) -> None:
        """Wait for the first bytes, which :meth:`chunks` gives again. Raises EngineError if none come."""
        self._first = await self._next()
        if not self._first:
            raise EngineError(
                f"{self.expert} answered nothing", hint="Ask again; look at the log of its engine."
            )

    async def chunks(self) -> AsyncIterator[bytes]:
        """The events of a stream without ``[DONE]``, or a whole body. Raises EngineError if it breaks off."""
        try:
            passed = self._first
            while passed:
                yield passed
                passed = await self._next()
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
        lease, usage = self._lease, self._reader.usage
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
            events=self._reader.events,
        )

    async def aclose(self) -> None:
        """Abort the generation if it still runs, then give the lease back. Idempotent."""
        self._finish()
        # The pool learns of the failure as it would from a `with` block around all of it.
        error = self._error
        await self._held.__aexit__(
            type(error) if error else None, error, error.__traceback__ if error else None
        )

    async def _next(self) -> bytes:
        """What comes next; empty at the end."""
        while not self._reader.done:  # after its end nothing is waited for, though more may come
            raw = await anext(self._raw, None)
            if raw is None:
                return self._reader.end()
            if passed := self._reader.feed(raw):
                return passed
        return b""

    def _finish(self) -> None:
        if self._run_ms is None:
            self._run_ms = (self._clock() - self._asked_at) * 1000
            if self._span.is_recording():
                note(self._span, of_leg(self.leg()))
            if self._outcome != "ok":
                fail(self._span, self._outcome.removeprefix("failed: "))
            self._span.end()


class LegError(Exception):
    """One expert could not answer; another may."""

    def __init__(self, expert: ExpertId, error: ExpertUnavailable | EngineError | ExpertRefused) -> None:
        super().__init__(error.message)
        self.expert, self.error = expert, error


class Asker:
    """Asks experts on behalf of one request. ``grouped``: several at once, whose leases are scheduled as one
    group."""

    def __init__(
        self,
        request: Request,
        pool: Leases,
        patience_s: float,
        clock: Clock,
        before: tuple[Leg, ...] = (),
        grouped: bool = False,
    ) -> None:
        self.before = before
        """legs of the request that ended before anybody was chosen"""
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
    ) -> LiveLeg:
        """Lease ``expert`` and ask it; returns at the first byte. Close what it returns on every path.

        On any failure the lease is given back before the error leaves: LegError where another expert may
        be asked, ExpertTimeout, Overloaded or ExpertRefused where not.
        """
        tried = expert
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
                lease = await _leased(expert, lease_on, held)
                tried = lease.expert
                leg = await self._asked(lease, body, role, held)
                # Last: up to here a failure gives the lease back, from here on who closes the leg.
                leg.hold(held.pop_all())
                return leg
        except (ExpertUnavailable, EngineError) as error:
            raise LegError(tried, error) from error
        except ExpertRefused as error:
            if not error.elsewhere:
                raise
            raise LegError(tried, error) from error
        raise AssertionError("a lease swallowed an error")

    async def _asked(
        self, lease: Lease, body: Mapping[str, Any], role: Role, held: AsyncExitStack
    ) -> LiveLeg:
        """At the first byte."""
        endpoint, asked_at = self._request.endpoint, self._clock()
        span = begin(f"{operation(endpoint)} {lease.expert}", SpanKind.CLIENT)
        note(span, {**of_question(endpoint, lease.expert, body), "coe.host": lease.engine.id})
        body, wanted = _asking_for_usage(body)
        try:
            call = EngineCall(endpoint, body, headers_under(span), self._request.private)
            answer = await lease.engine.ask(lease.expert, call)
            # Above the lease, so that it ends first: an expert that still generates must not be moved.
            held.push_async_callback(answer.aclose)
            kind = getattr(answer, "content_type", None)
            take_usage = role == "aggregator" or not wanted
            reader = AnswerReader(lease.expert, endpoint, call.stream, take_usage, kind)
            leg = LiveLeg(lease, answer, reader, asked_at, self._clock, role, span)
            await leg.begin()
        except BaseException as error:
            fail(span, code_of(error))
            span.end()
            raise
        note(span, {"gen_ai.response.time_to_first_chunk": self._clock() - asked_at})
        return leg

    def _name(self, role: Role) -> str:
        # The aggregator's lease has a name of its own, so that no proposer takes what was announced for it.
        return f"{self._request.id}/aggregator" if role == "aggregator" else self._request.id


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
