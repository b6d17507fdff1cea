"""The service as a Ray Serve config, and as a KubeRay manifest: plain data, ready for YAML.

Serve restarts replicas when the ``args`` of an application change, and calls ``reconfigure`` on them when
only the ``user_config`` does. So ``args`` has what cannot change in place (which nodes there are and what
they take of a machine), and ``user_config`` has the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coe.cluster.partition import nodes_of
from coe.cluster.settings import APP_NAME, LOCAL_ENV, Deployed
from coe.registry.schema import Cluster, Node, Registry

IMPORT_PATH = "coe.cluster.ray_app:app"
GATEWAY = "gateway"
GRACE_S = 15.0
RAY_VERSION = "2.60.0"


def node_name(node: str) -> str:
    """The deployment of a node."""
    return f"node-{node}"


def serve_config(deployed: Deployed, host: str, port: int) -> dict[str, Any]:
    """What `serve deploy` takes (``ray.serve.schema.ServeDeploySchema``)."""
    return {
        "proxy_location": "EveryNode",
        "http_options": http_options(deployed.parsed(), host, port),
        "applications": [application(deployed)],
    }


def http_options(registry: Registry, host: str, port: int) -> dict[str, Any]:
    """Serve's own time limit is the last resort, for a request whose gateway is lost to it."""
    return {
        "host": host,
        "port": port,
        "request_timeout_s": registry.limits.request_timeout_s + GRACE_S,
    }


def application(deployed: Deployed) -> dict[str, Any]:
    """One entry of ``applications`` (``ray.serve.schema.ServeApplicationSchema``)."""
    registry = deployed.parsed()
    nodes = nodes_of(registry)
    gateway = {**_gateway_options(registry.cluster), "user_config": deployed.as_config()}
    return {
        "name": APP_NAME,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": {"root": deployed.root, "nodes": [_fixed(node) for node in nodes]},
        "deployments": [
            {"name": GATEWAY, **gateway},
            *({"name": node_name(node.id), **_node_options(node, registry.cluster)} for node in nodes),
        ],
    }


def kuberay_manifest(deployed: Deployed, image: str) -> dict[str, Any]:
    """A ``RayService`` of KubeRay: a head without work, and a group of workers for each node."""
    registry = deployed.parsed()
    everywhere = deployed.listening_on("0.0.0.0")
    config = to_yaml(serve_config(everywhere, "0.0.0.0", 8000))
    groups = [_worker_group(node, image) for node in nodes_of(registry)]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "coe"},
        "spec": {
            "serveConfigV2": config,
            "rayClusterConfig": {
                "rayVersion": RAY_VERSION,
                "headGroupSpec": {
                    "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
                    "template": _pod("ray-head", image, {"cpu": "2", "memory": "8Gi"}, head=True),
                },
                "workerGroupSpecs": groups,
            },
        },
    }


def to_yaml(data: Mapping[str, Any]) -> str:
    """With texts of several lines (a config inside a manifest) as blocks that people can read."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return str(yaml.dump(dict(data), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100))


def _fixed(node: Node) -> dict[str, Any]:
    """What a node's replicas must be restarted for."""
    fields = {"id", "hosts", "cpus", "gpus", "resources"}
    return node.model_dump(mode="json", include=fields, exclude_defaults=True)


def _gateway_options(cluster: Cluster) -> dict[str, Any]:
    options = {
        "max_ongoing_requests": cluster.max_ongoing,
        "max_queued_requests": cluster.max_ongoing,  # in a proxy; further ones get Serve's own 503
        "graceful_shutdown_timeout_s": 120,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 2,
        "health_check_timeout_s": 15,
        "ray_actor_options": {"num_cpus": 0},
    }
    if cluster.max_gateways is None:
        return {"num_replicas": cluster.gateways, **options}
    scaling = {
        "min_replicas": cluster.gateways,
        "max_replicas": cluster.max_gateways,
        "target_ongoing_requests": cluster.target_ongoing,
    }
    return {"autoscaling_config": scaling, **options}


def _node_options(node: Node, cluster: Cluster) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_ongoing_requests": 100,
        "graceful_shutdown_timeout_s": 120,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 2,
        "health_check_timeout_s": 15,
        "ray_actor_options": {"num_cpus": 0},
    }
    bundle = _bundle(node)
    if bundle:
        options |= {"placement_group_bundles": [bundle], "placement_group_strategy": "STRICT_PACK"}
    if node.max_copies is None:
        return {"num_replicas": node.copies, **options}
    policy = {
        "policy_function": "coe.cluster.scaling:ScaleByForecast",
        "policy_kwargs": {"target_wait_s": cluster.target_wait_s},
    }
    scaling = {
        "min_replicas": node.copies,
        "max_replicas": node.max_copies,
        "policy": policy,
        "metrics_interval_s": 1.0,
        "look_back_period_s": 3.0,
        "upscale_delay_s": 5.0,
        "downscale_delay_s": 120.0,
    }
    return {"autoscaling_config": scaling, **options}


def _bundle(node: Node) -> dict[str, float]:
    """What Ray sets aside for a copy."""
    wanted = {"CPU": node.cpus, "GPU": node.gpus, **node.resources}
    return {name: amount for name, amount in wanted.items() if amount}


def _worker_group(node: Node, image: str) -> dict[str, Any]:
    copies = max(1, node.copies)
    resources: dict[str, str] = {"cpu": f"{max(1.0, node.cpus):g}", "memory": "32Gi"}
    if node.gpus:
        resources["nvidia.com/gpu"] = f"{node.gpus:g}"
    custom = ", ".join(f'\\"{name}\\": {amount:g}' for name, amount in node.resources.items())
    return {
        "groupName": node_name(node.id),
        "replicas": copies,
        "minReplicas": node.copies,
        "maxReplicas": node.max_copies or copies,
        "rayStartParams": {"resources": f'"{{{custom}}}"'} if custom else {},
        "template": _pod("ray-worker", image, resources, head=False),
    }


def _pod(name: str, image: str, resources: dict[str, str], *, head: bool) -> dict[str, Any]:
    ports = [(6379, "gcs"), (8265, "dashboard"), (8000, "serve")] if head else [(8000, "serve")]
    container = {
        "name": name,
        "image": image,
        "env": [{"name": key, "value": value} for key, value in LOCAL_ENV.items()],
        "ports": [{"containerPort": port, "name": label} for port, label in ports],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [{"mountPath": "/srv/coe", "name": "coe"}],
    }
    volume = {"name": "coe", "persistentVolumeClaim": {"claimName": "coe"}}
    return {"spec": {"containers": [container], "volumes": [volume]}}
