"""Several experts answer, and an aggregator makes one answer of theirs.

One task, the decision, reads the proposals, reaches the verdict, ends the legs that are not needed and, where
an expert writes the answer, waits for its first byte. Meanwhile a stream reports the legs in comments.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from coe.aggregators import Aggregator, Proposal, Verdict, Write
from coe.core import openai as completions
from coe.core.errors import AggregationFailed, CoeError
from coe.core.types import ExpertId, Leg, Receipt, Request, is_true
from coe.observe.logs import loggable
from coe.observe.tracing import hop, note
from coe.pipeline.generation import Generation
from coe.pipeline.legs import Asker, LegError, LiveLeg, started
from coe.pipeline.panel import Panel
from coe.pipeline.plan import Plan, written_body

log = logging.getLogger(__name__)


async def ask_several(
    request: Request, plan: Plan, generation: Generation, asker: Asker, patience_s: float
) -> MergedAnswer:
    """Asks all of ``plan``. Returns at the verdict, for a stream at the first proposal, so that what fails
    before has a status of its own. Cancelling it ends every leg."""
    return await started(MergedAnswer(request, plan, generation, asker, patience_s))


@dataclass(frozen=True)
class Outcome:
    """What the decision came to: a proposal to replay, or an expert's answer under way."""

    expert: ExpertId
    reason: str
    proposal: Proposal | None = None
    writing: LiveLeg | None = None


