"""The learned combiner at work on live answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from coe.aggregators.ballots import best_weighted, key_of, named
from coe.aggregators.base import AggregatorOptions, Base, Setting
from coe.aggregators.combiner import Combiner
from coe.aggregators.protocol import Answers, Picked, Proposal
from coe.aggregators.weighing import Table
from coe.extraction import options_in
from coe.types import Request


class LearnedOptions(AggregatorOptions):
    path: Path
    """the fitted combiner, relative to experts.yaml"""


class Learned(Base):
    """Picks the answer that a small model, trained on outcomes, finds most probable
    (:mod:`coe.aggregators.combiner`). Experts that it does not know are counted by weight alone."""

    options_type: ClassVar[type[AggregatorOptions]] = LearnedOptions

    def __init__(self, name: str, options: LearnedOptions, setting: Setting) -> None:
        super().__init__(name, options, setting)
        self._combiner = Combiner.load(setting.root / options.path)

    async def combine(self, request: Request, answers: Answers) -> Picked:
        proposals = [proposal async for proposal in answers]
        keys = [key_of(request, proposal) for proposal in proposals]
        numbers = {key: i for i, key in enumerate(dict.fromkeys(k for k in keys if k is not None))}
        readable = [(p, numbers[k]) for p, k in zip(proposals, keys, strict=True) if k is not None]
        if not readable:
            best = best_weighted(proposals)
            return Picked(best, f"no answer could be read, so {best.expert}, the best ranked, answers")
        (scores,) = self._combiner.scores(_table(request, readable))
        winner = max(scores, key=lambda answer: scores[answer])
        for_it = [proposal for proposal, answer in readable if answer == winner]
        reason = f"the combiner gives {scores[winner]:.2f} to the answer of {named(for_it)}"
        return Picked(best_weighted(for_it), reason)


def _table(request: Request, readable: Sequence[tuple[Proposal, int]]) -> Table:
    """One question as a table, a column for each answer."""
    return Table(
        experts=tuple(proposal.expert for proposal, _ in readable),
        answers=np.array([[answer for _, answer in readable]]),
        chances=np.array([[proposal.weight for proposal, _ in readable]]),
        lengths=np.array([[float(len(proposal.text)) for proposal, _ in readable]]),
        options=np.array([len(options_in(request.text)) or 2]),
    )
