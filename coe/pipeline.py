"""The one path of a request: route -> lease -> ask -> combine -> receipt.

:meth:`Pipeline.answer` reads top to bottom in that order. Everything that happens before the first byte of
an expert's answer may be tried once more on the next expert of the ranking; after it, never.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Literal, Protocol

from coe.errors import EngineError, ExpertUnavailable
from coe.generation import Generation, Generations
from coe.routing import choose, nearly_as_good
from coe.types import (
    DeadlineClass,
    Decision,
    Engine,
    EngineAnswer,
    EngineCall,
    ExpertId,
    Leg,
    Options,
    Receipt,
    Request,
    RequestId,
)

log = logging.getLogger(__name__)

Clock = Callable[[], float]

_TOKENS = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')
_TAIL_CHUNKS = 4
_TAIL_BYTES = 8192


class Lease(Protocol):
    """The right to ask one expert, held while it answers. Times in milliseconds."""

    @property
    def expert(self) -> ExpertId:
        """The expert that was asked for, or one of the alternatives."""
        ...

    @property
    def asked_for(self) -> ExpertId: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def queue_ms(self) -> float: ...
    @property
    def swap_ms(self) -> float: ...
    @property
    def wake_from(self) -> Literal["awake", "sleeping", "cold"]: ...


class Leases(Protocol):
    """What the pipeline needs of the pool."""

    def lease(
        self,
        request_id: RequestId,
        expert: ExpertId,
        deadline_class: DeadlineClass,
        timeout_s: float,
        *,
        group: RequestId | None = None,
        alternatives: Sequence[ExpertId] = (),
    ) -> AbstractAsyncContextManager[Lease]:
        """Waits until ``expert``, or one of ``alternatives`` if that is sooner, is ready and has room.

        Leaving the block gives the lease back. Legs with one ``group`` are scheduled together.
        """
        ...

    def expect(
        self, request_id: RequestId, expert: ExpertId, group: RequestId | None = None
    ) -> AbstractContextManager[None]:
        """Announces a lease that will be taken inside the block, so that ``expert`` may come in early."""
        ...

    def forecast(self, expert: ExpertId) -> float:
        """Seconds that a request for ``expert`` arriving now would wait."""
        ...


@dataclass(frozen=True)
class Preview:
    """What the router would do with a text now, and the wait at each ranked expert in seconds."""

    generation: int
    decision: Decision
    waits_s: tuple[float, ...]


class LiveLeg:
    """One expert answering: the lease, the engine's answer under way, and what is known of it so far."""

    def __init__(self, lease: Lease, answer: EngineAnswer, asked_at: float, clock: Clock) -> None:
        self.expert = lease.expert
        self.asked_for = lease.asked_for
        self._lease = lease
        self._held = AsyncExitStack()
        self._clock = clock
        self._chunks = answer.chunks()
        self._asked_at = asked_at
        self._tail: deque[bytes] = deque(maxlen=_TAIL_CHUNKS)
        self._run_ms: float | None = None
        self._outcome = "cancelled"
        self._error: EngineError | None = None

    def hold(self, held: AsyncExitStack) -> None:
        """Own what :meth:`aclose` gives back."""
        self._held = held

    async def first_byte(self) -> None:
        """Wait for the first bytes, which :meth:`chunks` gives again. Raises EngineError if none come."""
        try:
            self._tail.append(await anext(self._chunks))
        except StopAsyncIteration:
            raise EngineError(
                f"{self.expert} answered nothing", hint="Ask again; look at the log of its engine."
            ) from None

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            yield self._tail[0]
            async for chunk in self._chunks:
                self._tail.append(chunk)
                yield chunk
            self._outcome = "ok"
        except EngineError as error:
            self._outcome, self._error = f"failed: {error.code}", error
            raise
        finally:
            self._finish()

    def leg(self) -> Leg:
        lease = self._lease
        return Leg(
            expert=self.expert,
            queue_ms=lease.queue_ms,
            swap_ms=lease.swap_ms,
            wake_from=lease.wake_from,
            run_ms=self._run_ms,
            tokens=self._tokens(),
            outcome=self._outcome,
        )

    async def aclose(self) -> None:
        """Abort the generation if it still runs, then give the lease back. Idempotent."""
        self._finish()
        # The pool learns of the failure as it would from a `with` block around all of it.
        error = self._error
        await self._held.__aexit__(
            type(error) if error else None, error, error.__traceback__ if error else None
        )

    def _finish(self) -> None:
        if self._run_ms is None:
            self._run_ms = (self._clock() - self._asked_at) * 1000

    def _tokens(self) -> int | None:
        """Completion tokens, from the usage at the end of the body or stream; None where it has none."""
        found = _TOKENS.findall(b"".join(self._tail)[-_TAIL_BYTES:])
        return int(found[-1]) if found else None


class LegError(Exception):
    """One expert could not answer; another may."""

    def __init__(self, expert: ExpertId, error: ExpertUnavailable | EngineError) -> None:
        super().__init__(error.message)
        self.expert, self.error = expert, error


