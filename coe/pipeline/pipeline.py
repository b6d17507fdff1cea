"""The one path of a request: route -> lease -> ask -> combine -> receipt.

:meth:`Pipeline.answer` reads top to bottom in that order. A router may have an expert write something first.
Where one expert is asked its bytes pass through, and before its first byte another may answer instead.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from coe.core.errors import BadRequest, ExpertUnavailable
from coe.core.reading import Reading
from coe.core.types import (
    Decision,
    ExpertId,
    Leg,
    Occasion,
    Options,
    Ranked,
    Receipt,
    Request,
    RouterCall,
    RouterText,
    Rule,
    Substitute,
)
from coe.observe.logs import loggable
from coe.observe.tracing import hop, note, of_decision
from coe.pipeline.ensemble import ask_several
from coe.pipeline.generation import Generation, Generations
from coe.pipeline.leases import Clock, Leases
from coe.pipeline.legs import Account, Asker, LegError, LiveLeg
from coe.pipeline.plan import AggregationRequest, aggregation_request, explained, plan_for
from coe.pipeline.prompts import ask_each, places
from coe.pipeline.routing import PINNED, Write, choose, has_prices, nobody_writes, router_named
from coe.pipeline.writer_calls import WriterCalls
from coe.registry.schema import Registry

log = logging.getLogger(__name__)

_LOST = frozenset({"engine_unreachable", "expert_not_ready", "engine_not_running", "engine_silent"})
"""Codes of errors by which an expert's process was not there, so that it has done nothing either."""


_NAMED = Rule(why="pinned", fixed=True)


class Answer(Protocol):
    """An answer under way. Close it on every path."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The events of a stream without ``[DONE]``, or the whole body. Take them once. Raises EngineError
        where the answer breaks off."""
        ...

    def receipt(self) -> Receipt:
        """What is known now; all of it once ``chunks`` is exhausted or the answer is closed."""
        ...

    async def aclose(self) -> None:
        """Abort what still runs and give all leases back. Idempotent."""
        ...


@dataclass(frozen=True)
class Preview:
    """What the router would do with a request now, and the wait at each ranked expert in seconds."""

    generation: int | None
    """None outside of a service"""
    reading: Reading
    decision: Decision
    waits_s: tuple[float, ...]
    """infinite: it would be refused, or nobody knows"""

    def as_json(self) -> dict[str, Any]:
        """As POST /v1/route answers."""
        decision = self.decision
        steps_in = {each.expert: each.on for each in decision.substitutes}
        return {
            "object": "coe.route",
            "generation": self.generation,
            "router": decision.router,
            "expert": decision.expert,
            "confidence": round(decision.confidence, 4),
            "margin": None if decision.margin is None else round(decision.margin, 4),
            "reason": decision.reason,
            "why": decision.why,
            "read": self.reading.as_json(),
            "experts": [
                {
                    "expert": ranked.expert,
                    "probability": round(ranked.probability, 4),
                    "steps_in": sorted(steps_in.get(ranked.expert, ())),
                    # A wait without end (it would be refused) has no number in JSON.
                    "expected_wait_s": round(wait, 3) if math.isfinite(wait) else None,
                }
                for ranked, wait in zip(decision.ranking, self.waits_s, strict=True)
            ],
        }


