"""The service as a Ray Serve application. Only this module and operator import ray.

    Serve proxy -> Gateway replicas (HTTP, SSE; routers run in them)
                       | leases: direct actor calls, 1 to 2 ms          | tokens: HTTP to the expert's server
                   OwnerActor, one for each copy of a node  ------------+
                       ^ started and watched by
                   Node replica (Serve: placement, health, autoscaling, drain)

Owners are found through the Directory, one small named actor that they renew themselves in. A new version
of the registry comes to the gateways as ``user_config`` (no replica is restarted) and reaches the owners
with the next heartbeat. The options of the deployments are in :mod:`coe.cluster.serve_config`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from coe.cluster.cluster_pool import OWNER_RETURN_S
from coe.cluster.directory import Directory, Entry
from coe.cluster.gateway_replica import GatewayReplica
from coe.cluster.messages import (
    GatewayReport,
    Granted,
    KnownOwner,
    LeaseRequest,
    OwnerId,
    OwnerLost,
    OwnerReport,
    Refused,
    SessionId,
    TicketId,
)
from coe.cluster.node import NodeOwner
from coe.cluster.scaling import Load
from coe.cluster.serve_config import GATEWAY, node_name
from coe.cluster.settings import DIRECTORY, NAMESPACE, Deployed
from coe.core.errors import CoeError
from coe.observe.logs import set_up_logs
from coe.registry.schema import Node
from coe.scheduler.events import HostId

log = logging.getLogger(__name__)

T = TypeVar("T")

RENEWAL_S = 1.0
DRAIN_S = 60.0
"""How long answers under way may go on at an owner that stops."""
CALL_S = 5.0


def directory() -> ActorHandle:
    """The one of this cluster; made if it is not there. Blocking."""
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)(Directory)
    return actor.options(
        name=DIRECTORY,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        max_concurrency=1000,
        scheduling_strategy="DEFAULT",  # not in the placement group of the node that happens to make it
    ).remote()


class DirectoryLost(Exception):
    """The directory does not answer at the moment."""


class DirectoryCalls:
    """Calls of the directory, which may be restarting or, after `coe undeploy`, be another one."""

    def __init__(self) -> None:
        self._actor: ActorHandle | None = None

    async def call(self, method: str, *args: Any) -> Any:
        """Raises DirectoryLost."""
        try:
            if self._actor is None:
                self._actor = await asyncio.to_thread(directory)
            async with asyncio.timeout(CALL_S):
                return await getattr(self._actor, method).remote(*args)
        except TimeoutError:
            raise DirectoryLost("it is starting, or busy") from None
        except (RayError, ValueError) as error:
            self._actor = None
            raise DirectoryLost(_first_line(error)) from error

    async def send(self, method: str, *args: Any) -> Any:
        """What is sent again, so that nothing is lost when it does not arrive; then None is returned."""
        try:
            return await self.call(method, *args)
        except DirectoryLost as error:
            log.warning("the directory cannot be reached: %s", error)
            return None


class RayDirectory:
    """:class:`coe.cluster.messages.Directory` for a gateway."""

    def __init__(self, calls: DirectoryCalls, wake: Mapping[HostId, serve.handle.DeploymentHandle]) -> None:
        self._calls, self._wake = calls, wake
        self._known: dict[OwnerId, KnownOwner] = {}
        self._waking: dict[HostId, asyncio.Task[None]] = {}

    async def owners(self) -> Mapping[OwnerId, KnownOwner]:
        try:
            entries = await self._calls.call("owners")
        except DirectoryLost as error:
            log.warning("the directory cannot be reached: %s", error)
            return self._known
        if entries is not None:
            self._known = {entry.owner: self._owner(entry) for entry in entries}
        return self._known

    def _owner(self, entry: Entry) -> KnownOwner:
        known = self._known.get(entry.owner)
        return known or KnownOwner(ActorCalls(entry.owner, entry.actor), entry.hosts)

    def miss(self, host: HostId) -> None:
        """A call that waits for a replica is what makes Serve start the first one."""
        running = self._waking.get(host)
        if host in self._wake and (running is None or running.done()):
            self._waking[host] = asyncio.create_task(self._call(host))

    async def _call(self, host: HostId) -> None:
        with contextlib.suppress(RayError):
            await _nobodys_child(self._wake[host].present.remote)


class ActorCalls:
    """:class:`coe.cluster.messages.OwnerCalls` to an owner's actor."""

    def __init__(self, owner: OwnerId, actor: ActorHandle) -> None:
        self._owner, self._actor = owner, actor

    async def acquire(self, wanted: LeaseRequest) -> Granted | Refused:
        return await self._reach("acquire", wanted)  # type: ignore[no-any-return]

    async def release(self, session: SessionId, ticket: TicketId, failure: str | None) -> None:
        await self._reach("release", session, ticket, failure)

    async def expect(self, wanted: LeaseRequest) -> None:
        await self._reach("expect", wanted)

    async def heartbeat(self, session: SessionId) -> OwnerReport:
        return await self._reach("heartbeat", session)  # type: ignore[no-any-return]

    async def apply_generation(self, generation: int, registry: str) -> None:
        await self._reach("apply_generation", generation, registry)

    async def _reach(self, method: str, *args: Any) -> Any:
        try:
            return await _nobodys_child(getattr(self._actor, method).remote, *args)
        except RayError as error:
            raise OwnerLost(_first_line(getattr(error, "cause", None) or error)) from error


