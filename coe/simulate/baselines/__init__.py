"""Policies of other systems, to compare with; :data:`POLICIES` is the table of all that the simulator
knows."""

from __future__ import annotations

from coe.registry.schema import Pool
from coe.scheduler.policies import POLICIES as SERVED
from coe.scheduler.policies import Policies, Policy
from coe.scheduler.policies import make_policy as make_among
from coe.simulate.baselines.arrival_order import Belady, FcfsLru, Ttl
from coe.simulate.baselines.coserve import CoServe
from coe.simulate.baselines.grouping import GroupOffline, GroupOnline
from coe.simulate.baselines.multiplexed import MultiplexedLru

POLICIES: Policies = {
    **SERVED,
    "fcfs-lru": lambda _: FcfsLru(),
    "ttl": lambda _: Ttl(),
    "multiplexed-lru": lambda _: MultiplexedLru(),
    "group-offline": lambda _: GroupOffline(),
    "group-online": lambda _: GroupOnline(),
    "coserve": lambda _: CoServe(),
    "belady": lambda _: Belady(),
}


def make_policy(pool: Pool) -> Policy:
    """As :func:`coe.scheduler.policies.make_policy`, among all that the simulator knows."""
    return make_among(pool, POLICIES)
