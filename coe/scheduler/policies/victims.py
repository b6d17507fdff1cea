"""At whose expense: the residents whose loss costs least."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from coe.core.types import ExpertId, RequestId
from coe.scheduler.plan import EPSILON
from coe.scheduler.policies.protocol import ReplicaView

Loss = Callable[[ReplicaView, float], float]


def credit(resident: ReplicaView, now: float) -> float:
    """Landlord's credit for a future that is not known: what losing it will cost a second, for each unit
    of room. Arrivals of late stand for those to come."""
    return resident.expert.rate_at(now) * resident.load_s / (resident.footprint + EPSILON)


def last_use(resident: ReplicaView, now: float) -> float:  # noqa: ARG001
    return resident.used_at


def choose_victims(
    closable: Sequence[ReplicaView], missing: float, now: float, loss: Loss, kin: Collection[RequestId] = ()
) -> tuple[ExpertId, ...]:
    """Residents that free ``missing`` at the least loss.

    The known future counts first (Belady): one that waits for other legs of the groups in ``kin``, or is
    expected by any, goes last; then one with a queue, the oldest queue last; then one that still works.
    ``loss`` orders the rest, least recent use decides what is equal.
    """

    def order(resident: ReplicaView) -> tuple[bool, bool, float, bool, float, float]:
        expert = resident.expert
        related = expert.expected > 0 or (bool(kin) and not expert.groups.isdisjoint(kin))
        queued = expert.queued > 0
        age = -expert.oldest if queued else 0.0
        return related, queued, age, resident.running > 0, loss(resident, now), resident.used_at

    chosen: list[ReplicaView] = []
    if missing > EPSILON:
        for resident in sorted(closable, key=order):
            chosen.append(resident)
            missing -= resident.footprint
            if missing <= EPSILON:
                break
    return tuple(r.expert.id for r in _needed(chosen, -missing))


def _needed(chosen: Sequence[ReplicaView], spare: float) -> Iterator[ReplicaView]:
    """``chosen`` without those that turn out not to be needed (a later one freed enough for both)."""
    for resident in chosen:
        if resident.footprint <= spare + EPSILON:
            spare -= resident.footprint
        else:
            yield resident
