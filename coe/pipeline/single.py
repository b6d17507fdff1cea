"""One expert answers, and its bytes pass through. Before its first byte another may take its place."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

from coe.core.types import Decision, ExpertId, Leg, Receipt, Request
from coe.pipeline.generation import Generation
from coe.pipeline.legs import Asker, LegError, LiveLeg, said
from coe.pipeline.routing import PINNED, nearly_as_good
from coe.registry.schema import Registry

log = logging.getLogger(__name__)

_LOST = frozenset({"engine_unreachable", "expert_not_ready"})
"""Codes of errors by which an expert's process was not there, so that it has done nothing either."""


async def ask_one(request: Request, decision: Decision, generation: Generation, asker: Asker) -> SingleAnswer:
    """The answer of the chosen expert, or of the next one of the ranking where that cannot answer.

    Returns at the first byte. Everything before it may be tried once more on another expert; after it, never.
    Where no other one is left, an expert whose process was lost is asked once more: its host starts it again,
    or another host has it.
    """
    candidates = _candidates(decision, generation.registry)
    failed: dict[ExpertId, Leg] = {}
    lost: list[Leg] = []
    nearly = nearly_as_good(decision, generation.registry.pool.reroute_within)
    while True:
        expert = next(e for e in candidates if e not in failed)
        try:
            leg = await asker.ask(expert, request.body, alternatives=() if failed or lost else nearly)
        except LegError as failure:
            tried, error = failure.expert, failure.error
            log.warning("request %s: %s could not answer: %s", request.id, tried, said(request, error))
            failed[tried] = Leg(expert=tried, outcome=f"failed: {error.code}")
            if len(failed) == len(candidates):
                if lost or error.code not in _LOST:
                    raise error from None
                lost.append(failed.pop(tried))
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
        pinned = decision.router == PINNED
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
            legs=(*self._before, *self._failed, self._leg.leg()),
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


def _candidates(decision: Decision, registry: Registry) -> tuple[ExpertId, ...]:
    """The chosen expert, the next of the ranking (a pinned decision ranks only one), and its fallback."""
    chosen = registry.expert(decision.expert)
    named = (decision.expert, decision.runner_up, chosen.fallback if chosen else None)
    return tuple(dict.fromkeys(expert for expert in named if expert is not None))
