"""Which expert comes next, at whose expense, and who is served: the replaceable part of scheduling.

One file per policy; :data:`POLICIES` is the table of their names, :mod:`.protocol` what they are told. A
plug-in is named ``module:Class`` in experts.yaml and is built exactly as a built-in is (see
:class:`.protocol.PolicyClass`); :func:`coe.testing.conformance_policy.check_policy` checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

from coe.core.errors import ConfigError
from coe.core.plugins import PluginKind
from coe.registry.schema import Pool
from coe.scheduler.policies.collating_fifo import CollatingFifo
from coe.scheduler.policies.protocol import HostView, Policy, QueueView, ReplicaView, Rules, Swap
from coe.scheduler.policies.slack import Coe
from coe.scheduler.policies.spelling import parse_policy, split_policies
from coe.scheduler.policies.static import StaticPinning

__all__ = [
    "BASELINES",
    "POLICIES",
    "POLICY_KIND",
    "Coe",
    "CollatingFifo",
    "HostView",
    "Policy",
    "QueueView",
    "ReplicaView",
    "Rules",
    "StaticPinning",
    "Swap",
    "make_policy",
    "split_policies",
]

POLICIES: Mapping[str, str] = MappingProxyType(
    {
        "coe": "coe.scheduler.policies:Coe",
        "collating-fifo": "coe.scheduler.policies:CollatingFifo",
        "static": "coe.scheduler.policies:StaticPinning",
    }
)
_THERE = "coe.simulate.baselines"
BASELINES: Mapping[str, str] = MappingProxyType(
    {
        "fcfs-lru": f"{_THERE}.arrival_order:FcfsLru",
        "ttl": f"{_THERE}.arrival_order:Ttl",
        "multiplexed-lru": f"{_THERE}.multiplexed:MultiplexedLru",
        "group-offline": f"{_THERE}.grouping:GroupOffline",
        "group-online": f"{_THERE}.grouping:GroupOnline",
        "coserve": f"{_THERE}.coserve:CoServe",
        "belady": f"{_THERE}.arrival_order:Belady",
    }
)
"""Policies of other systems, to compare with. Only the simulator has short names for them; in an experts.yaml
they are read for one more version."""
POLICY_KIND = PluginKind(
    "policy", "swap", "coe.scheduler.policies.protocol.PolicyClass", POLICIES, former=BASELINES
)


def make_policy(pool: Pool, root: Path = Path(), kinds: PluginKind = POLICY_KIND) -> Policy:
    """The policy that the registry names among ``kinds`` (the simulator knows more than a service),
    ``coe[-prefetch,-prewake]`` being one without these mechanisms. ``root`` is the folder of experts.yaml.

    Raises :class:`ConfigError` with the choices.
    """
    spelled = parse_policy(pool.policy)
    if spelled.without and spelled.name != "coe":
        raise ConfigError(
            f"pool.policy: {spelled.name!r} has no mechanisms to switch off", hint="leave the brackets out"
        )
    options = {**pool.options, **dict.fromkeys(spelled.without, False)}
    return cast(Policy, kinds.beside(root).build(spelled.name, pool.policy, options, pool))
