"""Which expert comes next, at whose expense, and who is served: the replaceable part of scheduling.

One file per policy; :data:`POLICIES` is the table of their names, :mod:`.protocol` what they are told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from coe.core.errors import ConfigError
from coe.core.suggest import suggest
from coe.registry.schema import Pool
from coe.scheduler.policies.collating_fifo import CollatingFifo
from coe.scheduler.policies.protocol import HostView, Policy, QueueView, ReplicaView, Rules, Swap
from coe.scheduler.policies.slack import Coe
from coe.scheduler.policies.spelling import parse_policy, split_policies
from coe.scheduler.policies.static import StaticPinning

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

Policies = Mapping[str, Callable[[Pool], Policy]]

POLICIES: Policies = {
    "coe": lambda pool: Coe(mechanisms=pool.options, min_residency_s=pool.min_residency_s),
    "collating-fifo": lambda _: CollatingFifo(),
    "static": lambda pool: StaticPinning(frozenset(pool.pinned), ageing_s=pool.classes.standard.slo_s),
}


def make_policy(pool: Pool, policies: Policies = POLICIES) -> Policy:
    """The policy that the registry names among ``policies`` (the simulator knows more than a service),
    ``coe[-belady,-prewake]`` being one without these mechanisms. Raises :class:`ConfigError` with the
    choices.
    """
    spelled = parse_policy(pool.policy)
    make = policies.get(spelled.name)
    if make is None:
        raise ConfigError(f"pool.policy: no policy {spelled.name!r}", hint=suggest(spelled.name, policies))
    if not spelled.without:
        return make(pool)
    if spelled.name != "coe":
        raise ConfigError(
            f"pool.policy: {spelled.name!r} has no mechanisms to switch off", hint="leave the brackets out"
        )
    options = pool.options.model_copy(update=dict.fromkeys(spelled.without, False))
    return Coe(mechanisms=options, min_residency_s=pool.min_residency_s, name=pool.policy)
