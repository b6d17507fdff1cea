"""The learned combiner at work on live answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from coe.aggregators.ballots import best_weighted, key_of, named, plausible_answers, unreadable
from coe.aggregators.base import AggregatorOptions, Base, Setting
from coe.aggregators.combiner.agreement import POSITIONS
from coe.aggregators.combiner.fitted import FittedCombiner
from coe.aggregators.combiner.stopping import dearer, standing_features
from coe.aggregators.combiner.tables import ABSENT, Table
from coe.aggregators.protocol import Answers, Asked, Picked, Proposal, Proposing
from coe.core.errors import ConfigError
from coe.core.extraction import options_in
from coe.core.types import Request


class LearnedOptions(AggregatorOptions):
    path: Path | None = None
    """the fitted combiner, relative to experts.yaml; without it, the one next to the profiles"""


class Learned(Base):
    """Picks the answer that a small model, taught by outcomes, finds most probable
    (:mod:`coe.aggregators.combiner.agreement`). Experts that it does not know are counted by their chance
    alone.

    Where the service decides how many experts are asked, it asks one after the other and stops as soon as
    another answer is not worth its price (:mod:`coe.aggregators.combiner.stopping`).
    """

    options_type: ClassVar[type[AggregatorOptions]] = LearnedOptions

    def __init__(self, name: str, options: LearnedOptions, setting: Setting) -> None:
        super().__init__(name, options, setting)
        path = setting.combiner if options.path is None else setting.root / options.path
        if path is None:
            raise ConfigError(
                f'aggregator "{name}": nothing taught it yet',
                hint="Run coe experts profile --combiner --from FOLDER, or give the option path.",
            )
        self._fitted = FittedCombiner.load(path)
        self.proposing = Proposing(at_once=None if self._fitted.stopping is None else 1)

    async def combine(self, request: Request, answers: Answers) -> Picked:
        ballot = _Ballot(request, self._fitted)
        async for proposal in answers:
            ballot.add(proposal)
            coming = answers.outstanding
            if answers.adaptive and coming and not ballot.worth_another(coming):
                break
        return ballot.verdict()


class _Ballot:
    """The answers to one request so far."""

    def __init__(self, request: Request, fitted: FittedCombiner) -> None:
        self._request = request
        self._letters = options_in(request.text)
        self._fitted = fitted
        self._proposals: list[Proposal] = []
        self._numbers: list[int] = []
        self._free: dict[str, int] = {}

    def add(self, proposal: Proposal) -> None:
        self._proposals.append(proposal)
        self._numbers.append(self._number(key_of(self._request, proposal)))

    def worth_another(self, coming: Sequence[Asked]) -> bool:
        """Whether one more answer gains more than it costs; False where no rule was learned."""
        stopping, table = self._fitted.stopping, self._table()
        if stopping is None:
            return True
        chances = np.array([[asked.weight for asked in coming]])
        features = standing_features(self._fitted.combiner.standing(table), table, chances)
        return bool(stopping.gain(len(self._proposals), features)[0] > dearer(self._request.options))

    def verdict(self) -> Picked:
        standing = self._fitted.combiner.standing(self._table())
        winner = int(standing.winner[0])
        if winner == ABSENT:
            return unreadable(self._proposals)
        for_it = [p for p, number in zip(self._proposals, self._numbers, strict=True) if number == winner]
        reason = f"the combiner gives {standing.share[0]:.2f} to the answer of {named(for_it)}"
        return Picked(best_weighted(for_it), reason)

    def _number(self, key: str | None) -> int:
        """An option by its position, another answer by its turn, ``ABSENT`` for what cannot be read."""
        if key is None:
            return ABSENT
        form, _, value = key.partition(" ")
        if form == "choice" and value in self._letters[:POSITIONS]:
            return self._letters.index(value)
        return self._free.setdefault(key, POSITIONS + len(self._free))

    def _table(self) -> Table:
        """One question, a column for each answer."""
        proposals = self._proposals
        return Table(
            experts=tuple(proposal.expert for proposal in proposals),
            answers=np.array([self._numbers]),
            chances=np.array([[proposal.weight for proposal in proposals]]),
            lengths=np.array([[float(p.usage.get("completion_tokens", np.nan)) for p in proposals]]),
            options=np.array([plausible_answers(self._request.text)]),
        )