class Pipeline:
    """Answers requests with the generation that is current when they arrive."""

    def __init__(self, generations: Generations, pool: Leases, clock: Clock = time.monotonic) -> None:
        self._generations = generations
        self._pool = pool
        self._clock = clock
        self.writer_calls = WriterCalls(pool, clock)

    async def answer(self, request: Request, account: Account | None = None) -> Answer:
        """Returns at the first byte of the answer, or, where several experts are asked for a stream, at the
        first of their answers. Cancelling it gives back everything that it holds. ``account`` gets every leg.

        Raises any :class:`coe.core.errors.CoeError` but ConfigError.
        """
        generation = self._generations.current
        account = Account() if account is None else account
        # One list for both tries: what was written for the first has been paid, and the receipt says so.
        written: list[Leg] = []
        try:
            return await self._answer(request, generation, account, written)
        except ExpertUnavailable:
            newer = self._generations.current
            if newer.number == generation.number:
                raise
        # What was chosen may have left the pool in between. Nothing was sent yet, so choose again.
        return await self._answer(request, newer, account, written)

    async def _answer(
        self, request: Request, generation: Generation, account: Account, written: list[Leg]
    ) -> Answer:
        """``written``: the legs of what experts wrote for the router; those of this call are added."""
        patience_s, began = _patience_s(request.options, generation), self._clock()
        pinned = pinned_to(request, generation)
        alone = pinned is not None and not request.options.names_aggregation
        aggregation = None if alone else aggregation_request(request, generation)
        if pinned is None:
            _check_cost(request.options, generation, aggregation)
        with hop("route") as span:
            if pinned is None:
                write = self._writer(request, generation, account, written, patience_s)
                decision = await self._chosen(request, generation, write)
            else:
                decision = pinned
            if aggregation is not None:
                decision = explained(decision, aggregation)
            note(span, of_decision(decision))
        plan = None if aggregation is None else plan_for(request, decision, aggregation, generation)
        # Before the lease: what the writer took of the client's patience is not there a second time.
        if written:
            patience_s = max(0.0, patience_s - (self._clock() - began))
        asker = Asker(request, self._pool, patience_s, self._clock, account, tuple(written), plan is not None)
        if plan is None and request.prompts > 1:
            ask = partial(ask_one, decision, generation)
            return await ask_each(request, ask, asker, places(decision.expert, generation.registry))
        if plan is None:
            return await ask_one(decision, generation, request, asker)
        return await ask_several(request, plan, generation, asker, patience_s)

    async def _chosen(self, request: Request, generation: Generation, write: Write) -> Decision:
        decision = await choose(request, generation, self._pool.forecast, write)
        return _with_fallback(decision, generation.registry)

    def _writer(
        self,
        request: Request,
        generation: Generation,
        account: Account,
        written: list[Leg],
        patience_s: float,
    ) -> Write:
        async def write(call: RouterCall) -> RouterText:
            writer = generation.registry.experts_by_id.get(call.writer)
            # Half of the client's patience is left for the answer itself.
            run = await self.writer_calls.run(call, writer, request, patience_s / 2, account)
            written.extend([run.leg] if run.leg else [])
            return run.found

        return write

    async def preview(self, request: Request) -> Preview:
        """Route without asking anybody; what a router has written counts where it was written before."""
        generation = self._generations.current

        async def recall(call: RouterCall) -> RouterText:
            known = self.writer_calls.find(call, generation.registry.experts_by_id.get(call.writer))
            return known or await nobody_writes(call)

        decision = await self._chosen(request, generation, recall)
        waits = tuple(self._pool.forecast(ranked.expert) for ranked in decision.ranking)
        return Preview(generation.number, request.reading, decision, waits)


def pinned_to(request: Request, generation: Generation) -> Decision | None:
    """The decision of a client that named an expert; None where a router has to decide. Raises BadRequest for
    a router that does not exist, though none is asked."""
    expert, registry = request.model, generation.registry
    if expert in registry.routed_names or expert not in registry.experts_by_id:
        return None
    if request.options.router is not None:
        router_named(request.options.router, generation)
    return _with_fallback(
        Decision(
            PINNED,
            (Ranked(expert, 1.0),),
            (expert,),
            1.0,
            f"the request named {expert}",
            why="pinned",
            rule=_NAMED,
        ),
        registry,
    )


def _check_cost(options: Options, generation: Generation, aggregation: AggregationRequest | None) -> None:
    """Raises BadRequest for a weight of cost that nothing goes by: no expert has a price, and how many are
    asked does not depend on it."""
    if not options.cost or has_prices(generation) or (aggregation and aggregation.goes_by_cost):
        return
    raise BadRequest(
        "the request weighs cost, but no expert of this service has a price",
        code="no_prices",
        param="coe.cost",
        hint="Leave coe.cost out, or have the operator give each expert its `price` in experts.yaml.",
    )


