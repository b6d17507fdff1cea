"""Policies of other systems, to compare with; :data:`POLICIES` is the table of all that the simulator
knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from coe.registry.schema import Pool
from coe.scheduler.policies import POLICIES as SERVED
from coe.scheduler.policies import POLICY_KIND as SERVED_KIND
from coe.scheduler.policies import Policy
from coe.scheduler.policies import make_policy as make_among
from coe.scheduler.policies.spelling import parse_policy

_HERE = "coe.simulate.baselines"
POLICIES: Mapping[str, str] = MappingProxyType(
    {
        **SERVED,
        "fcfs-lru": f"{_HERE}.arrival_order:FcfsLru",
        "ttl": f"{_HERE}.arrival_order:Ttl",
        "multiplexed-lru": f"{_HERE}.multiplexed:MultiplexedLru",
        "group-offline": f"{_HERE}.grouping:GroupOffline",
        "group-online": f"{_HERE}.grouping:GroupOnline",
        "coserve": f"{_HERE}.coserve:CoServe",
        "belady": f"{_HERE}.arrival_order:Belady",
    }
)
POLICY_KIND = replace(SERVED_KIND, built_in=POLICIES)


def make_policy(pool: Pool, root: Path = Path()) -> Policy:
    """As :func:`coe.scheduler.policies.make_policy`, among all that the simulator knows."""
    return make_among(pool, root, POLICY_KIND)


def under_policy(pool: Pool, policy: str) -> Pool:
    """The settings of ``pool`` with another policy, which has options only if it is of the same name."""
    same = parse_policy(policy).name == parse_policy(pool.policy).name
    return pool.model_copy(update={"policy": policy, "options": pool.options if same else {}})
