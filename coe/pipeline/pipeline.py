"""The one path of a request: route -> lease -> ask -> combine -> receipt.

:meth:`Pipeline.answer` reads top to bottom in that order. A router may have an expert write something first.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from coe.core.errors import ExpertUnavailable
from coe.core.types import Decision, Leg, Options, Receipt, Request, RouterCall, RouterText
from coe.observe.tracing import hop, note, of_decision
from coe.pipeline.ensemble import ask_several
from coe.pipeline.generation import Generation, Generations
from coe.pipeline.leases import Clock, Leases
from coe.pipeline.legs import Asker
from coe.pipeline.plan import explained, plan_for, wish_of
from coe.pipeline.routing import choose, nobody_writes
from coe.pipeline.single import ask_one
from coe.pipeline.writer_calls import Notes


class Answer(Protocol):
    """An answer under way. Close it on every path."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes (SSE events up to ``data: [DONE]`` when streaming). Take them once."""
        ...

    def receipt(self) -> Receipt:
        """What is known now; all of it once ``chunks`` is exhausted or the answer is closed."""
        ...

    async def aclose(self) -> None:
        """Abort what still runs and give all leases back. Idempotent."""
        ...


@dataclass(frozen=True)
class Preview:
    """What the router would do with a text now, and the wait at each ranked expert in seconds."""

    generation: int
    decision: Decision
    waits_s: tuple[float, ...]


class Pipeline:
    """Answers requests with the generation that is current when they arrive."""

    def __init__(self, generations: Generations, pool: Leases, clock: Clock = time.monotonic) -> None:
        self._generations = generations
        self._pool = pool
        self._clock = clock
        self.notes = Notes(pool, clock)
        """what experts wrote for routers"""

    async def answer(self, request: Request) -> Answer:
        """Returns at the first byte of the answer, or, where several experts are asked for a stream, at the
        first of their answers. Cancelling it gives back everything that it holds.

        Raises any :class:`coe.core.errors.CoeError` but ConfigError.
        """
        generation = self._generations.current
        written: list[Leg] = []
        try:
            return await self._answer(request, generation, written)
        except ExpertUnavailable:
            newer = self._generations.current
            if newer.number == generation.number:
                raise
        # What was chosen may have left the pool in between. Nothing was sent yet, so choose again.
        return await self._answer(request, newer, written)

    async def _answer(self, request: Request, generation: Generation, written: list[Leg]) -> Answer:
        """``written``: the legs that the router's errands took, those of this call added."""
        wish = wish_of(request, generation)
        patience_s = _patience_s(request.options, generation)
        began = self._clock()

        async def write(call: RouterCall) -> RouterText:
            writer = generation.registry.expert(call.writer)
            # Half of the client's patience is left for the answer itself.
            run = await self.notes.run(call, writer, request, patience_s / 2)
            written.extend([run.leg] if run.leg else [])
            return run.found

        with hop("route") as span:
            decision = explained(await choose(request, generation, self._pool.forecast, write), wish)
            note(span, of_decision(decision))
        plan = plan_for(request, decision, wish, generation)
        if written:
            patience_s = max(0.0, patience_s - (self._clock() - began))
        asker = Asker(request, self._pool, patience_s, self._clock, tuple(written))
        if plan is None:
            return await ask_one(request, decision, generation, asker)
        return await ask_several(request, plan, generation, asker, patience_s)

    async def preview(self, request: Request) -> Preview:
        """Route without asking anybody; a router's errand only where it was run before."""
        generation = self._generations.current

        async def recall(call: RouterCall) -> RouterText:
            kept = self.notes.kept(call, generation.registry.expert(call.writer))
            return kept or await nobody_writes(call)

        decision = await choose(request, generation, self._pool.forecast, recall)
        waits = tuple(self._pool.forecast(ranked.expert) for ranked in decision.ranking)
        return Preview(generation=generation.number, decision=decision, waits_s=waits)


def _patience_s(options: Options, generation: Generation) -> float:
    bound = generation.registry.limits.request_timeout_s
    return bound if options.patience_s is None else min(options.patience_s, bound)
