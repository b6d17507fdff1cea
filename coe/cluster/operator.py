"""An operator's side of a Ray cluster: connect, deploy, look, take down. Blocking.

Everything is deployed as a Serve config, never with ``serve.run``: that one restarts every replica each time.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.api import serve_start
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ServeDeploySchema

from coe.cluster.directory import Entry
from coe.cluster.known import AUTH_MODE, KnownCluster
from coe.cluster.messages import GatewayReport, OwnerReport
from coe.cluster.serve_config import application, http_options, serve_config
from coe.cluster.settings import APP_NAME, DIRECTORY, NAMESPACE, Deployed
from coe.core.errors import ConfigError, ExpertUnavailable
from coe.registry.schema import Registry

POLL_S = 0.5
REACH_S = 5.0
UNDEPLOY_S = 150.0
"""Serve gives replicas 120 s to end what is under way."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Listening:
    """Where Serve's proxies listen, or shall."""

    host: str
    port: int

    @property
    def url(self) -> str:
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{shown}:{self.port}"


@dataclass(frozen=True)
class ClusterStatus:
    """The service on a cluster at one moment. ``generation``: the one that was deployed last; None where
    nothing is deployed. ``replicas``: running ones by deployment."""

    generation: int | None
    state: str
    message: str
    url: str | None
    replicas: Mapping[str, int]
    gateways: tuple[GatewayReport, ...] = ()
    owners: tuple[OwnerReport, ...] = ()
    silent_owners: tuple[str, ...] = ()

    def settled(self) -> bool:
        """Whether all gateways that are there have decided about the generation, and there is one."""
        decided = [g.generation == self.generation or g.refused is not None for g in self.gateways]
        return self.state == "RUNNING" and bool(decided) and all(decided)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def connected(cluster: KnownCluster) -> Iterator[KnownCluster]:
    """A connection to it; yields all that is known of it now. Raises ConfigError when it is not there."""
    _require_reachable(cluster)
    try:
        _init(cluster.address)
    except (ConnectionError, RuntimeError, RayError) as error:
        reason = str(error).partition("\n")[0]
        hint = "Start one with `ray start --head`, give another --address, or use `coe deploy --local`."
        if AUTH_MODE not in os.environ:
            hint += f" If it asks for a token, as Ray's clusters do from 2.60 on, set {AUTH_MODE}=token."
        raise ConfigError(f"no Ray cluster answers at {cluster.address}: {reason}", hint=hint) from None
    try:
        found = _here(cluster.address)
        if cluster.session not in (None, found.session):
            raise ConfigError(
                f"the cluster that was deployed to is gone; at {cluster.address} there is another one",
                hint=f"If it is yours, give `--address {cluster.address}`.",
            )
        yield found
    finally:
        ray.shutdown()


def start_local_cluster() -> KnownCluster:
    """A cluster of one node in child processes of this one, which end with it."""
    _init("local", include_dashboard=False)
    return _here(ray.get_runtime_context().gcs_address)


def _init(address: str, **options: Any) -> None:
    ray.init(
        address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options
    )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)


def _here(address: str) -> KnownCluster:
    session = ray.get_runtime_context().get_session_name()
    return KnownCluster(address, session, token=os.environ.get(AUTH_MODE) == "token")


def require_free(where: Listening) -> None:
    """Raises ConfigError when the port is taken: Ray's own error for that comes late and is long."""
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    try:
        socket.create_server((where.host, where.port), family=family).close()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {where.host} port {where.port}: {error.strerror}",
            code="cannot_listen",
            hint="Stop what uses the port, or give another --port or --host.",
        ) from None


def deploy(registry: Registry, root: str, wanted: Listening, timeout_s: float, say: Say) -> ClusterStatus:
    """Deploy ``registry`` as the next generation and wait until every gateway has decided about it.

    Other applications of the cluster's Serve stay. Raises ConfigError, and ExpertUnavailable when it is not
    there after ``timeout_s``.
    """
    options = http_options(registry, wanted.host, wanted.port)
    client = serve_start(http_options=options, proxy_location="EveryNode")
    where = Listening(client.http_config.host, client.http_config.port)
    if where.port != wanted.port:
        say(f"Serve listens on port {where.port} already, and takes another one only when it is restarted")
    running = _deployed(client)
    number = running.generation + 1 if running else 1
    next_one = Deployed.of(registry, root, number)
    if where.host != registry.service.host:
        next_one = next_one.listening_on(where.host)
    if running is not None and running.registry == next_one.registry and running.root == root:
        say(f"generation {running.generation} is this registry already")
        return status()
    config = serve_config(next_one, where.host, where.port)
    config["applications"] = [*_others(client), application(next_one)]
    client.deploy_apps(ServeDeploySchema.model_validate(config))
    say(f"generation {number} is deployed; waiting for the gateways")
    return _until_settled(number, timeout_s)


