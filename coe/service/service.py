"""One process: registry, routers, pool, engines, pipeline and gateway bound together and served.

:func:`build_service` is the composition root, by plain constructor injection; nothing else makes these
objects. :func:`run_service` is what `coe serve` runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvloop

from coe.core.errors import ConfigError
from coe.core.files import off_the_loop
from coe.core.status import ExpertStatus, Readiness, RebalanceCounts, judge
from coe.core.types import EngineStats, ExpertId
from coe.engines import build_engine
from coe.gateway.app import Gateway
from coe.gateway.metrics import Metrics
from coe.gateway.middlewares import Middlewares, build_middlewares, without_access
from coe.observe.logs import LogFormat, set_up_logs
from coe.pipeline import Pipeline
from coe.pipeline.feedback import open_feedback
from coe.pipeline.generation import Generation, Generations
from coe.pool.registry_pool import EngineBuilder, RegistryPool
from coe.pool.revival import Revivals
from coe.registry.changes import fixed_hosts
from coe.registry.errors import Issue
from coe.registry.history import History
from coe.registry.load import hosts_of
from coe.registry.schema import Registry
from coe.service.admin import Admin, read_token
from coe.service.admin_api import AdminGateway
from coe.service.build_generation import GenerationBuilder
from coe.service.build_onboarding import build_gate, build_profiler
from coe.service.check import new_errors
from coe.service.http_server import (
    Descriptors,
    HostGuard,
    HttpServer,
    Listener,
    Tls,
    bind,
    host_names,
    http_server,
)
from coe.service.live_registry import LiveRegistry, RegistryFile
from coe.service.rebalancer import Rebalancer
from coe.service.running import Running, certificate_of, written_down
from coe.service.shared_registry import SharedRegistry

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_CONFIG = 0, 1, 2


class LocalService:
    """The bound objects. Use from one event loop: ``start``, then serve ``app``, then ``stop``."""

    def __init__(
        self,
        generations: Generations,
        registry_pool: RegistryPool,
        root: Path,
        middlewares: Middlewares | None = None,
        gateway: type[Gateway] = Gateway,
    ) -> None:
        self.generations = generations
        self.registry_pool, self.pool = registry_pool, registry_pool.pool
        self.live: LiveRegistry | None = None
        self.rebalancer: Rebalancer | None = None
        self._root = root
        self._joined: frozenset[str] = frozenset()
        self._draining = False
        self._following: list[asyncio.Task[None]] = []
        self.pipeline = Pipeline(generations, self.pool)
        self._middlewares = middlewares or without_access()
        self._rebalances = RebalanceCounts()
        self.metrics = Metrics(self)
        self.metrics.watch_rebalances(self._rebalances)
        self.gateway = gateway(self.pipeline, generations, self.metrics, self, self._middlewares)
        self.app = self.gateway.app()

    def follow(self, live: LiveRegistry) -> None:
        """Have the registry followed from the start on."""
        self.live = live
        self.rebalancer = Rebalancer(
            live, self.generations, self.pool.work_done, self.engines, self._rebalances
        )

    def admin_gateway(self, token: str) -> AdminGateway:
        """The admin API of a service that follows its registry, for those who have the token."""
        if self.live is None:
            raise ConfigError(
                "the admin API needs a file to edit", hint="Start the service with `coe serve`."
            )
        gate, profiler = build_gate(self._root), build_profiler(self._root)
        admin = Admin(self.live, self.generations, self, self.pipeline, gate, profiler)
        return AdminGateway(admin, self.metrics, token)

    async def start(self) -> None:
        """Returns at once; the engines start behind it (:meth:`readiness`). Idempotent."""
        await self.pool.start()
        self._middlewares.start()
        if self._following:
            return
        reviving = Revivals(self.pool).run()
        self._following = [asyncio.create_task(reviving, name="revive engines")]
        if self.live is None or self.rebalancer is None:
            return
        registry, store = self.generations.current.registry, self._middlewares.store
        watching = self.live.run(registry.service.watch)
        self._following += [
            asyncio.create_task(watching, name="watch experts.yaml"),
            asyncio.create_task(self.rebalancer.run(), name="rebalance experts"),
        ]
        if registry.state.share_registry:
            sharing = SharedRegistry(self.live, store).run()
            self._following.append(asyncio.create_task(sharing, name="share experts.yaml"))

    async def stop(self, drain_s: float = 30.0) -> None:
        """Refuse those who wait, let answers under way end for up to ``drain_s`` s, stop the engines.
        :meth:`close` follows."""
        self._draining = True
        for task in self._following:
            task.cancel()
        await self.pool.stop(drain_s)

    async def close(self) -> None:
        """After the last answer was sent: write what is left, and let go of the shared state."""
        await self._middlewares.close()

    async def switch(self, generation: Generation) -> None:
        """Go over to ``generation``: requests that come from now on use it, those under way keep theirs.

        Raises ConfigError, with nothing changed. One call at a time.
        """
        self._joined |= await self.registry_pool.switch_to(generation.registry)
        self.generations.publish(generation)

    def readiness(self) -> Readiness:
        verdict = judge(self.engines(), self._draining, self._joined)
        if self.live is None or self.live.refusal is None:
            return verdict
        number = self.generations.current.number
        reason = f"the last edit of experts.yaml was refused; generation {number} keeps serving"
        return Readiness(verdict.ready, (*verdict.reasons, reason))

    def engines(self) -> Mapping[str, EngineStats]:
        return {name: engine.stats() for name, engine in self.pool.engines.items()}

    def experts(self) -> Mapping[ExpertId, ExpertStatus]:
        return self.pool.watch.experts()


def build_service(
    registry: Registry,
    root: Path,
    engine_builder: EngineBuilder = build_engine,
    file: RegistryFile | None = None,
    gateway: type[Gateway] = Gateway,
) -> LocalService:
    """Bind everything that ``registry`` describes; nothing is started. ``root`` is its folder. With a
    ``file`` the service follows its edits. ``gateway``: one that may have more endpoints.

    Blocking: routers may load an encoder and learn from examples (seconds). Raises ConfigError.
    """
    history = History(root / registry.history.folder, registry.history.keep)
    pool = RegistryPool(registry, root, engine_builder)
    feedback = open_feedback(registry.feedback, root)
    builder = GenerationBuilder(root, feedback.counts)
    number = history.number_of(file.text, hosts_of(registry)) if file else 1
    first = builder.build(registry, number)
    middlewares = build_middlewares(registry, root, feedback)
    service = LocalService(Generations(first), pool, root, middlewares, gateway)
    if file is not None:
        live = LiveRegistry(file, service, builder, history, lambda old, new: _faults(old, new, root))
        service.follow(live)
    return service


def _faults(old: Registry, new: Registry, root: Path) -> list[Issue]:
    return [*fixed_hosts(old, new), *new_errors(old, new, root)]


def run_service(
    registry: Registry,
    root: Path,
    engine_builder: EngineBuilder = build_engine,
    file: RegistryFile | None = None,
    tls: Tls | None = None,
    log_format: LogFormat = "text",
    gateway: type[Gateway] = Gateway,
) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. Logs go to stderr, the URL to stdout.

    ``tls`` is for both listeners: that of the API and the admin API.
    """
    set_up_logs(log_format)
    try:
        if tls is not None:
            tls.check()
        with contextlib.ExitStack() as held:
            listener = held.enter_context(contextlib.closing(bind(registry.service)))
            service = build_service(registry, root, engine_builder, file, gateway)
            drain_s = registry.service.drain_s
            public = HostGuard(
                service.app, host_names(registry.service, registry.access.keys_file is not None)
            )
            listeners = [Listener(http_server(public, drain_s, tls), listener)]
            admin = registry.service.admin
            if admin is not None:
                app = HostGuard(
                    service.admin_gateway(read_token(admin, root)).app(), host_names(admin, needs_key=True)
                )
                held_open = held.enter_context(contextlib.closing(bind(admin)))
                listeners.append(Listener(http_server(app, drain_s, tls), held_open))
            if file is not None:
                urls = (each.url for each in listeners)
                certificate = certificate_of(tls.certificate if tls else None)
                found = Running(file.path.name, next(urls), next(urls, None), certificate)
                held.enter_context(written_down(root, found))
            return uvloop.run(_serve(service, listeners, drain_s))
    except ConfigError as error:
        log.error("%s%s", error.message, f" ({error.hint})" if error.hint else "")
        return EXIT_CONFIG


