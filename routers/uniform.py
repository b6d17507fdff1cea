"""A random expert: the baseline that every router must beat. (``random.py`` would shadow the library.)"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from coe.core.decision import before_all, decide, generals
from coe.core.types import Decision, ExpertView, Ranked, Rule
from coe.routers.base import RouterOptions, Setting


class RandomOptions(RouterOptions):
    """``seed``: the same seed gives the same sequence of choices."""

    seed: int = 0

    @property
    def reads_profiles(self) -> bool:
        return False


class RandomRouter:
    """Draw ``n`` depends on the seed and ``n`` only, so concurrent callers cannot disturb the sequence."""

    options_type: ClassVar[type[RouterOptions]] = RandomOptions
    blocking = False

    def __init__(self, name: str, options: RandomOptions, setting: Setting) -> None:  # noqa: ARG002
        self.name = name
        self._seed = options.seed
        self._draws = itertools.count()  # next() on it is atomic in CPython

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:  # noqa: ARG002
        ids = [view.id for view in experts]
        random.Random(f"{self._seed}/{next(self._draws)}").shuffle(ids)
        drawn = partial(before_all, ids)
        return decide(
            self.name,
            tuple(Ranked(expert, 1.0 / len(ids)) for expert in ids),
            f"drawn at random from {len(ids)} experts",
            Rule(general=generals(experts), prefers=drawn, why="random", fixed=True),
        )