def deployed_registry() -> Registry | None:
    """What was deployed last; None where nothing was, or nothing that this version of CoE can read."""
    with suppress(RayServeException, ValidationError):
        client = serve.context._get_global_client()
        deployed = _deployed(client) if client is not None else None
        return deployed.parsed() if deployed is not None else None
    return None


def is_deployed() -> bool:
    """Also while it cannot be told, because a part of Ray is being restarted."""
    try:
        return APP_NAME in serve.status().applications
    except RayServeException:
        return False
    except RayError:
        return True


def undeploy() -> bool:
    """Take the service down: who waits for an expert is refused, answers under way may end. Whether there was
    one. Raises ExpertUnavailable when it is still there after :data:`UNDEPLOY_S`."""
    existed = is_deployed()
    if existed:
        _announce_end()
        serve.delete(APP_NAME, _blocking=False)
        deadline = time.monotonic() + UNDEPLOY_S
        while is_deployed():
            _announce_end()
            if time.monotonic() > deadline:
                raise ExpertUnavailable(
                    f"the service is still there after {UNDEPLOY_S:g} s", hint="See `coe status`; try again."
                )
            time.sleep(POLL_S)
    with suppress(ValueError):
        ray.kill(ray.get_actor(DIRECTORY, NAMESPACE))
    return existed


def _announce_end() -> None:
    with suppress(ValueError, RayError):
        ray.get(ray.get_actor(DIRECTORY, NAMESPACE).end.remote(), timeout=REACH_S)


def status() -> ClusterStatus:
    """Never raises for a service that is not there, or in part."""
    try:
        client = serve.context._get_global_client()
        app = serve.status().applications.get(APP_NAME)
    except RayServeException:
        client = app = None
    if client is None or app is None:
        return ClusterStatus(None, "NOT_DEPLOYED", "", None, {})
    deployed = _deployed(client)
    replicas = {name: d.replica_states.get("RUNNING", 0) for name, d in app.deployments.items()}
    details = [f"{name}: {d.message}" for name, d in app.deployments.items() if d.message]
    reports = _reports()
    return ClusterStatus(
        generation=deployed.generation if deployed else None,
        state=str(app.status.value),
        message="\n".join([app.message, *details]).strip(),
        url=Listening(client.http_config.host, client.http_config.port).url,
        replicas=replicas,
        gateways=tuple(reports.gateways),
        owners=tuple(reports.owners),
        silent_owners=tuple(reports.silent),
    )


@dataclass(frozen=True)
class _Reports:
    gateways: list[GatewayReport]
    owners: list[OwnerReport]
    silent: list[str]


def _reports() -> _Reports:
    try:
        found = ray.get_actor(DIRECTORY, NAMESPACE)
        gateways, entries = ray.get([found.gateways.remote(), found.owners.remote()], timeout=REACH_S)
    except (ValueError, RayError):
        return _Reports([], [], [])
    owners, silent = [], []
    for entry in entries or []:
        report = _report_of(entry)
        (silent.append(entry.owner) if report is None else owners.append(report))
    return _Reports(sorted(gateways, key=lambda g: g.session), owners, silent)


def _report_of(entry: Entry) -> OwnerReport | None:
    try:
        found: OwnerReport | None = ray.get(entry.actor.report.remote(), timeout=REACH_S)
    except RayError:
        return None
    return found


def _until_settled(number: int, timeout_s: float) -> ClusterStatus:
    deadline = time.monotonic() + timeout_s
    while True:
        now = status()
        if now.state == "DEPLOY_FAILED":
            raise ConfigError(f"Ray Serve could not deploy generation {number}: {now.message}")
        if now.generation == number and now.settled():
            return now
        if time.monotonic() > deadline:
            raise ExpertUnavailable(
                f"generation {number} does not serve after {timeout_s:g} s ({now.state}): {now.message}",
                hint="See `coe status`; Ray may lack the CPUs or GPUs that a node asks for.",
            )
        time.sleep(POLL_S)


def _deployed(client: Any) -> Deployed | None:
    """What was deployed last; None where nothing was, or not by a config."""
    app = client.get_serve_details().get("applications", {}).get(APP_NAME) or {}
    for deployment in (app.get("deployed_app_config") or {}).get("deployments", []):
        if deployment.get("user_config"):
            return Deployed(**deployment["user_config"])
    return None


def _others(client: Any) -> list[dict[str, Any]]:
    """Configs of the other applications: what a config leaves out is deleted."""
    apps = client.get_serve_details().get("applications", {})
    configs = [app.get("deployed_app_config") for name, app in apps.items() if name != APP_NAME]
    return [config for config in configs if config]


def _require_reachable(cluster: KnownCluster) -> None:
    """Ray itself would try for minutes."""
    host, _, port = cluster.address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except OSError as error:
        gone = "The cluster that was deployed to has ended. " if cluster.session else ""
        raise ConfigError(
            f"nothing answers at {cluster.address}: {error.strerror or error}",
            hint=f"{gone}The address is that of a cluster's head, by default with port 6379.",
        ) from None