def _with_fallback(decision: Decision, registry: Registry) -> Decision:
    """``decision`` with the chosen expert's fallback of experts.yaml among those that step in when it fails,
    if the decision's budget allows it."""
    chosen, among = (
        registry.experts_by_id.get(decision.expert),
        decision.rule.among if decision.rule else None,
    )
    fallback = chosen.fallback if chosen else None
    if fallback is None or (among is not None and fallback not in among):
        return decision
    known = {each.expert: each for each in decision.substitutes}
    step_in = known.get(fallback, Substitute(fallback, None, frozenset()))
    known[fallback] = replace(step_in, on=step_in.on | {"failure"})
    return replace(decision, substitutes=tuple(known.values()))


def _patience_s(options: Options, generation: Generation) -> float:
    bound = generation.registry.limits.request_timeout_s
    return bound if options.patience_s is None else min(options.patience_s, bound)


async def ask_one(decision: Decision, generation: Generation, request: Request, asker: Asker) -> SingleAnswer:
    """The answer of the chosen expert, or of a substitute on the occasions that the decision allows.

    Returns at the first byte. Everything before it may be tried once more on another expert; after it, never.
    An expert that was lost with its process is asked again first: its host starts it again, or another host
    has it, and what it was chosen for is still what it can do best. One elsewhere that cannot be reached is
    asked again where nobody else is left. docs/reference/failures.md has the table.
    """
    registry = generation.registry
    candidates = (decision.expert, *decision.substitutes_on("failure"))
    within = registry.pool.reroute_within
    nearly = decision.substitutes_on("awake", within) if within > 0.0 else ()
    failed: dict[ExpertId, Leg] = {}
    lost: list[Leg] = []
    while True:
        expert = next(e for e in candidates if e not in failed)
        try:
            leg = await asker.ask(expert, request.body, alternatives=() if failed or lost else nearly)
        except LegError as failure:
            tried, error = failure.expert, failure.error
            log.warning("request %s: %s could not answer: %s", request.id, tried, loggable(request, error))
            failed[tried] = failure.leg
            again = error.code in _LOST and all(leg.expert != tried for leg in lost)
            if again and (len(failed) == len(candidates) or not _is_elsewhere(tried, registry)):
                lost.append(failed.pop(tried))
            elif len(failed) == len(candidates):
                raise error from None
        else:
            return SingleAnswer(request, generation, decision, leg, (*failed.values(), *lost), asker.before)


class SingleAnswer:
    """One expert's answer under way: at least one byte of it is here, and its bytes pass through."""

    def __init__(
        self,
        request: Request,
        generation: Generation,
        decision: Decision,
        leg: LiveLeg,
        failed: tuple[Leg, ...],
        before: tuple[Leg, ...],
    ) -> None:
        self._request = request
        self._generation = generation
        self._decision = decision
        self._leg = leg
        self._failed = failed
        self._before = before

    def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes as the expert sent them (SSE events when streaming). Take them once."""
        return self._leg.chunks()

    def receipt(self) -> Receipt:
        """What is known now; run time, tokens and outcome are there once ``chunks`` is exhausted."""
        decision, expert = self._decision, self._leg.expert
        fell_back = expert != decision.expert
        stepped_in: Occasion = "failure" if expert == self._leg.asked_for else "awake"
        return Receipt(
            request_id=self._request.id,
            generation=self._generation.number,
            router=decision.router,
            expert=expert,
            confidence=None if decision.why == "pinned" else decision.probability_of(expert),
            runner_up=decision.expert if fell_back else decision.runner_up,
            margin=None if fell_back else decision.margin,
            reason=decision.reason + "".join(self._because()),
            legs=(*self._before, *self._failed, self._leg.leg()),
            why=stepped_in if fell_back else decision.why,
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


def _is_elsewhere(expert: ExpertId, registry: Registry) -> bool:
    """Whether its host is not run by this service."""
    host = registry.experts_by_id[expert].host if expert in registry.experts_by_id else None
    return any(each.id == host and each.kind == "remote" for each in registry.pool.hosts)
