"""What every engine class offers, so that built-ins and plug-ins are built in one way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel

from coe.core.plugins import PluginOptions
from coe.core.types import Engine, ExpertSpec


class EngineOptions(PluginOptions):
    """Base of an engine's ``options`` in experts.yaml."""


@dataclass(frozen=True)
class Setting:
    """What an engine may know when it is built. The experts may change later: ``set_experts`` says so."""

    experts: Sequence[ExpertSpec]
    root: Path
    """the folder of experts.yaml, where relative paths start; logs belong into ``root/var/log``"""
    max_running: int
    """requests that come at once, at most"""


class EngineClass(Protocol):
    """A class whose objects are engines (:class:`coe.core.types.Engine`).

    Besides its objects may be a :class:`coe.core.types.ReadsAhead`, and must be a
    :class:`coe.engines.address.Addressable` where they hold experts in memory and run in a cluster.
    """

    options_type: ClassVar[type[BaseModel]]

    experts_at_once: ClassVar[int | Literal["all"]]
    """how many experts it holds at once, unless experts.yaml says it; may be missing: one. all: every expert
    answers as soon as the engine is started, and neither ``ensure_ready`` nor ``sleep`` is called"""

    def __call__(self, name: str, options: Any, setting: Setting) -> Engine:
        """``name`` is the host's id. Starts nothing; raises ConfigError for options that it cannot use."""
        ...
