"""At whose expense: the residents whose loss costs least."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from coe.core.types import ExpertId, RequestId
from coe.scheduler.plan import EPSILON
from coe.scheduler.policies.protocol import ReplicaView


def choose_victims(
    closable: Sequence[ReplicaView], missing: float, kin: Collection[RequestId] = ()
) -> tuple[ExpertId, ...]:
    """Residents that free ``missing`` at the least loss.

    The known future counts first: one that waits for other legs of the groups in ``kin``, or is expected by
    any, goes last; then one with a queue, the oldest queue last; then one that still works; the least
    recently used one goes first.
    """

    def order(resident: ReplicaView) -> tuple[bool, bool, float, bool, float]:
        expert = resident.expert
        related = expert.expected > 0 or (bool(kin) and not expert.groups.isdisjoint(kin))
        queued = expert.queued > 0
        return related, queued, -expert.oldest if queued else 0.0, resident.running > 0, resident.used_at

    return tuple(r.expert.id for r in free_up(sorted(closable, key=order), missing) or ())


def free_up(ordered: Iterable[ReplicaView], missing: float) -> list[ReplicaView] | None:
    """The first of ``ordered`` that free ``missing`` together, without those that turn out not to be needed
    (a later one frees enough for both). None: not even all of them do."""
    chosen: list[ReplicaView] = []
    for resident in ordered:
        if missing <= EPSILON:
            break
        chosen.append(resident)
        missing -= resident.footprint
    if missing > EPSILON:
        return None
    needed = []
    for resident in chosen:
        if resident.footprint <= EPSILON - missing:
            missing += resident.footprint
        else:
            needed.append(resident)
    return needed
