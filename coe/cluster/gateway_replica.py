"""One gateway of a cluster: the same pipeline and API as under `coe serve`, with leases from owners."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from coe.cluster.cluster_pool import ClusterPool, Version
from coe.cluster.messages import Directory, SessionId
from coe.cluster.partition import placed_experts, remote_part
from coe.core.errors import ConfigError, told
from coe.core.files import off_the_loop
from coe.core.status import ExpertStatus, Readiness, reason
from coe.core.types import EngineStats, ExpertId
from coe.engines import build_engine
from coe.gateway.app import Gateway
from coe.gateway.metrics import Metrics
from coe.gateway.middlewares import build_middlewares
from coe.pipeline import Leases, Pipeline
from coe.pipeline.feedback import open_feedback
from coe.pipeline.generation import Generations
from coe.pool.registry_pool import RegistryPool
from coe.registry.changes import fixed_hosts, needs_another_gateway
from coe.registry.schema import Registry
from coe.service.build_generation import GenerationBuilder
from coe.service.http_server import HostGuard, host_names

log = logging.getLogger(__name__)


class GatewayReplica:
    """Use from one event loop: ``start``, serve ``app``, ``change_to`` new generations, ``stop``."""

    def __init__(
        self,
        session: SessionId,
        machine: str,
        directory: Directory,
        number: int,
        registry: Registry,
        root: Path,
    ) -> None:
        self._root, self._first = root, registry
        feedback = open_feedback(registry.feedback, root)
        self._builder = GenerationBuilder(root, feedback.counts)
        self._generations = Generations(self._builder.build(registry, number))
        self._remote = RegistryPool(remote_part(registry), root, build_engine)
        self._own = self._remote.pool
        self._pool = ClusterPool(session, machine, directory, _version(number, registry), self._own)
        self._draining = False
        self._giving_up: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[Any]] = set()
        self._middlewares = build_middlewares(registry, root, feedback)
        leases: Leases = self._pool
        pipeline = Pipeline(self._generations, leases)
        gateway = Gateway(pipeline, self._generations, Metrics(self), self, self._middlewares)
        names = host_names(registry.service, registry.access.keys_file is not None)
        self.app: ASGIApp = _counted(HostGuard(gateway.app(), names), self._under_way)

    async def start(self) -> None:
        await self._own.start()
        await self._pool.start()
        self._middlewares.start()

    def end(self) -> None:
        """The whole service ends, not this gateway alone: refuse those who wait for an expert, and give up in
        ``service.drain_s`` seconds what is under way then. :meth:`stop` follows. Idempotent."""
        if self._giving_up is None:
            drain_s = self._generations.current.registry.service.drain_s
            log.info("stopping: requests under way have %g s to end", drain_s)
            self._draining = True
            self._pool.refuse()
            self._own.refuse()
            self._giving_up = asyncio.create_task(self._give_up_after(drain_s))

    async def _give_up_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        for task in self._under_way:
            task.cancel()

    async def stop(self, drain_s: float = 30.0) -> None:
        """Refuse those who wait for a remote expert; answers under way have ended before (Ray drains)."""
        self._draining = True
        if self._giving_up is not None:
            self._giving_up.cancel()
        await self._pool.stop()
        await self._own.stop(drain_s)
        await self._middlewares.close()

    async def change_to(self, number: int, registry: Registry) -> None:
        """Serve another generation; owners get it with the next heartbeat. Raises ConfigError, with the
        present one serving on."""
        if number <= self._generations.current.number:
            return
        # Owners refuse it too, but by then requests would go by a generation that nobody runs.
        for issue in fixed_hosts(self._generations.current.registry, registry):
            raise ConfigError(issue.message, hint=issue.hint)
        generation = await off_the_loop(self._builder.build, registry, number)
        # Published last: requests go by it once the leases of its experts do.
        await self._remote.switch_to(remote_part(registry))
        self._pool.change_to(_version(number, registry))
        self._generations.publish(generation)
        log.info("generation %d serves", number)
        if self.outdated:
            log.warning(
                "these changes take effect for gateways that start from now on: %s", ", ".join(self.outdated)
            )

    @property
    def generation(self) -> int:
        """The number of the one that serves."""
        return self._generations.current.number

    @property
    def outdated(self) -> tuple[str, ...]:
        """Settings of the generation that this gateway was made without, and does not follow."""
        return needs_another_gateway(self._first, self._generations.current.registry)

    def readiness(self) -> Readiness:
        """Ready when every host of the generation is ready at some owner, or has failed there."""
        if self._draining:
            return Readiness(False, ("the service is stopping",))
        registry = self._generations.current.registry
        engines = self.engines()
        missing = [h.id for h in registry.pool.hosts if h.id not in engines]
        reasons = [f"host {host} has no owner yet" for host in missing]
        reasons += [reason(host, stats) for host, stats in engines.items() if stats.state != "ready"]
        reports = self._pool.reports
        reasons += [
            told(f"owner {owner} refuses {each.refused}") for owner, each in reports.items() if each.refused
        ]
        states = {stats.state for stats in engines.values()}
        return Readiness("ready" in states and not missing and states <= {"ready", "failed"}, tuple(reasons))

    def engines(self) -> Mapping[str, EngineStats]:
        """By host, or host@owner where several owners have it."""
        found = {host: engine.stats() for host, engine in self._own.engines.items()}
        for owner, report in self._pool.reports.items():
            if owner in self._pool.lost:
                continue
            for host, stats in report.engines.items():
                found[f"{host}@{owner}" if host in found else host] = stats
        return found

    def experts(self) -> Mapping[ExpertId, ExpertStatus]:
        """Requests are summed over owners; the state is that of the first one that has it awake."""
        found = dict(self._own.watch.experts())
        for owner, report in self._pool.reports.items():
            if owner not in self._pool.lost:
                for expert, status in report.experts.items():
                    found[expert] = _sum(found[expert], status) if expert in found else status
        return found


def _counted(app: ASGIApp, under_way: set[asyncio.Task[Any]]) -> ASGIApp:
    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way.add(task)
        try:
            await app(scope, receive, send)
        finally:
            under_way.discard(task)

    return counted


def _sum(one: ExpertStatus, other: ExpertStatus) -> ExpertStatus:
    state = "awake" if "awake" in (one.state, other.state) else one.state
    stuck = one.stuck or other.stuck
    return ExpertStatus(state, one.queued + other.queued, one.running + other.running, stuck)


def _version(number: int, registry: Registry) -> Version:
    return Version(number, registry.model_dump_json(), placed_experts(registry))
