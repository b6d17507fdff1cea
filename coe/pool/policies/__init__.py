"""Which expert comes next, at whose expense, and who is served: the replaceable part of scheduling.

One file per policy; :data:`POLICIES` is the table of their names, :mod:`.protocol` what they are told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from coe.errors import ConfigError
from coe.pool.policies.arrival_order import Belady, FcfsLru, Ttl
from coe.pool.policies.coe import Coe
from coe.pool.policies.collating_fifo import CollatingFifo
from coe.pool.policies.coserve import CoServe
from coe.pool.policies.grouping import GroupOffline, GroupOnline
from coe.pool.policies.multiplexed import MultiplexedLru
from coe.pool.policies.protocol import HostView, Policy, QueueView, ReplicaView, Rules, Swap
from coe.pool.policies.spelling import parse_policy, split_policies
from coe.pool.policies.static import StaticPinning
from coe.registry.models import Pool
from coe.suggest import suggest

__all__ = [
    "POLICIES",
    "Coe",
    "HostView",
    "Policy",
    "QueueView",
    "ReplicaView",
    "Rules",
    "Swap",
    "make_policy",
    "split_policies",
]

POLICIES: Mapping[str, Callable[[Pool], Policy]] = {
    "coe": lambda pool: Coe(mechanisms=pool.options, min_residency_s=pool.min_residency_s),
    "fcfs-lru": lambda _: FcfsLru(),
    "collating-fifo": lambda _: CollatingFifo(),
    "ttl": lambda _: Ttl(),
    "multiplexed-lru": lambda _: MultiplexedLru(),
    "group-offline": lambda _: GroupOffline(),
    "group-online": lambda _: GroupOnline(),
    "coserve": lambda _: CoServe(),
    "static": lambda pool: StaticPinning(frozenset(pool.pinned), ageing_s=pool.classes.standard.slo_s),
    "belady": lambda _: Belady(),
}


def make_policy(pool: Pool) -> Policy:
    """The policy that the registry names, ``coe[-belady,-prewake]`` being one without these mechanisms.

    Raises :class:`ConfigError` with the choices.
    """
    spelled = parse_policy(pool.policy)
    make = POLICIES.get(spelled.name)
    if make is None:
        raise ConfigError(f"pool.policy: no policy {spelled.name!r}", hint=suggest(spelled.name, POLICIES))
    if not spelled.without:
        return make(pool)
    if spelled.name != "coe":
        raise ConfigError(
            f"pool.policy: {spelled.name!r} has no mechanisms to switch off", hint="leave the brackets out"
        )
    options = pool.options.model_copy(update=dict.fromkeys(spelled.without, False))
    return Coe(mechanisms=options, min_residency_s=pool.min_residency_s, name=pool.policy)
