"""Votes on the answers' exact values: by head, by calibrated weight, and among samples of one expert."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from coe.aggregators.ballots import by_head, by_weight, elect
from coe.aggregators.base import AggregatorOptions, Base, Setting
from coe.aggregators.protocol import Answers, Picked, Proposing
from coe.aggregators.votes import Dependence
from coe.core.types import Request


class MajorityVote(Base):
    """The answer that most experts give; stops asking once the rest cannot change it."""

    proposing = Proposing(at_once=2)

    async def combine(self, request: Request, answers: Answers) -> Picked:
        return await elect(request, answers, by_head, by_itself=True)


class SamplingOptions(AggregatorOptions):
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.7
    """of the samples, where the request names none"""


class SelfConsistency(MajorityVote):
    """The most frequent answer among samples of the best expert (Wang et al., arXiv 2203.11171)."""

    options_type: ClassVar[type[AggregatorOptions]] = SamplingOptions

    def __init__(self, name: str, options: SamplingOptions, setting: Setting) -> None:
        super().__init__(name, options, setting)
        self.proposing = Proposing(repeat=True, temperature=options.temperature, at_once=2)


class WeightedVoteOptions(AggregatorOptions):
    dependence: bool = True
    """learn from the profiles which experts err together, so that two copies of one do not count twice"""


class WeightedVote(Base):
    """Votes weighted by the log-odds of the router's calibrated probabilities, and by learned dependence
    (:mod:`coe.aggregators.votes`). Stops once the rest cannot change the winner."""

    options_type: ClassVar[type[AggregatorOptions]] = WeightedVoteOptions
    proposing = Proposing(at_once=2)

    def __init__(self, name: str, options: WeightedVoteOptions, setting: Setting) -> None:
        super().__init__(name, options, setting)
        known = setting.outcomes if options.dependence else None
        self._dependence = None if known is None else Dependence.fit(known.experts, known.right)

    async def combine(self, request: Request, answers: Answers) -> Picked:
        return await elect(request, answers, by_weight(request.text, self._dependence))
