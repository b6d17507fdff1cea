"""What every aggregator class offers, so that built-ins and plug-ins are built in one way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from coe.aggregators.protocol import Aggregator, Asked, Proposing
from coe.core.plugins import PluginOptions
from coe.core.types import ExpertId, ExpertView


class AggregatorOptions(PluginOptions):
    """Base of an aggregator's ``options`` in experts.yaml."""


@dataclass(frozen=True)
class Outcomes:
    """Which expert was right on which known question."""

    experts: tuple[ExpertId, ...]
    """m names"""
    right: npt.NDArray[np.float32]
    """(n, m) in 0..1; NaN where the expert was not asked"""


@dataclass(frozen=True)
class Setting:
    """What an aggregator may know when it is built."""

    experts: tuple[ExpertView, ...] = ()
    root: Path = Path()
    """the folder of experts.yaml, where relative paths in options start"""
    outcomes: Outcomes | None = None
    """what the experts' profiles say of those that have one; None where none has"""
    combiner: Path | None = None
    """what `coe experts profile --combiner` fitted, next to the profiles; None where it did not"""
    best_aggregators: Mapping[str, ExpertId] = field(default_factory=dict)
    """for each category, and for "all", the expert that was best at picking the right one of several answers;
    only where somebody was measured to be better than guessing"""

    def writer_for(self, expert: ExpertId) -> ExpertId:
        """Who shall aggregate answers to a query that the router gives to ``expert``: the best aggregator of
        that expert's skills, else the best overall, else the expert itself."""
        skills = next((view.skills for view in self.experts if view.id == expert), ())
        tested = (self.best_aggregators.get(name) for name in (*skills, "all"))
        return next((found for found in tested if found is not None), expert)


class AggregatorClass(Protocol):
    """A class whose objects are aggregators."""

    options_type: ClassVar[type[AggregatorOptions]]

    def __call__(self, name: str, options: Any, setting: Setting) -> Aggregator:
        """Raises ConfigError for options that it cannot use."""
        ...


MAX_EXPERTS = 16


class Base:
    """The common parts of the built-ins: a name, options, nobody to ask. Plug-ins need not inherit it."""

    options_type: ClassVar[type[AggregatorOptions]] = AggregatorOptions
    max_experts = MAX_EXPERTS
    proposing = Proposing()

    def __init__(self, name: str, options: Any, setting: Setting) -> None:
        self.name = name
        self._options = options
        self._setting = setting

    def writer(self, asked: Sequence[Asked]) -> ExpertId | None:  # noqa: ARG002
        return None
