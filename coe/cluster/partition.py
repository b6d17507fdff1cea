"""What each part of a cluster sees of the registry."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from coe.core.types import Engine, ExpertId
from coe.pool.pool import Pool
from coe.registry.schema import Expert, Host, Node, Registry, RemoteHost
from coe.registry.schema import Pool as PoolSettings
from coe.scheduler.events import HostId
from coe.scheduler.plan import PoolPlan, build_plan
from coe.scheduler.policies import make_policy
from coe.scheduler.scheduler import Scheduler

WHOLE = "main"
"""The node that has all hosts where the registry names no nodes."""


def nodes_of(registry: Registry) -> tuple[Node, ...]:
    """The nodes of the cluster; without any hosts that hold memory there are none."""
    if registry.cluster.nodes:
        return registry.cluster.nodes
    hosts = tuple(host.id for host in registry.pool.hosts if not isinstance(host, RemoteHost))
    return (Node(id=WHOLE, hosts=hosts),) if hosts else ()


def placed_experts(registry: Registry) -> Mapping[ExpertId, HostId]:
    """The host of every expert that holds memory; the others are behind remote APIs."""
    remote = {host.id for host in registry.pool.hosts if isinstance(host, RemoteHost)}
    placed = {expert.id: expert.host for expert in registry.experts if expert.host is not None}
    return {expert: host for expert, host in placed.items() if host not in remote}


def part(registry: Registry, hosts: Collection[HostId]) -> Registry | None:
    """The registry with only these hosts and their experts; None where no expert is left."""
    experts = tuple(expert for expert in registry.experts if expert.host in hosts)
    if not experts:
        return None
    kept = tuple(host for host in registry.pool.hosts if host.id in hosts)
    pool = registry.pool.model_copy(update={"hosts": kept})
    return registry.model_copy(update={"pool": pool, "experts": experts})


def remote_part(registry: Registry) -> Registry | None:
    """What every gateway does by itself: the remote hosts and their experts."""
    return part(registry, {h.id for h in registry.pool.hosts if isinstance(h, RemoteHost)})


EngineBuilder = Callable[[Host, Sequence[Expert], Path], Engine]
EMPTY = PoolPlan((), ())


def make_pool(ours: Registry | None, settings: PoolSettings, root: Path, build: EngineBuilder) -> Pool:
    """A pool of the hosts of ``ours`` (None: of none). Nothing is started. Raises ConfigError."""
    engines = {h.id: build(h, ours.experts_on(h.id), root) for h in ours.pool.hosts} if ours else {}
    scheduler = Scheduler(build_plan(ours) if ours else EMPTY, make_policy(settings))
    return Pool(scheduler, engines, load_timeout_s=settings.load_timeout_s)


async def change_pool(pool: Pool, ours: Registry | None, root: Path, build: EngineBuilder) -> None:
    """See :meth:`Pool.reconfigure`. Raises ConfigError with nothing changed."""
    hosts = ours.pool.hosts if ours else ()
    old = set(pool.engines)
    experts = {host.id: ours.experts_on(host.id) for host in hosts} if ours else {}
    engines = {host.id: build(host, experts[host.id], root) for host in hosts if host.id not in old}
    adopted = {host: found for host, found in experts.items() if host in old}
    await pool.reconfigure(build_plan(ours) if ours else EMPTY, engines, adopted)
