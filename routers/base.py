"""What every router class offers, so that built-ins and plug-ins are built in one way."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from coe.core.plugins import PluginOptions
from coe.core.types import ExpertView, Router
from coe.routers.encoders.encoder import Encoder, Encoders
from coe.routers.learning.evidence import Evidence


class RouterOptions(PluginOptions):
    """Base of a router's ``options`` in experts.yaml."""

    @property
    def reads_profiles(self) -> bool:
        """Whether the router learns from what the profiles say: one that does not keeps what it has learned
        when these change."""
        return True


@dataclass(frozen=True)
class Setting:
    """What a router may know when it is built. The experts may change later: ``route`` gets them anew."""

    experts: tuple[ExpertView, ...] = ()
    root: Path = Path()
    evidence: Evidence | None = None
    """what the profiles say of those of the experts that have one; None where none has"""
    encoders: Encoders = field(default_factory=Encoders, compare=False)

    def encoder(self, name: str) -> Encoder:
        """One of :data:`coe.routers.encoders.encoder.ENCODERS`, or a folder relative to ``root``. Blocking:
        it may read a model. Raises ConfigError for a name that is neither."""
        return self.encoders.open(name, self.root)


class RouterClass(Protocol):
    """A class whose objects are routers.

    Besides :class:`coe.core.types.Router` its objects may set ``blocking = True``: ``route`` takes more than
    about a millisecond of CPU and the pipeline calls it in a thread. And they may have a method
    ``renewed(setting) -> Router``: this router for other experts, as if built anew with the same options but
    sooner, while the old one goes on deciding.
    """

    options_type: ClassVar[type[RouterOptions]]

    def __call__(self, name: str, options: Any, setting: Setting) -> Router:
        """Build the router. ``options`` is an ``options_type``; raises ConfigError for what it cannot use."""
        ...
