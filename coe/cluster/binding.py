"""A pool for a part of the registry, and its change to another version of that part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from coe.pool.plan import PoolPlan, build_plan
from coe.pool.policies import make_policy
from coe.pool.pool import Pool
from coe.pool.scheduler import Scheduler
from coe.registry.models import Expert, Host, Registry
from coe.registry.models import Pool as PoolSettings
from coe.types import Engine

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