class MergedAnswer:
    """One answer made of several; see :class:`coe.pipeline.pipeline.Answer`."""

    def __init__(
        self, request: Request, plan: Plan, generation: Generation, asker: Asker, patience_s: float
    ) -> None:
        self._request = request
        self._plan = plan
        self._generation = generation
        self._asker = asker
        self._progress: asyncio.Queue[str | None] = asyncio.Queue()
        """lines about the legs; None at the end"""
        self._begun = asyncio.Event()
        self._panel = Panel(request, plan, asker, patience_s, self._progress.put_nowait, self._begun)
        self._decision: asyncio.Task[Outcome] | None = None
        self._writer_failed: Leg | None = None

    async def begin(self) -> None:
        """Ask everybody; see :func:`ask_several`. Raises what the decision raises, as far as it waits."""
        self._panel.start()
        decision = self._decision = asyncio.create_task(self._decide())
        decision.add_done_callback(lambda _: self._end_progress())
        if self._request.stream:
            await self._begun.wait()
            if not decision.done():
                return
        await asyncio.shield(decision)

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._decision is None:
            raise RuntimeError("begin() was not called")
        if not self._request.stream:
            yield await self._whole(await asyncio.shield(self._decision))
            return
        while (line := await self._progress.get()) is not None:
            yield completions.comment(f"coe {line}")
        async for chunk in self._streamed(await asyncio.shield(self._decision)):
            yield chunk

    def receipt(self) -> Receipt:
        decision, outcome = self._plan.decision, self._outcome()
        expert = outcome.expert if outcome else None
        other = expert is not None and expert != decision.expert
        known = decision.why != "pinned" and expert is not None
        return Receipt(
            request_id=self._request.id,
            generation=self._generation.number,
            router=decision.router,
            expert=expert,
            confidence=decision.probability_of(expert) if known and expert else None,
            runner_up=decision.expert if other else decision.runner_up,
            margin=None if other else decision.margin,
            reason=f"{decision.reason}; {outcome.reason}" if outcome else decision.reason,
            legs=self._legs(),
            aggregator=self._plan.aggregator.name,
            why="panel" if expert is not None else decision.why,
        )

    async def aclose(self) -> None:
        # Before the decision is cancelled, which would end the legs as not needed.
        await self._panel.drop("cancelled")
        if self._decision is not None and not self._decision.done():
            self._decision.cancel()
            await asyncio.wait([self._decision])
        outcome = self._outcome()
        if outcome and outcome.writing:
            await outcome.writing.aclose()

    async def _decide(self) -> Outcome:
        writer = self._plan.aggregator.writer(self._plan.asked)
        with contextlib.ExitStack() as expected:
            if writer is not None:
                expected.enter_context(self._asker.expect(writer))
            with hop(f"aggregate {self._plan.aggregator.name}") as span:
                outcome = await self._concluded()
                note(span, {"coe.expert": outcome.expert, "coe.legs": len(self._panel.legs())})
        return outcome

    async def _concluded(self) -> Outcome:
        try:
            verdict = await self._verdict(self._plan.aggregator)
        finally:
            # Before the writer is asked: it may need the places that these legs hold.
            await self._panel.drop("not needed")
        if isinstance(verdict, Write):
            return await self._written(verdict)
        return Outcome(verdict.proposal.expert, verdict.reason, verdict.proposal)

    async def _verdict(self, aggregator: Aggregator) -> Verdict:
        try:
            return await aggregator.combine(self._request, self._panel)
        except CoeError:
            raise
        except Exception as error:
            log.exception("request %s: aggregator %s failed", self._request.id, aggregator.name)
            raise AggregationFailed(
                f"the aggregator {aggregator.name} could not decide ({type(error).__name__})",
                hint="Name another one in coe.aggregate, or ask one expert; the log has the cause.",
            ) from error

    async def _written(self, verdict: Write) -> Outcome:
        """The writer's answer at its first byte, a whole one read to its end; the best proposal where the
        writer cannot answer."""
        self._progress.put_nowait(f"aggregator {verdict.expert} writes")
        try:
            if not self._request.stream:
                proposal = await self._panel.ask(verdict.expert, verdict.body)
                return Outcome(verdict.expert, verdict.reason, proposal)
            body = {**written_body(self._request, self._plan, verdict.body), "stream": True}
            body["stream_options"] = {"include_usage": True}
            leg = await self._asker.ask(verdict.expert, body, "aggregator")
            return Outcome(verdict.expert, verdict.reason, writing=leg)
        except (LegError, CoeError) as failure:
            error = failure.error if isinstance(failure, LegError) else failure
            reason = loggable(self._request, error)
            log.warning("request %s: %s could not write: %s", self._request.id, verdict.expert, reason)
            if self._request.stream:
                given_up = Leg(verdict.expert, "aggregator", outcome=f"failed: {error.code}")
                self._writer_failed = failure.leg if isinstance(failure, LegError) else given_up
            best = verdict.otherwise
            reason = (
                f"{verdict.expert} could not write ({error.code}), so the answer is that of {best.expert}"
            )
            return Outcome(best.expert, reason, best)

    async def _whole(self, outcome: Outcome) -> bytes:
        if outcome.proposal is None:
            raise RuntimeError("a whole answer has a proposal")
        return completions.to_json({**outcome.proposal.body, "usage": completions.usage_json(self._usage())})

    async def _streamed(self, outcome: Outcome) -> AsyncIterator[bytes]:
        endpoint, head = self._request.endpoint, self._head(outcome)
        if outcome.writing is not None:
            async for event in outcome.writing.chunks():
                yield event
        elif outcome.proposal is not None:
            for event in completions.replay(outcome.proposal.body, endpoint):
                yield event
        if is_true((self._request.body.get("stream_options") or {}).get("include_usage")):
            yield completions.usage_event(head, endpoint, self._usage())

    def _head(self, outcome: Outcome) -> Mapping[str, Any]:
        body = outcome.proposal.body if outcome.proposal else {}
        own = {"id": self._request.id, "created": int(time.time()), "model": outcome.expert}
        return {**own, **{key: body[key] for key in own if key in body}}

    def _usage(self) -> dict[str, int]:
        """Tokens of all legs together, as far as they were reported."""
        return completions.summed(leg.usage for leg in self._legs() if leg.usage)

    def _legs(self) -> tuple[Leg, ...]:
        legs, outcome = (*self._asker.before, *self._panel.legs()), self._outcome()
        if outcome and outcome.writing:
            legs = (*legs, outcome.writing.leg())
        return (*legs, self._writer_failed) if self._writer_failed else legs

    def _outcome(self) -> Outcome | None:
        done = self._decision
        if done is None or not done.done() or done.cancelled() or done.exception():
            return None
        return done.result()

    def _end_progress(self) -> None:
        self._progress.put_nowait(None)
        self._begun.set()
