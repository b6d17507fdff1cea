"""What the baselines have in common: the policies of systems in use, to compare with.

They keep the scheduler's guarantees (no work in flight is killed, where the original may) but promise
nothing about waiting. A host that could load an expert leaves it to another one that is better placed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from coe.core.plugins import PluginOptions
from coe.core.types import ExpertId
from coe.registry.schema import Pool
from coe.scheduler.plan import EPSILON
from coe.scheduler.policies.protocol import HostView, ReplicaView, Rules, Swap
from coe.scheduler.policies.victims import free_up

Preference = tuple[float, ...]
"""Lower goes first."""
Closing = Callable[[ReplicaView], Preference | None]
"""How willingly a resident is closed; None: not at all."""
Order = Callable[[ReplicaView], Any]


class Baseline:
    """Serve whatever is awake, oldest request first."""

    across_hosts = True
    options_type: ClassVar[type[PluginOptions]] = PluginOptions

    @property
    def rules(self) -> Rules:
        return Rules()

    @classmethod
    def build(cls, name: str, options: Any, pool: Pool) -> Self:  # noqa: ARG003
        """To be overridden by one that has options, or reads more of the pool's settings."""
        return cls()

    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:  # noqa: ARG002
        return min(grantable, key=head).expert.id

    def frame(self, replica: ReplicaView) -> int:  # noqa: ARG002
        return 0

    def wake_at(self, view: HostView) -> float:  # noqa: ARG002
        return math.inf


def head(replica: ReplicaView) -> float:
    """Arrival of the oldest request."""
    return replica.expert.oldest


def least_recently_used(resident: ReplicaView) -> Preference:
    """What runs is in use now."""
    return resident.running > 0, resident.used_at


def served(resident: ReplicaView) -> Preference | None:
    """Not at all while somebody waits for it."""
    return None if resident.expert.queued else least_recently_used(resident)


def unplaced(view: HostView) -> list[ReplicaView]:
    """Experts with work that no host holds or is bringing in."""
    return [r for r in view.candidates if not r.expert.supply]


def unserved(view: HostView) -> list[ReplicaView]:
    """Experts for which more wait than those who serve them take in one batch."""
    return [r for r in view.candidates if r.expert.queued > r.expert.supply]


def load_first(
    view: HostView, wanted: Iterable[ReplicaView], closing: Closing, order: Order = head
) -> Swap | None:
    """Load the first of ``wanted`` in ``order`` for which room can be made here."""
    if view.room <= EPSILON and all(closing(r) is None for r in view.residents):
        return None
    attempts = (load_here(view, one, closing) for one in sorted(wanted, key=order))
    return next((swap for swap in attempts if swap), None)


def load_here(view: HostView, wanted: ReplicaView, closing: Closing) -> Swap | None:
    """Load ``wanted`` at the expense of the residents that are closed most willingly; None where there is
    no room to be made, or where another host would close something that is less of a loss."""
    here = _make_room(view.residents, wanted.footprint - view.room, closing)
    if here is None:
        return None
    for host, replica in wanted.expert.replicas.items():
        if host == view.host or not replica.loadable(view.now):
            continue
        awake = [r for r in replica.host.residents.values() if r.awake]
        there = _make_room(awake, replica.footprint - replica.host.room, closing)
        if there and (there.loss, host) < (here.loss, view.host):
            return None
    return Swap(wanted.expert.id, here.victims)


@dataclass(frozen=True)
class _Room:
    """``loss`` is the preference of the dearest victim; nothing is less than any."""

    loss: Preference
    victims: tuple[ExpertId, ...]


def _make_room(residents: Iterable[ReplicaView], missing: float, closing: Closing) -> _Room | None:
    losses = {r: loss for r in residents if (loss := closing(r)) is not None}
    chosen = free_up(sorted(losses, key=lambda r: (losses[r], r.expert.id)), missing)
    if chosen is None:
        return None
    return _Room(losses[chosen[-1]] if chosen else (), tuple(r.expert.id for r in chosen))
