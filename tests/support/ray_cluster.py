"""A Ray cluster of several nodes on one machine, with the service on it and stand-ins for vLLM: for tests
and measurements of what happens when parts of it die."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import ray
from ray import serve
from ray.cluster_utils import Cluster

from coe.cluster import operator as ray_control
from coe.cluster.known import KnownCluster
from coe.cluster.operator import ClusterStatus, Listening
from coe.cluster.serve_config import http_options
from coe.cluster.settings import DIRECTORY, NAMESPACE
from coe.registry.schema import Registry
from tests.support.tiny_models import TinyFamily, build_tiny_family

SLOT = "coe_slot"
"""The custom resource that a copy of the node takes; each worker has one."""
BOUND_S = 240.0
"""For things that take seconds on a machine that has nothing else to do."""
_STAND_IN = """
import sys
from tests.support.fake_vllm import main
main(sys.argv[1:])
"""


class ServiceOnRay:
    """A head without work, ``workers`` nodes with room for one copy of the node ``pool`` each, and on them
    ``copies`` copies with the experts ``a`` and ``b``. Every node counts as another machine, so tokens
    between them pass doors. Blocking; all waiting is bounded."""

    def __init__(
        self, cluster: Cluster, family: TinyFamily, folder: Path, port: int, more: Mapping[str, Any]
    ) -> None:
        self._cluster, self._family, self._folder, self._more = cluster, family, folder, more
        self.where = Listening("127.0.0.1", port)
        self._workers: list[Any] = []
        self._killed: set[object] = set()

    def add_worker(self) -> None:
        node = self._cluster.add_node(num_cpus=1, resources={SLOT: 1}, object_store_memory=80 * 1024 * 1024)
        self._workers.append(node)

    def deploy(self, card: str = "", **cluster: Any) -> ClusterStatus:
        """The next generation; ``card`` tells it from the one before."""
        registry = self.registry(card, cluster)
        return ray_control.deploy(registry, str(self._folder), self.where, BOUND_S, say=lambda _: None)

    def registry(self, card: str, cluster: dict[str, Any]) -> Registry:
        """See :func:`fake_registry`."""
        return fake_registry(self._family, self._folder, card, cluster, self._more)

    def wait_until(self, holds: Callable[[ClusterStatus], bool], timeout_s: float = BOUND_S) -> float:
        """Seconds until ``holds``. Raises TimeoutError with the state that it is stuck in."""
        start = time.monotonic()
        while not holds(status := ray_control.status()):
            if time.monotonic() - start > timeout_s:
                raise TimeoutError(f"still not after {timeout_s:g} s: {status}")
            time.sleep(0.25)
        return time.monotonic() - start

    def until_whole(self, copies: int, gateways: int) -> None:
        """Until all of them serve the generation, and what was killed is noticed and replaced."""
        self.wait_until(lambda now: _ready(now, copies, gateways) and self._replaced(now, copies))

    def _replaced(self, now: ClusterStatus, copies: int) -> bool:
        here = {*self._experts(), *(owner.owner for owner in now.owners)}
        return len(self._experts()) >= copies and not self._killed & here

    def owners(self) -> int:
        """How many copies of the node there are."""
        return len(ray_control.status().owners)

    def kill_expert(self) -> None:
        """One vLLM process, as the kernel does when memory runs out."""
        self._strike_expert(signal.SIGKILL)

    def silence_expert(self) -> None:
        """One vLLM process stays and does nothing any more."""
        self._strike_expert(signal.SIGSTOP)

    def _strike_expert(self, number: signal.Signals) -> None:
        victim = self._experts()[0]
        self._killed.add(victim)
        os.kill(victim, number)

    def kill_gateway(self) -> None:
        pids = (gateway.pid for gateway in ray_control.status().gateways)
        os.kill(next(filter(psutil.pid_exists, pids)), signal.SIGKILL)

    def kill_owner(self) -> None:
        entry = ray.get(ray.get_actor(DIRECTORY, NAMESPACE).owners.remote())[0]
        os.kill(_pid_of(entry.actor), signal.SIGKILL)

    def kill_directory(self) -> None:
        os.kill(_pid_of(ray.get_actor(DIRECTORY, NAMESPACE)), signal.SIGKILL)

    def kill_node(self) -> None:
        """A worker that has a copy of the node, without a warning. Its vLLM processes have to end with it."""
        entry = ray.get(ray.get_actor(DIRECTORY, NAMESPACE).owners.remote())[0]
        here = ray.get(entry.actor.__ray_call__.remote(_node_id))
        started = psutil.Process(_pid_of(entry.actor)).children(recursive=True)
        self._killed.update({entry.owner}, {each.pid for each in started} & set(self._experts()))
        victim = next(node for node in self._workers if node.node_id == here)
        self._workers.remove(victim)
        self._cluster.remove_node(victim, allow_graceful=False)

    def _experts(self) -> list[int]:
        mark = str(self._folder)
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"] and mark in " ".join(words):
                found.append(process.pid)
        return found


@contextmanager
def service_on_ray(
    family: TinyFamily,
    folder: Path,
    workers: int = 2,
    copies: int = 2,
    gateways: int = 2,
    more: Mapping[str, Any] = MappingProxyType({}),
    **node: Any,
) -> Iterator[ServiceOnRay]:
    """Started, deployed and ready. ``family`` lies below ``folder``, which all paths start from; ``more``
    and ``node``: see :func:`fake_registry`."""
    write_stand_in(folder)
    args = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 1024 * 1024}
    cluster = Cluster(initialize_head=True, head_node_args=args)
    try:
        service = ServiceOnRay(cluster, family, folder, free_port(), more)
        for _ in range(workers):
            service.add_worker()
        with ray_control.connected(KnownCluster(cluster.address)):
            first = service.registry("", {"copies": copies, **node})
            options = http_options(first, service.where.host, service.where.port)
            # One proxy, on the head: elsewhere a node takes its proxy with it, and its clients' connections.
            serve.start(http_options=options, proxy_location="HeadOnly")
            service.deploy(copies=copies, gateways=gateways, **node)
            service.wait_until(lambda now: _ready(now, copies, gateways))
            yield service
            ray_control.undeploy()
    finally:
        cluster.shutdown()


def _ready(now: ClusterStatus, copies: int, gateways: int) -> bool:
    """Every gateway and owner has the generation, and every engine runs."""
    up = [
        owner
        for owner in now.owners
        if owner.generation == now.generation and all(e.state == "ready" for e in owner.engines.values())
    ]
    here = [g for g in now.gateways if g.generation == now.generation and psutil.pid_exists(g.pid)]
    return len(up) == len(now.owners) == copies and len(here) == len(now.gateways) == gateways


def fake_registry(
    family: TinyFamily, folder: Path, card: str, cluster: dict[str, Any], more: Mapping[str, Any]
) -> Registry:
    """``cluster``: gateways, target_wait_s, copies, max_copies and cpus of the node, max_running of its host;
    ``more``: further parts of the registry."""
    path = f"{folder / 'stand-in'}:{os.environ.get('PYTHONPATH', os.getcwd())}"
    host = {
        "id": "slot",
        "device": "cpu",
        "threads": 1,
        "max_model_len": 256,
        "max_running": cluster.get("max_running", 16),
        "env": {"PYTHONPATH": path},
        "start_timeout_s": 120.0,
        "silence_timeout_s": 15.0,
    }
    node = {"id": "pool", "hosts": ["slot"], "resources": {SLOT: 1}, "copies": cluster.get("copies", 2)}
    node |= {key: cluster[key] for key in ("max_copies", "cpus") if key in cluster}
    return Registry.model_validate(
        {
            "pool": {"hosts": [host], "min_residency_s": 0.0},
            "limits": {"request_timeout_s": 90.0},
            "experts": [
                {"id": name, "host": "slot", "model": str(family.root / name), "card": f"{name} {card}"}
                for name in ("a", "b")
            ],
            "routers": {
                "default": "static",
                "available": [{"name": "static", "kind": "static", "options": {"expert": "a"}}],
            },
            "cluster": {
                "gateways": cluster.get("gateways", 2),
                "target_wait_s": cluster.get("target_wait_s", 10.0),
                "nodes": [node],
            },
            **more,
        }
    )


def write_local_registry(folder: Path, port: int, **cluster: Any) -> None:
    """What `coe deploy --local` needs in ``folder``, for one host with a stand-in for vLLM. An answer may go
    on for a second after the service is told to stop."""
    write_stand_in(folder)
    family = build_tiny_family(folder / "tiny")
    registry = fake_registry(family, folder, "", {"copies": 1, "gateways": 1, **cluster}, {})
    written = registry.model_dump(mode="json", exclude_defaults=True)
    written["cluster"]["nodes"] = []
    written["service"] = {"port": port, "drain_s": 1.0}
    (folder / "experts.yaml").write_text(json.dumps(written), encoding="utf-8")


def write_stand_in(folder: Path) -> None:
    """A package ``vllm`` that goes before the real one, for the engines' processes alone."""
    place = folder / "stand-in" / "vllm" / "entrypoints" / "openai"
    place.mkdir(parents=True, exist_ok=True)
    for package in (place, place.parent, place.parent.parent):
        (package / "__init__.py").touch()
    (place / "api_server.py").write_text(_STAND_IN, encoding="utf-8")


def _pid_of(actor: Any) -> int:
    return int(ray.get(actor.__ray_call__.remote(_pid)))


def _pid(_: object) -> int:
    return os.getpid()


def _node_id(_: object) -> str:
    return str(ray.get_runtime_context().get_node_id())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
