"""The service as a Ray Serve application: the only module that imports ray.

    Serve proxy -> Gateway replicas (HTTP, SSE; routers run in them)
                       | leases: direct actor calls, 1 to 2 ms          | tokens: HTTP to the expert's server
                   OwnerActor, one for each copy of a node  ------------+
                       ^ started and watched by
                   Node replica (Serve: placement, health, autoscaling, drain)

Owners are found through the Directory, one small named actor that they renew themselves in. A new version
of the registry comes to the gateways as ``user_config`` (no replica is restarted) and reaches the owners
with the next heartbeat. Ray's own settings are in :mod:`coe.cluster.settings`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import uuid
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from coe.cluster.node import NodeOwner
from coe.cluster.partition import nodes_of
from coe.cluster.replica import GatewayReplica
from coe.cluster.scaling import Load, wanted_copies
from coe.cluster.settings import APP_NAME, DIRECTORY, NAMESPACE, Deployed
from coe.cluster.wire import (
    Granted,
    KnownOwner,
    OwnerId,
    OwnerLost,
    OwnerReport,
    Refused,
    SessionId,
    TicketId,
    Wanted,
)
from coe.pool.events import HostId
from coe.registry.models import Node, Registry

log = logging.getLogger(__name__)

RENEWAL_S = 1.0
STALE_S = 8.0
"""An owner that has not renewed itself for so long is not in the directory any more."""


@dataclass(frozen=True)
class Entry:
    """An owner in the directory."""

    owner: OwnerId
    actor: ActorHandle
    hosts: frozenset[HostId]


class Directory:
    """Which owners there are, and for which hosts somebody waits in vain. Holds nothing that its
    owners would not tell it again within a second."""

    def __init__(self) -> None:
        self._entries: dict[OwnerId, tuple[float, Entry]] = {}
        self._missed: dict[HostId, float] = {}

    async def renew(self, entry: Entry) -> None:
        self._entries[entry.owner] = (_now(), entry)

    async def leave(self, owner: OwnerId) -> None:
        self._entries.pop(owner, None)

    async def entries(self) -> list[Entry]:
        return [entry for heard, entry in self._entries.values() if _now() - heard < STALE_S]

    async def miss(self, host: HostId) -> None:
        self._missed[host] = _now()


def _now() -> float:
    return asyncio.get_running_loop().time()


def directory() -> ActorHandle:
    """The one of this cluster; made if it is not there."""
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)(Directory)
    return actor.options(
        name=DIRECTORY, namespace=NAMESPACE, get_if_exists=True, lifetime="detached", max_concurrency=1000
    ).remote()


class RayDirectory:
    """:class:`coe.cluster.wire.Directory` for a gateway."""

    def __init__(self, wake: Mapping[HostId, serve.handle.DeploymentHandle]) -> None:
        self._wake = wake
        self._known: dict[OwnerId, KnownOwner] = {}
        self._waking: dict[HostId, asyncio.Task[None]] = {}

    async def owners(self) -> Mapping[OwnerId, KnownOwner]:
        try:
            entries = await asyncio.wait_for(_result(directory().entries.remote()), timeout=5.0)
        except (RayError, TimeoutError, ValueError) as error:
            log.warning("the directory of owners cannot be reached: %s", error)
            return self._known
        calls = {entry.owner: self._known.get(entry.owner) for entry in entries}
        self._known = {
            e.owner: calls[e.owner] or KnownOwner(ActorCalls(e.owner, e.actor), e.hosts) for e in entries
        }
        return self._known

    def miss(self, host: HostId) -> None:
        """A call that waits for a replica is what makes Serve start the first one."""
        running = self._waking.get(host)
        if host in self._wake and (running is None or running.done()):
            self._waking[host] = asyncio.create_task(self._call(host))

    async def _call(self, host: HostId) -> None:
        with contextlib.suppress(RayError):
            await self._wake[host].present.remote()


class ActorCalls:
    """:class:`coe.cluster.wire.OwnerCalls` to an owner's actor."""

    def __init__(self, owner: OwnerId, actor: ActorHandle) -> None:
        self._owner, self._actor = owner, actor

    async def acquire(self, wanted: Wanted) -> Granted | Refused:
        return await self._reach(self._actor.acquire.remote(wanted))  # type: ignore[no-any-return]

    async def give_back(self, session: SessionId, ticket: TicketId, failure: str | None) -> None:
        await self._reach(self._actor.give_back.remote(session, ticket, failure))

    async def expect(self, wanted: Wanted) -> None:
        await self._reach(self._actor.expect.remote(wanted))

    async def beat(self, session: SessionId) -> OwnerReport:
        return await self._reach(self._actor.beat.remote(session))  # type: ignore[no-any-return]

    async def adopt(self, generation: int, registry: str) -> None:
        await self._reach(self._actor.adopt.remote(generation, registry))

    async def _reach(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except RayError as error:
            cause = getattr(error, "cause", None)
            raise OwnerLost(str(cause or error).partition("\n")[0] or type(error).__name__) from error


async def _result(call: Awaitable[Any]) -> Any:
    return await call


class OwnerActor(NodeOwner):
    """The pool owner of one copy of a node, in a process of its own; it ends with its node replica."""

    def __init__(self, owner: OwnerId, node: Node, root: str, machine: str) -> None:
        logging.basicConfig(level=logging.INFO)
        interface = ray.util.get_node_ip_address()
        super().__init__(owner, node.id, node.hosts, Path(root), machine, interface)

    async def load(self) -> Load | None:
        """For autoscaling; None until there is a generation."""
        report = self.report()
        return None if report is None else Load.of(report)


class NodeReplica:
    """One copy of a node: starts its owner where Ray has put it, and lets Serve watch it."""

    def __init__(self, node: str, root: str) -> None:
        self._node = Node.model_validate_json(node)
        owner = f"{self._node.id}-{uuid.uuid4().hex[:8]}"
        options: dict[str, Any] = {
            "num_cpus": self._node.cpus,
            "num_gpus": self._node.gpus,
            "resources": self._node.resources or None,
            "max_concurrency": 10_000,
        }
        actor = ray.remote(**options)(OwnerActor).remote(owner, self._node, root, machine())
        self._entry = Entry(owner, actor, frozenset(self._node.hosts))
        self._load: Load | None = None
        self._failed = 0
        self._renewal = asyncio.get_running_loop().create_task(self._renew())

    async def present(self) -> bool:
        return True

    async def check_health(self) -> None:
        """Serve replaces this replica, and with it the owner, when the owner is gone."""
        try:
            self._load = await asyncio.wait_for(_result(self._entry.actor.load.remote()), timeout=10.0)
        except (RayError, TimeoutError) as error:
            raise RuntimeError(f"the pool owner {self._entry.owner} is gone: {error}") from error

    def record_autoscaling_stats(self) -> dict[str, float]:
        load = self._load
        return {"wait_s": load.wait_s, "busy": load.busy} if load else {}

    async def __del__(self) -> None:
        """Serve has told the gateways to go elsewhere: let leases end, stop the engines."""
        self._renewal.cancel()
        with contextlib.suppress(RayError, TimeoutError):
            await asyncio.wait_for(_result(directory().leave.remote(self._entry.owner)), timeout=5.0)
            await asyncio.wait_for(_result(self._entry.actor.stop.remote()), timeout=60.0)
        ray.kill(self._entry.actor)

    async def _renew(self) -> None:
        while True:
            try:
                await asyncio.wait_for(_result(directory().renew.remote(self._entry)), timeout=5.0)
            except (RayError, TimeoutError, ValueError) as error:
                log.warning("the directory of owners cannot be reached: %s", error)
            await asyncio.sleep(RENEWAL_S)


@serve.ingress()
class GatewayDeployment:
    """A gateway replica: :class:`GatewayReplica` behind Serve's proxy."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, deployed: dict[str, Any], wake: dict[str, Any]
    ) -> None:
        logging.basicConfig(level=logging.INFO)
        start = Deployed(**deployed)
        registry = Registry.model_validate_json(start.registry)
        self._replica = await asyncio.to_thread(
            GatewayReplica,
            f"gateway-{uuid.uuid4().hex[:12]}",
            machine(),
            RayDirectory(wake),
            start.generation,
            registry,
            Path(start.root),
        )
        await self._replica.start()

    def __serve_build_asgi_app__(self) -> Any:
        return self._replica.app

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """A new generation; a bad one is refused and the old one serves on."""
        deployed = Deployed(**user_config)
        registry = Registry.model_validate_json(deployed.registry)
        await self._replica.change_to(deployed.generation, registry)

    async def __del__(self) -> None:
        await self._replica.stop()


def machine() -> str:
    """Names this computer: whoever says the same can reach our Unix sockets."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}-{boot.read_text().strip() if boot.exists() else ''}"


def scale_by_forecast(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Serve's policy for nodes: copies from the scheduler's own forecast (:mod:`coe.cluster.scaling`)."""
    stats = context.aggregated_metrics or {}
    waits = [float(value) for value in (stats.get("wait_s") or {}).values()]
    busy = [float(value) for value in (stats.get("busy") or {}).values()]
    waiting = context.total_num_requests > 0  # a gateway's call that no replica has taken yet
    config = context.config
    target_wait_s = float((config.policy.policy_kwargs or {}).get("target_wait_s", 10.0)) if config else 10.0
    wanted = wanted_copies(
        present=context.current_num_replicas,
        waits_s=waits,
        busy=busy,
        called=waiting,
        target_wait_s=target_wait_s,
    )
    low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return max(low, min(high, wanted)), {}


def build(deployed: Deployed) -> serve.Application:
    """The application of a version of the registry. Nothing is started."""
    registry = Registry.model_validate_json(deployed.registry)
    nodes = {node.id: _node_deployment(node, registry, deployed.root) for node in nodes_of(registry)}
    wake = {host: nodes[node.id] for node in nodes_of(registry) for host in node.hosts}
    first = Deployed(deployed.root, deployed.generation, deployed.registry)
    gateway = _gateway_deployment(registry, deployed)
    return gateway.bind(first.as_config(), wake)


def app(args: dict[str, Any]) -> serve.Application:
    """``import_path`` of a Serve config file: ``coe.cluster.ray_app:app``."""
    return build(Deployed(**args))


def _gateway_deployment(registry: Registry, deployed: Deployed) -> serve.Deployment:
    cluster = registry.cluster
    scaling: dict[str, Any] = {"num_replicas": cluster.gateways}
    if cluster.max_gateways is not None:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=cluster.gateways,
                max_replicas=cluster.max_gateways,
                target_ongoing_requests=cluster.target_ongoing,
            )
        }
    return serve.deployment(
        name="gateway",
        max_ongoing_requests=cluster.max_ongoing,
        graceful_shutdown_timeout_s=60,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=2,
        user_config=deployed.as_config(),
        ray_actor_options={"num_cpus": 0},
        **scaling,
    )(GatewayDeployment)


def _node_deployment(node: Node, registry: Registry, root: str) -> serve.Application:
    scaling: dict[str, Any] = {"num_replicas": node.copies}
    if node.max_copies is not None:
        policy = AutoscalingPolicy(
            policy_function="coe.cluster.ray_app:scale_by_forecast",
            policy_kwargs={"target_wait_s": registry.cluster.target_wait_s},
        )
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=node.copies,
                max_replicas=node.max_copies,
                policy=policy,
                upscale_delay_s=5.0,
                downscale_delay_s=120.0,
            )
        }
    bundle = {"CPU": node.cpus, "GPU": node.gpus, **node.resources}
    wanted = {name: amount for name, amount in bundle.items() if amount}
    placement = (
        {"placement_group_bundles": [wanted], "placement_group_strategy": "STRICT_PACK"} if wanted else {}
    )
    return serve.deployment(
        name=f"node-{node.id}",
        health_check_period_s=2,
        health_check_timeout_s=15,
        graceful_shutdown_timeout_s=90,
        max_ongoing_requests=100,
        ray_actor_options={"num_cpus": 0},
        **placement,
        **scaling,
    )(NodeReplica).bind(node.model_dump_json(), root)


def run(deployed: Deployed, address: str | None, port: int, host: str) -> None:
    """Start or update the application on the cluster at ``address`` (None: one started here)."""
    ray.init(address=address, namespace=NAMESPACE, ignore_reinit_error=True, log_to_driver=False)
    serve.start(http_options={"host": host, "port": port})
    serve.run(build(deployed), name=APP_NAME, route_prefix="/")
