"""What every aggregator class offers, so that built-ins and plug-ins are built in one way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from coe.aggregators.protocol import Aggregator, Asked, Proposing
from coe.types import ExpertId, ExpertView


class AggregatorOptions(BaseModel):
    """Base of an aggregator's ``options`` in experts.yaml: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def named_experts(self) -> Sequence[ExpertId]:
        """Experts that the options name; the registry must have them."""
        return ()


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
    best_aggregator: ExpertId | None = None
    """the expert that did best at picking the right one of several answers, where that was measured"""


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

    def writer(self, asked: Sequence[Asked]) -> ExpertId | None:  # noqa: ARG002 (most ask nobody)
        return None