def _nobodys_child(submit: Callable[..., T], *args: Any) -> T:
    """``submit(*args)``, not as a part of the request that is served.

    When a client hangs up, Serve cancels the request with all Ray calls that it made, wherever they are: the
    lease would never be given back. Ray knows whose call it is by the context.
    """
    return contextvars.Context().run(submit, *args)


def _first_line(error: object) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


async def _result(call: Awaitable[Any]) -> Any:
    return await call


class OwnerActor(NodeOwner):
    """The pool owner of one copy of a node, in a process of its own; it ends with its node replica."""

    def __init__(self, owner: OwnerId, node: Node, root: str, machine: str) -> None:
        set_up_logs("text")
        interface = ray.util.get_node_ip_address()
        super().__init__(owner, node.id, node.hosts, Path(root), machine, interface)

    async def load(self) -> Load | None:
        """For autoscaling; None until there is a generation."""
        report = self.report()
        return None if report is None else Load.of(report)


class NodeReplica:
    """One copy of a node: starts its owner where Ray has put it, and lets Serve watch it."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, node: dict[str, Any], root: str
    ) -> None:
        self._node = Node.model_validate(node)
        owner = f"{self._node.id}-{uuid.uuid4().hex[:8]}"
        actor = ray.remote(**self._owner_options())(OwnerActor).remote(owner, self._node, root, machine())
        self._entry = Entry(owner, actor, frozenset(self._node.hosts))
        self._load: Load | None = await actor.load.remote()  # It is there: from now on health is checked.
        self._seen = time.monotonic()
        self._directory = DirectoryCalls()
        self._renewal = asyncio.get_running_loop().create_task(self._renew())

    def _owner_options(self) -> dict[str, Any]:
        """Inside our placement group where there is one, which Ray does by itself; else on our machine."""
        options: dict[str, Any] = {
            "num_cpus": self._node.cpus,
            "num_gpus": self._node.gpus,
            "resources": self._node.resources or None,
            "max_concurrency": 10_000,
            "max_restarts": -1,
        }
        if ray.util.get_current_placement_group() is None:
            here = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
        return options

    async def present(self) -> bool:
        return True

    async def check_health(self) -> None:
        """Ray restarts an owner that died. Serve replaces this replica, and with it the owner, when that
        does not help."""
        try:
            self._load = await asyncio.wait_for(_result(self._entry.actor.load.remote()), timeout=10.0)
            self._seen = time.monotonic()
        except (RayError, TimeoutError) as error:
            if isinstance(error, ActorDiedError) or time.monotonic() - self._seen > OWNER_RETURN_S:
                raise RuntimeError(f"the pool owner {self._entry.owner} is gone: {error}") from error

    def record_autoscaling_stats(self) -> dict[str, float]:
        load = self._load
        return {"wait_s": load.wait_s, "busy": load.busy} if load else {}

    async def __del__(self) -> None:
        """Gateways are sent elsewhere, leases end, the engines stop. Serve waits for this."""
        self._renewal.cancel()
        await self._directory.send("leave", self._entry.owner)
        with contextlib.suppress(RayError, TimeoutError):
            await asyncio.wait_for(_result(self._entry.actor.stop.remote(DRAIN_S)), timeout=DRAIN_S + 20)
        ray.kill(self._entry.actor)

    async def _renew(self) -> None:
        while True:
            await self._directory.send("renew", self._entry)
            await asyncio.sleep(RENEWAL_S)


@serve.ingress()
class GatewayDeployment:
    """A gateway replica: :class:`GatewayReplica` behind Serve's proxy, made when Serve brings the first
    generation (``reconfigure``), which is before the first request."""

    def __init__(self, wake: dict[str, Any]) -> None:
        set_up_logs("text")
        self._session = f"gateway-{uuid.uuid4().hex[:12]}"
        self._wake = wake
        self._directory = DirectoryCalls()
        self._replica: GatewayReplica | None = None
        self._refused: str | None = None
        self._renewal = asyncio.create_task(self._renew())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        none_yet = Router()

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await (self._replica.app if self._replica else none_yet)(scope, receive, send)

        return answer

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Another generation. One that cannot be served is refused and the old one serves on: an error
        would make Serve replace this replica by one that has nothing to serve at all."""
        deployed = Deployed(**user_config)
        try:
            await self._change_to(deployed)
            self._refused = None
        except (CoeError, ValueError) as error:
            if self._replica is None:
                raise
            self._refused = f"generation {deployed.generation}: {error}"
            log.error("refused: %s", self._refused)
        await self._directory.send("renew_gateway", self._report())

    async def _change_to(self, deployed: Deployed) -> None:
        registry = deployed.parsed()
        if self._replica is not None:
            await self._replica.change_to(deployed.generation, registry)
            return
        replica = await asyncio.to_thread(
            GatewayReplica,
            self._session,
            machine(),
            RayDirectory(self._directory, self._wake),
            deployed.generation,
            registry,
            Path(deployed.root),
        )
        await replica.start()
        self._replica = replica

    def _report(self) -> GatewayReport:
        number, outdated = (self._replica.generation, self._replica.outdated) if self._replica else (0, ())
        return GatewayReport(self._session, machine(), os.getpid(), number, self._refused, outdated)

    async def _renew(self) -> None:
        while True:
            ends = await self._directory.send("renew_gateway", self._report())
            if ends and self._replica is not None:
                self._replica.end()
            await asyncio.sleep(RENEWAL_S)

    async def __del__(self) -> None:
        """Serve has waited for the answers under way."""
        self._renewal.cancel()
        await self._directory.send("leave_gateway", self._session)
        if self._replica is not None:
            await self._replica.stop()


def machine() -> str:
    """Who says the same can reach our Unix sockets. A Ray node is one machine, or one container of it."""
    return str(ray.get_runtime_context().get_node_id())


def app(args: dict[str, Any]) -> serve.Application:
    """``import_path`` of the Serve config: see :mod:`coe.cluster.serve_config` for ``args`` and options."""
    nodes = {
        node["id"]: serve.deployment(name=node_name(node["id"]))(NodeReplica).bind(node, args["root"])
        for node in args["nodes"]
    }
    wake = {host: nodes[node["id"]] for node in args["nodes"] for host in node["hosts"]}
    return serve.deployment(name=GATEWAY)(GatewayDeployment).bind(wake)