class Answer:
    """An answer under way: at least one byte of it is here. Close it on every path."""

    def __init__(
        self,
        request: Request,
        generation: Generation,
        decision: Decision,
        leg: LiveLeg,
        failed: tuple[Leg, ...],
    ) -> None:
        self._request = request
        self._generation = generation
        self._decision = decision
        self._leg = leg
        self._failed = failed

    def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes as the expert sent them (SSE events when streaming). Take them once."""
        return self._generation.aggregator.combine(self._request, (self._leg,))

    def receipt(self) -> Receipt:
        """What is known now; run time, tokens and outcome are there once ``chunks`` is exhausted."""
        decision, expert = self._decision, self._leg.expert
        pinned = decision.router == "pinned"
        fell_back = expert != decision.expert
        return Receipt(
            request_id=self._request.id,
            generation=self._generation.number,
            router=decision.router,
            expert=expert,
            confidence=None if pinned else decision.confidence,
            runner_up=decision.expert if fell_back else decision.runner_up,
            margin=None if fell_back else decision.margin,
            reason=decision.reason + "".join(self._because()),
            legs=(*self._failed, self._leg.leg()),
        )

    async def aclose(self) -> None:
        """Abort what still runs and give the lease back. Idempotent."""
        await self._leg.aclose()

    def _because(self) -> Iterator[str]:
        """Why it was not the chosen expert that answered."""
        asked_for, expert = self._leg.asked_for, self._leg.expert
        for leg in self._failed:
            yield f"; {leg.expert} could not answer ({leg.outcome}), so {asked_for} was asked"
        if expert != asked_for:
            yield f"; {expert} answered instead of {asked_for}: nearly as good for this, and free sooner"


class Pipeline:
    """Answers requests with the generation that is current when they arrive."""

    def __init__(self, generations: Generations, pool: Leases, clock: Clock = time.monotonic) -> None:
        self._generations = generations
        self._pool = pool
        self._clock = clock

    async def answer(self, request: Request) -> Answer:
        """Returns at the first byte of the answer. Cancelling it gives back everything that it holds.

        Raises any :class:`coe.errors.CoeError` but ConfigError.
        """
        generation = self._generations.current
        try:
            return await self._answer(request, generation)
        except ExpertUnavailable:
            newer = self._generations.current
            if newer.number == generation.number:
                raise
        # What was chosen may have left the pool in between. Nothing was sent yet, so choose again.
        return await self._answer(request, newer)

    async def _answer(self, request: Request, generation: Generation) -> Answer:
        decision = await choose(request, generation)
        failed: dict[ExpertId, Leg] = {}
        nearly = nearly_as_good(decision, generation.registry.pool.reroute_within)
        while True:
            expert = next(e for e in _candidates(decision) if e not in failed)
            try:
                leg = await self._ask(request, expert, generation, () if failed else nearly)
            except LegError as failure:
                tried, error = failure.expert, failure.error
                log.warning("request %s: %s could not answer: %s", request.id, tried, error.message)
                failed[tried] = Leg(expert=tried, outcome=f"failed: {error.code}")
                if len(failed) == len(_candidates(decision)):
                    raise error from None
            else:
                return Answer(request, generation, decision, leg, tuple(failed.values()))

    async def preview(self, request: Request) -> Preview:
        """Route without asking anybody."""
        generation = self._generations.current
        decision = await choose(request, generation)
        waits = tuple(self._pool.forecast(ranked.expert) for ranked in decision.ranking)
        return Preview(generation=generation.number, decision=decision, waits_s=waits)

    async def _ask(
        self, request: Request, expert: ExpertId, generation: Generation, alternatives: Sequence[ExpertId]
    ) -> LiveLeg:
        """Lease ``expert`` and ask it; on any failure both are given back before the error leaves."""
        tried = expert
        lease_on = self._pool.lease(
            request.id,
            expert,
            request.options.deadline_class,
            _patience_s(request.options, generation),
            group=request.id,
            alternatives=alternatives,
        )
        try:
            async with AsyncExitStack() as held:
                lease = await held.enter_async_context(lease_on)
                tried, asked_at = lease.expert, self._clock()
                answer = await lease.engine.ask(tried, EngineCall(request.endpoint, request.body))
                held.push_async_callback(answer.aclose)
                leg = LiveLeg(lease, answer, asked_at, self._clock)
                await leg.first_byte()
                leg.hold(held.pop_all())
                return leg
        except (ExpertUnavailable, EngineError) as error:
            raise LegError(tried, error) from error
        raise AssertionError("a lease swallowed an error")


def _candidates(decision: Decision) -> tuple[ExpertId, ...]:
    """The chosen expert and the one to ask if it cannot answer. A pinned decision ranks only one."""
    second = decision.runner_up
    return (decision.expert,) if second is None else (decision.expert, second)


def _patience_s(options: Options, generation: Generation) -> float:
    bound = generation.registry.limits.request_timeout_s
    return bound if options.patience_s is None else min(options.patience_s, bound)
