"""An expert reads the proposals and writes the answer: Mixture-of-Agents, Self-MoA and its sequential form.

Mixture-of-Agents (arXiv 2406.04692): different proposers. Self-MoA (arXiv 2502.00674): samples of the one
expert that is best for the task, which that paper finds better where the experts differ in quality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from coe.aggregators.ballots import agreed, agreed_tool_call, best_weighted, key_of, named
from coe.aggregators.base import AggregatorOptions, Base, Setting
from coe.aggregators.prompts import synthesis_body
from coe.aggregators.protocol import Answers, Asked, Picked, Proposal, Proposing, Verdict, Write
from coe.core.plugins import unknown_expert
from coe.core.types import ExpertId, Request


class WriterOptions(AggregatorOptions):
    expert: ExpertId | None = None
    """who writes the answer; without it the expert that the aggregation test found best for the query's
    skill, and where it found none better than guessing the router's first"""
    max_chars: Annotated[int, Field(ge=200)] = 4000
    """of each answer that the writer reads; longer ones are cut in the middle"""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """of the proposals, where the request names none"""
    skip_when_agreed: bool = True
    """answers that all say the same are not written anew"""

    def faults(self, experts: Sequence[ExpertId]) -> Mapping[str, str]:
        return unknown_expert("expert", self.expert, experts)


class Synthesise(Base):
    """An expert judges the experts' answers and writes one (Mixture-of-Agents)."""

    options_type: ClassVar[type[AggregatorOptions]] = WriterOptions
    repeat = False

    def __init__(self, name: str, options: WriterOptions, setting: Setting) -> None:
        super().__init__(name, options, setting)
        self._writing = options
        self.proposing = Proposing(self.repeat, options.temperature, chat_only=True)

    def writer(self, asked: Sequence[Asked]) -> ExpertId:
        return self._writing.expert or self._setting.writer_for(asked[0].expert)

    async def combine(self, request: Request, answers: Answers) -> Verdict:
        asked = list(answers.outstanding)
        proposals = [proposal async for proposal in answers]
        return self._verdict(request, proposals, self.writer(asked))

    def _verdict(self, request: Request, proposals: Sequence[Proposal], writer: ExpertId) -> Verdict:
        if call := agreed_tool_call(request, proposals):
            return call
        prose = [proposal for proposal in proposals if not proposal.tool_calls]
        if nothing_to_write := self._agreed(request, prose):
            return nothing_to_write
        body = synthesis_body(request.body, [p.text for p in prose], self._writing.max_chars)
        reason = f"{writer} wrote one answer from those of {named(prose)}"
        return Write(writer, body, best_weighted(prose), reason)

    def _agreed(self, request: Request, proposals: Sequence[Proposal]) -> Picked | None:
        """The answer that nothing has to be written for: the only one, or one that all give."""
        keys = {key_of(request, proposal) for proposal in proposals}
        unanimous = len(keys) == 1 and None not in keys and self._writing.skip_when_agreed
        if len(proposals) > 1 and not unanimous:
            return None
        return agreed(request, proposals)


class SelfMoa(Synthesise):
    """The best expert's samples, synthesised by an expert (Self-MoA)."""

    repeat = True


class SequentialOptions(WriterOptions):
    window: Annotated[int, Field(ge=2, le=16)] = 3
    """answers that the writer reads at once: the best so far and new ones"""


class SequentialSelfMoa(SelfMoa):
    """Self-MoA in bounded context (Self-MoA-Seq): a sliding window of the best answer so far and new samples,
    so that the number of samples is not bounded by what the writer can read."""

    options_type: ClassVar[type[AggregatorOptions]] = SequentialOptions

    def __init__(self, name: str, options: SequentialOptions, setting: Setting) -> None:
        super().__init__(name, options, setting)
        self._window = options.window

    async def combine(self, request: Request, answers: Answers) -> Verdict:
        writer = self.writer(list(answers.outstanding))
        window: list[Proposal] = []
        async for proposal in answers:
            window.append(proposal)
            if len(window) == self._window and answers.outstanding:
                window = [await self._best_so_far(request, window, writer, answers)]
        return self._verdict(request, window, writer)

    async def _best_so_far(
        self, request: Request, window: Sequence[Proposal], writer: ExpertId, answers: Answers
    ) -> Proposal:
        verdict = self._verdict(request, window, writer)
        return verdict.proposal if isinstance(verdict, Picked) else await answers.ask(writer, verdict.body)
