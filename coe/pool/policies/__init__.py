"""Which expert comes next, at whose expense, and who is served: the replaceable part of scheduling.

One file per policy; :data:`POLICIES` is the table of their names, :mod:`.protocol` what they are told.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from coe.errors import ConfigError
from coe.pool.policies.arrival_order import Belady, FcfsLru, Ttl
from coe.pool.policies.collate import Collate
from coe.pool.policies.collating_fifo import CollatingFifo
from coe.pool.policies.coserve import CoServe
from coe.pool.policies.grouping import GroupOffline, GroupOnline
from coe.pool.policies.multiplexed import MultiplexedLru
from coe.pool.policies.protocol import HostView, Policy, QueueView, ReplicaView, Swap
from coe.pool.policies.static import StaticPinning
from coe.registry.models import Pool

__all__ = ["POLICIES", "Collate", "HostView", "Policy", "QueueView", "ReplicaView", "Swap", "make_policy"]

POLICIES: Mapping[str, Callable[[Pool], Policy]] = {
    "coe": lambda pool: Collate(ageing_s=pool.ageing_s, min_residency_s=pool.min_residency_s),
    "fcfs-lru": lambda _: FcfsLru(),
    "collating-fifo": lambda _: CollatingFifo(),
    "ttl": lambda _: Ttl(),
    "multiplexed-lru": lambda _: MultiplexedLru(),
    "group-offline": lambda _: GroupOffline(),
    "group-online": lambda _: GroupOnline(),
    "coserve": lambda _: CoServe(),
    "static": lambda pool: StaticPinning(frozenset(pool.pinned), ageing_s=pool.ageing_s),
    "belady": lambda _: Belady(),
}


def make_policy(pool: Pool) -> Policy:
    """The policy that the registry names. Raises :class:`ConfigError` with the choices."""
    make = POLICIES.get(pool.policy)
    if make is None:
        nearest = difflib.get_close_matches(pool.policy, POLICIES, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known policies: {', '.join(POLICIES)}"
        raise ConfigError(f"pool.policy: no policy {pool.policy!r}", hint=hint)
    return make(pool)
