"""The pool of a registry's hosts, and its change from one generation to the next: for `coe serve`, for each
pool owner of a cluster, and for the remote hosts of a gateway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from coe.core.errors import ConfigError
from coe.core.files import off_the_loop
from coe.core.types import Engine
from coe.pool.pool import Pool
from coe.pool.watch import WatchLimits
from coe.registry.changes import fixed_fields, fixed_hosts
from coe.registry.hosts import Host
from coe.registry.schema import Expert, Registry
from coe.scheduler.events import HostId
from coe.scheduler.plan import build_plan
from coe.scheduler.policies import make_policy
from coe.scheduler.scheduler import Scheduler

HOST_LEAVING = "host_leaving"
"""Code of a refusal that passes: a host of that name still ends what it does under other settings."""

EngineBuilder = Callable[[Host, Sequence[Expert], Path], Engine]


class RegistryPool:
    """``pool`` runs the hosts of ``registry`` that have experts. Nothing is started. Raises ConfigError.

    ``root``: the folder that paths in the registry start from.
    """

    def __init__(self, registry: Registry, root: Path, build: EngineBuilder) -> None:
        self._registry, self._root, self._build = registry, root, build
        # Invariant: every engine of the pool is here as it was built, also one that is leaving.
        self._hosts = {host.id: host for host in registry.used_hosts}
        engines = {host.id: build(host, registry.experts_on(host.id), root) for host in registry.used_hosts}
        scheduler = Scheduler(build_plan(registry), make_policy(registry.pool, root))
        self.pool = Pool(
            scheduler, engines, load_timeout_s=registry.pool.load_timeout_s, limits=_limits(registry)
        )

    async def switch_to(self, new: Registry) -> frozenset[HostId]:
        """Go over to ``new``; returns the hosts whose engines were built for it.

        Raises ConfigError, with nothing changed, where a running engine would not follow. One call at a time.
        """
        self._require_followed(new)
        engines: dict[HostId, Engine] = {}
        experts: dict[HostId, tuple[Expert, ...]] = {}
        for host in new.used_hosts:
            wanted = new.experts_on(host.id)
            if host.id not in self.pool.engines:
                engines[host.id] = await off_the_loop(self._build, host, wanted, self._root)
            elif self._registry.experts_on(host.id) != wanted:
                experts[host.id] = wanted
        await self.pool.reconfigure(build_plan(new), engines, experts)
        self._registry, self.pool.watch.limits = new, _limits(new)
        self._hosts |= {host.id: host for host in new.used_hosts}
        return frozenset(engines)

    def _require_followed(self, new: Registry) -> None:
        for issue in fixed_hosts(self._registry, new):
            raise ConfigError(issue.message, hint=issue.hint)
        for host in new.used_hosts:
            if host.id in self.pool.engines and fixed_fields(self._hosts[host.id], host):
                raise ConfigError(
                    f"host {host.id} still finishes its work under its former settings",
                    code=HOST_LEAVING,
                    hint="Save the file again in a moment, or give the host another id.",
                )


def _limits(registry: Registry) -> WatchLimits:
    return WatchLimits(registry.pool.stuck_after_s, registry.limits.request_timeout_s)
