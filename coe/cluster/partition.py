"""What each part of a cluster sees of the registry."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from coe.core.types import ExpertId
from coe.registry.schema import Node, Registry
from coe.scheduler.events import HostId

WHOLE = "main"
"""The node that has all hosts where the registry names no nodes."""


def nodes_of(registry: Registry) -> tuple[Node, ...]:
    """The nodes of the cluster; without any hosts that hold memory there are none."""
    if registry.cluster.nodes:
        return registry.cluster.nodes
    hosts = tuple(host.id for host in registry.pool.hosts if not host.always_awake)
    return (Node(id=WHOLE, hosts=hosts),) if hosts else ()


def placed_experts(registry: Registry) -> Mapping[ExpertId, HostId]:
    """The host of every expert that holds memory; the others are always awake."""
    remote = {host.id for host in registry.pool.hosts if host.always_awake}
    placed = {expert.id: expert.host for expert in registry.experts if expert.host is not None}
    return {expert: host for expert, host in placed.items() if host not in remote}


def part(registry: Registry, hosts: Collection[HostId]) -> Registry:
    """The registry with only these hosts and their experts, which may be none."""
    experts = tuple(expert for expert in registry.experts if expert.host in hosts)
    kept = tuple(host for host in registry.pool.hosts if host.id in hosts)
    pool = registry.pool.model_copy(update={"hosts": kept})
    return registry.model_copy(update={"pool": pool, "experts": experts})


def remote_part(registry: Registry) -> Registry:
    """What every gateway does by itself: the hosts whose experts are always awake, such as remote ones."""
    return part(registry, {h.id for h in registry.pool.hosts if h.always_awake})