async def _serve(service: LocalService, listeners: Sequence[Listener], drain_s: float) -> int:
    """The first listener is the public one."""
    stop = _stop_on_signals([each.server for each in listeners])
    serving = [asyncio.create_task(each.server.serve(sockets=[each.socket])) for each in listeners]
    looking = asyncio.create_task(Descriptors().run(), name="look for free descriptors")
    await service.start()
    await off_the_loop(lambda: service.gateway.document)  # made by whoever asks first, it would hold all up
    for each in listeners[1:]:
        log.info("admin API on %s/admin", each.url)
    exit_code = await _announce_and_wait(service, listeners[0].url, stop)
    log.info("stopping: requests under way have %g s to end", drain_s)
    for each in listeners:
        each.server.should_exit = True
    await service.stop(drain_s)
    await asyncio.gather(*serving)
    await service.close()
    looking.cancel()
    log.info("stopped")
    return exit_code


async def _announce_and_wait(service: LocalService, url: str, stop: asyncio.Event) -> int:
    """Returns at a signal to stop, or at once when no engine could start."""
    log.info("listening on %s, starting engines: %s", url, ", ".join(service.engines()))
    while not stop.is_set():
        engines = service.engines()
        if all(stats.state == "failed" for stats in engines.values()):
            # All of what they say, other than /readyz, which anybody may read.
            whys = (f"engine {name} is failed: {stats.last_error}" for name, stats in engines.items())
            log.error("no engine could start: %s", "; ".join(whys))
            return EXIT_FAILED
        if service.readiness().ready:
            _settle_memory()
            _announce(url, service.generations.current.registry.service.model_name)
            await stop.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), timeout=0.2)
    return EXIT_OK


def _settle_memory() -> None:
    """What is here now stays: without it each full garbage collection holds all requests up."""
    gc.collect()
    gc.freeze()


def _announce(url: str, model: str) -> None:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "What is 12 + 30?"}]})
    print(f"CoE answers at {url}/v1, for example:\n", flush=True)
    print(f"curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n", flush=True)


def _stop_on_signals(servers: Sequence[HttpServer]) -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM; a second one gives up what is under way."""
    stop = asyncio.Event()

    def signalled() -> None:
        if stop.is_set():
            for server in servers:
                server.abort()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    return stop
