"""Votes on the answers' exact values: by head, by calibrated weight, and among samples of one expert."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from coe.aggregators.ballots import Key, Vote, elect
from coe.aggregators.base import AggregatorOptions, Base, Setting
from coe.aggregators.combiner.tables import Dependence, voter_weights
from coe.aggregators.protocol import Answers, Picked, Proposing
from coe.core.extraction import options_in
from coe.core.types import Request

_CLOSE = 9
"""Digits to which summed weights are compared, so that rounding breaks no tie."""


def by_head(votes: Sequence[Vote]) -> Key | None:
    """The most frequent answer; ties go to the higher summed weight, then to the better rank."""
    return _leader(votes, [1.0] * len(votes))


def by_weight(votes: Sequence[Vote], weights: Sequence[float]) -> Key | None:
    """The answer with the highest summed weight; ties as in :func:`by_head`."""
    return _leader(votes, weights)


def _leader(votes: Sequence[Vote], weights: Sequence[float]) -> Key | None:
    said = dict.fromkeys(vote.key for vote in votes if vote.key is not None)
    if not said:
        return None

    def standing(key: Key) -> tuple[float, float, int]:
        mine = [(vote.asked, weight) for vote, weight in zip(votes, weights, strict=True) if vote.key == key]
        total = math.fsum(weight for _, weight in mine)
        trust = math.fsum(asked.weight for asked, _ in mine)
        return round(total, _CLOSE), round(trust, _CLOSE), -min(asked.rank for asked, _ in mine)

    return max(said, key=standing)


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
    (:mod:`coe.aggregators.combiner.tables`). Stops once the rest cannot change the winner."""

    options_type: ClassVar[type[AggregatorOptions]] = WeightedVoteOptions
    proposing = Proposing(at_once=2)

    def __init__(self, name: str, options: WeightedVoteOptions, setting: Setting) -> None:
        super().__init__(name, options, setting)
        known = setting.outcomes if options.dependence else None
        self._dependence = None if known is None else Dependence.fit(known.experts, known.right)

    async def combine(self, request: Request, answers: Answers) -> Picked:
        options = len(options_in(request.text)) or 2

        def winner(votes: Sequence[Vote]) -> Key | None:
            counting = [vote for vote in votes if vote.key is not None]
            return by_weight(counting, self._weights(counting, options))

        return await elect(request, answers, winner)

    def _weights(self, votes: Sequence[Vote], options: int) -> list[float]:
        if not votes:
            return []
        chances: Any = np.array([vote.asked.weight for vote in votes])
        experts = [vote.asked.expert for vote in votes]
        among = None if self._dependence is None else self._dependence.among(experts)
        return [float(weight) for weight in voter_weights(chances, among, options)]
