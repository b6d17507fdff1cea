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
        proposals: list[Proposal] = []
        keys: list[str | None] = []
        async for proposal in answers:
            proposals.append(proposal)
            keys.append(key_of(request, proposal))
            coming = answers.outstanding
            if answers.adaptive and coming and not self._worth_another(request, proposals, keys, coming):
                break
        table = _table(request, proposals, keys)
        standing = self._fitted.combiner.standing(table)
        winner = int(standing.winner[0])
        if winner == ABSENT:
            return unreadable(proposals)
        for_it = [p for p, number in zip(proposals, table.answers[0], strict=True) if number == winner]
        reason = f"the combiner gives {standing.share[0]:.2f} to the answer of {named(for_it)}"
        return Picked(best_weighted(for_it), reason)

    def _worth_another(
        self,
        request: Request,
        proposals: Sequence[Proposal],
        keys: Sequence[str | None],
        coming: Sequence[Asked],
    ) -> bool:
        """Whether one more answer gains more than it costs; True where no rule was learned."""
        if self._fitted.stopping is None:
            return True
        table, chances = _table(request, proposals, keys), np.array([[asked.weight for asked in coming]])
        features = standing_features(self._fitted.combiner.standing(table), table, chances)
        return bool(self._fitted.stopping.gain(len(proposals), features)[0] > dearer(request.options))


def _table(request: Request, proposals: Sequence[Proposal], keys: Sequence[str | None]) -> Table:
    """One question, a column for each answer: an option by its position, another answer by its turn,
    ``ABSENT`` for what cannot be read."""
    numbers: dict[str | None, int] = {
        f"choice {letter}": place for place, letter in enumerate(options_in(request.text)[:POSITIONS])
    }
    numbers[None] = ABSENT
    for turn, key in enumerate(key for key in dict.fromkeys(keys) if key not in numbers):
        numbers[key] = POSITIONS + turn
    return Table(
        experts=tuple(proposal.expert for proposal in proposals),
        answers=np.array([[numbers[key] for key in keys]]),
        chances=np.array([[proposal.weight for proposal in proposals]]),
        lengths=np.array([[float(p.usage.get("completion_tokens", np.nan)) for p in proposals]]),
        options=np.array([plausible_answers(request.text)]),
    )
