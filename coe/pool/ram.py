"""The RAM of a node: weights of experts that sleep at level 1, and weights that were read ahead.

Part of the scheduler's books: what is here is owned by :class:`coe.pool.state.Books`, and only the scheduler
changes it. Sizes in GB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coe.pool.plan import EPSILON

if TYPE_CHECKING:
    from coe.pool.state import Replica


@dataclass(slots=True, eq=False)
class Ram:
    """Who holds how much of ``budget``. A place is held from the order to sleep or to read until the weights
    are awake or gone, so the sum of what is held is never less than what is used."""

    budget: float = math.inf
    held: dict[Replica, float] = field(default_factory=dict)

    @property
    def free(self) -> float:
        return self.budget - sum(self.held.values())

    @property
    def reading(self) -> bool:
        return any(replica.ahead == "reading" for replica in self.held)

    def takes(self, size: float) -> bool:
        return size <= self.free + EPSILON

    def hold(self, replica: Replica) -> None:
        self.held[replica] = replica.weights_gb

    def drop(self, replica: Replica) -> None:
        self.held.pop(replica, None)


def credit(replica: Replica, now: float) -> float:
    """Landlord's credit: what losing its place in RAM will cost a second, for each GB of it. Arrivals of late
    stand for those to come."""
    costs = replica.costs
    saved = costs.read.mean if replica.state == "cold" else max(0.0, costs.load.mean - costs.wake.mean)
    return replica.expert.rate_at(now) * saved / (replica.weights_gb + EPSILON)


def victims(ram: Ram, missing: float, now: float, below: float = math.inf) -> Sequence[Replica] | None:
    """Whom to send out of RAM for ``missing`` more than is free, those of least credit first and none with
    ``below`` or more; None when that is not enough. Who is queued for, expected or promised stays."""
    chosen: list[Replica] = []
    if missing <= EPSILON:
        return chosen
    idle = [r for r in ram.held if r.state in ("cold", "sleeping") and r.ahead != "reading" and not r.needed]
    for replica in sorted(idle, key=lambda r: (credit(r, now), r.used_at)):
        if credit(replica, now) >= below:
            return None
        chosen.append(replica)
        missing -= ram.held[replica]
        if missing <= EPSILON:
            return chosen
    return None
