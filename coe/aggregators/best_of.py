"""The best of several answers by judging each: executable checks where an answer can be checked, an expert as
verifier where it cannot."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from coe.aggregators import checks
from coe.aggregators.ballots import agreed_tool_call, best_weighted
from coe.aggregators.base import AggregatorOptions, Base, Setting
from coe.aggregators.prompts import checking_body
from coe.aggregators.protocol import Answers, Asked, Picked, Proposal, Proposing, Verdict
from coe.aggregators.sandbox import Bounds, Sandbox
from coe.core.errors import CoeError
from coe.core.plugins import unknown_expert
from coe.core.types import ExpertId, Request

log = logging.getLogger(__name__)

CheckName = Literal["arithmetic", "json", "python_tests"]
CHECKS: dict[CheckName, Callable[[Request, str, Sandbox], bool | None]] = {
    "arithmetic": lambda request, text, _: checks.arithmetic(request.text, text),
    "json": lambda request, text, _: checks.json_form(request.body.get("response_format"), text),
    "python_tests": lambda request, text, sandbox: checks.python_tests(request.text, text, sandbox),
}
_UNJUDGED = 0.5


class BestOfOptions(AggregatorOptions):
    expert: ExpertId | None = None
    """the verifier: says of each answer whether it is right; None: checks and the router's weights decide"""
    checks: tuple[CheckName, ...] = ()
    """executable checks, none by default. python_tests runs code of experts and clients, fenced in"""
    max_chars: Annotated[int, Field(ge=200)] = 4000
    """of an answer that the verifier reads"""
    samples: bool = False
    """judge samples of the best expert instead of one answer of several experts"""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """of samples, where the request names none"""
    check_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    """CPU and wall time of one check's process"""
    check_memory_mb: Annotated[int, Field(ge=64)] = 512

    def faults(self, experts: Sequence[ExpertId]) -> Mapping[str, str]:
        return unknown_expert("expert", self.expert, experts)


@dataclass(frozen=True)
class Judged:
    """A proposal with what is known of it: ``checked`` None where no check applies."""

    proposal: Proposal
    checked: bool | None
    verified: float = _UNJUDGED
    """the verifier's probability that it is right"""

    def standing(self) -> tuple[float, float, float, int]:
        passed = {True: 1.0, None: 0.5, False: 0.0}[self.checked]
        return passed, self.verified, self.proposal.weight, -self.proposal.asked.rank


class BestOf(Base):
    """The answer that stands up best to executable checks and to a verifier, word for word."""

    options_type: ClassVar[type[AggregatorOptions]] = BestOfOptions

    def __init__(self, name: str, options: BestOfOptions, setting: Setting) -> None:
        super().__init__(name, options, setting)
        self._judging = options
        temperature = options.temperature if options.samples else None
        self.proposing = Proposing(options.samples, temperature, chat_only=options.expert is not None)
        self._sandbox = Sandbox(Bounds(options.check_seconds, options.check_memory_mb))

    def writer(self, asked: Sequence[Asked]) -> ExpertId | None:  # noqa: ARG002
        return self._judging.expert

    async def combine(self, request: Request, answers: Answers) -> Verdict:
        judged: list[Judged] = []
        async for proposal in answers:
            checked = await self._checked(request, proposal)
            judged.append(Judged(proposal, checked))
            if checked:
                return Picked(proposal, f"the answer of {proposal.expert} passed its checks")
        proposals = [each.proposal for each in judged]
        if call := agreed_tool_call(request, proposals):
            return call
        return await self._best(request, judged, answers)

    async def _best(self, request: Request, judged: Sequence[Judged], answers: Answers) -> Picked:
        left = [each for each in judged if each.checked is not False]
        if not left:
            best = best_weighted([each.proposal for each in judged])
            return Picked(best, f"every answer failed its checks; {best.expert} is the best ranked")
        if self._judging.expert and len(left) > 1:
            verifier = self._judging.expert
            verified = await asyncio.gather(*(self._verified(request, e, verifier, answers) for e in left))
            best = max(verified, key=Judged.standing).proposal
            return Picked(best, f"{verifier} trusts the answer of {best.expert} most, of {len(left)}")
        best = max(left, key=Judged.standing).proposal
        return Picked(best, f"{best.expert} is the best ranked of {len(left)} answers that failed no check")

    async def _checked(self, request: Request, proposal: Proposal) -> bool | None:
        """False when any check fails, True when one passes and none fails, None when none applies."""
        found = [
            await asyncio.to_thread(CHECKS[name], request, proposal.text, self._sandbox)
            for name in self._judging.checks
        ]
        return False if False in found else (True if True in found else None)

    async def _verified(
        self, request: Request, judged: Judged, verifier: ExpertId, answers: Answers
    ) -> Judged:
        body = checking_body(request.text, judged.proposal.text, self._judging.max_chars)
        try:
            said = await answers.ask(verifier, body)
        except CoeError as error:
            log.warning("request %s: the verifier %s could not judge: %s", request.id, verifier, error.code)
            return judged
        return Judged(judged.proposal, judged.checked, chance_of_yes(said))


def chance_of_yes(said: Proposal) -> float:
    """P(yes) / (P(yes) + P(no)) of the first token where log-probabilities are given, else what it says."""
    yes = no = 0.0
    tokens: Any = (said.logprobs or {}).get("content") or ()
    for alternative in tokens[0].get("top_logprobs", ()) if tokens else ():
        word, chance = alternative["token"].strip().casefold(), math.exp(alternative["logprob"])
        yes += chance if word == "yes" else 0.0
        no += chance if word == "no" else 0.0
    if yes + no > 0:
        return yes / (yes + no)
    word = said.text.strip().casefold()
    return 1.0 if word.startswith("yes") else (0.0 if word.startswith("no") else _UNJUDGED)
