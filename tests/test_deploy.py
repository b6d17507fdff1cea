"""What `coe deploy` writes, and the files under deploy/. Nothing is started."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from coe.access.limits import AccessControl
from coe.access.response_cache import ResponseCache
from coe.cli import main
from coe.cluster.scaling import ScaleByForecast
from coe.cluster.serve_config import application, kuberay_manifest, serve_config
from coe.cluster.settings import Deployed, set_local_env
from coe.core.status import Readiness
from coe.gateway.metrics import Metrics
from coe.gateway.middlewares import Middlewares
from coe.pipeline.feedback import open_feedback
from coe.registry.schema import Registry
from coe.service.registry_file import load_registry
from coe.state.memory import MemoryStore

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
GPU_REGISTRIES = sorted((DEPLOY / "registries").glob("*.yaml"))


def registry(**changes: Any) -> Registry:
    base: dict[str, Any] = {
        "pool": {
            "hosts": [{"id": "slot", "device": "cpu"}, {"id": "far", "kind": "remote", "url": "http://x"}]
        },
        "experts": [
            {"id": "a", "host": "slot", "model": "a", "card": "one"},
            {"id": "b", "host": "far", "model": "b"},
        ],
    }
    return Registry.model_validate({**base, **changes})


def deployed(generation: int = 1, **changes: Any) -> Deployed:
    return Deployed.of(registry(**changes), "/srv/coe", generation)


def test_a_registry_survives_the_way_into_the_config_and_back() -> None:
    rich = registry(cluster={"nodes": [{"id": "n", "hosts": ["slot"], "resources": {"a100": 1}}]})
    sent = yaml.safe_load(yaml.safe_dump(Deployed.of(rich, "/srv/coe", 3).as_config()))
    assert Deployed(**sent).parsed() == rich


@pytest.mark.slow
def test_serve_accepts_the_config() -> None:
    from ray.serve.schema import ServeDeploySchema

    scaled = {"nodes": [{"id": "n", "hosts": ["slot"], "copies": 0, "max_copies": 3, "cpus": 1}]}
    for cluster in ({}, {"max_gateways": 4}, scaled):
        config = serve_config(deployed(cluster=cluster), "0.0.0.0", 8000)
        read = ServeDeploySchema.model_validate(yaml.safe_load(yaml.safe_dump(config)))
        assert read.applications[0].deployments[0].name == "gateway"


def test_an_edited_registry_changes_only_what_serve_hands_to_running_replicas() -> None:
    """Serve restarts replicas when an application's import path, environment, args or policies change."""
    from ray.serve._private.deploy_utils import get_app_code_version
    from ray.serve.schema import ServeApplicationSchema

    def version(one: Deployed) -> str:
        return str(get_app_code_version(ServeApplicationSchema.model_validate(application(one))))

    experts = [{"id": "a", "host": "slot", "model": "other"}, {"id": "c", "host": "slot", "model": "c"}]
    moved = {"nodes": [{"id": "n", "hosts": ["slot"], "cpus": 2}]}
    assert version(deployed(2, experts=experts)) == version(deployed())
    assert version(deployed(2, cluster={"gateways": 3})) == version(deployed())
    assert version(deployed(2, cluster=moved)) != version(deployed())


def test_a_node_is_placed_by_what_it_takes_of_a_machine() -> None:
    node = {"id": "n", "hosts": ["slot"], "cpus": 4, "gpus": 2, "resources": {"a100": 1}, "copies": 2}
    options = application(deployed(cluster={"nodes": [node]}))["deployments"][1]
    assert options["placement_group_bundles"] == [{"CPU": 4.0, "GPU": 2.0, "a100": 1.0}]
    assert (options["name"], options["num_replicas"]) == ("node-n", 2)


def test_without_memory_holding_hosts_there_are_only_gateways() -> None:
    remote = registry(
        pool={"hosts": [{"id": "far", "kind": "remote", "url": "http://x"}]},
        experts=[{"id": "b", "host": "far", "model": "b"}],
    )
    names = [d["name"] for d in application(Deployed.of(remote, "/", 1))["deployments"]]
    assert names == ["gateway"]


def test_the_kuberay_manifest_has_workers_for_each_node_and_a_config_that_serve_accepts() -> None:
    from ray.serve.schema import ServeDeploySchema

    nodes = [{"id": "n", "hosts": ["slot"], "gpus": 1, "copies": 2, "max_copies": 5}]
    manifest = kuberay_manifest(deployed(cluster={"nodes": nodes}), "coe:gpu")
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    ServeDeploySchema.model_validate(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    group = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 5)
    container = group["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"] == "coe:gpu"


def test_the_ray_version_in_the_manifest_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert kuberay_manifest(deployed(), "i")["spec"]["rayClusterConfig"]["rayVersion"] == version("ray")


def test_rays_settings_do_not_override_the_users() -> None:
    environment = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}
    set_local_env(environment)
    assert environment["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "0"
    assert environment["RAY_worker_niceness"] == "0"


@dataclass
class Context:
    """What Serve's autoscaler hands to a policy."""

    current_num_replicas: int
    target_num_replicas: int = 1
    capacity_adjusted_min_replicas: int = 0
    capacity_adjusted_max_replicas: int = 4
    aggregated_metrics: Mapping[str, Mapping[Any, float]] | None = field(default_factory=dict)
    total_num_requests: float = 0


@pytest.mark.parametrize(
    ("context", "copies"),
    [
        (Context(0), 0),
        (Context(0, total_num_requests=1), 1),  # a gateway calls, and there is none
        (Context(1, aggregated_metrics=None), 1),  # still starting
        (Context(1, aggregated_metrics={"wait_s": {"r": 25.0}, "busy": {"r": 1.0}}), 3),
        (Context(1, aggregated_metrics={"wait_s": {"r": 900.0}, "busy": {"r": 1.0}}), 4),
        (Context(2, aggregated_metrics={"wait_s": {"r": 0.0}, "busy": {"r": 0.0}}), 1),
    ],
)
def test_copies_follow_the_schedulers_forecast(context: Context, copies: int) -> None:
    assert ScaleByForecast(target_wait_s=10.0)(context) == (copies, {})


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, arguments)


def test_dry_run_prints_yaml_and_needs_no_cluster(tmp_path: Path) -> None:
    file = tmp_path / "experts.yaml"
    file.write_text(yaml.safe_dump(_remote_registry()))
    config = yaml.safe_load(run("deploy", "--registry", str(file), "--dry-run", "--port", "9001").stdout)
    assert config["http_options"] == {"host": "127.0.0.1", "port": 9001, "request_timeout_s": 315.0}
    assert config["applications"][0]["args"] == {"root": str(tmp_path), "nodes": []}
    manifest = run("deploy", "--registry", str(file), "--dry-run", "--format", "kuberay", "--image", "x:1")
    assert yaml.safe_load(manifest.stdout)["kind"] == "RayService"


@pytest.mark.parametrize("command", ["deploy", "status", "undeploy"])
def test_no_cluster_at_the_address_is_a_clear_error(command: str, tmp_path: Path) -> None:
    file = tmp_path / "experts.yaml"
    file.write_text(yaml.safe_dump(_remote_registry()))
    registry_option = ("--registry", str(file)) if command == "deploy" else ()
    result = run(command, *registry_option, "--address", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "nothing answers at 127.0.0.1:1" in result.stderr
    assert "Hint: The address is that of a cluster's head" in result.stderr


def test_local_and_address_exclude_each_other(tmp_path: Path) -> None:
    file = tmp_path / "experts.yaml"
    file.write_text(yaml.safe_dump(_remote_registry()))
    result = run("deploy", "--registry", str(file), "--local", "--address", "x:1")
    assert result.exit_code == 2
    assert "leave out --address" in result.stderr


def _remote_registry() -> dict[str, Any]:
    return {
        "pool": {"hosts": [{"id": "far", "kind": "remote", "url": "http://127.0.0.1:9"}]},
        "experts": [{"id": "b", "host": "far", "model": "b", "card": "Answers."}],
        "routers": {
            "default": "static",
            "available": [{"name": "static", "kind": "static", "options": {"expert": "b"}}],
        },
    }


@pytest.mark.parametrize("file", GPU_REGISTRIES, ids=lambda file: file.stem)
def test_gpu_registries_can_be_served_and_simulated(file: Path, tmp_path: Path) -> None:
    checked = run("check", str(file), "--json")
    assert json.loads(checked.stdout)["ok"], checked.stdout
    out = tmp_path / "out.json"
    arguments = ("--registry", str(file), "--preset", "h100", "--trace", "synthetic:poisson:n=60,rate=0.2")
    simulated = run(
        "simulate", *arguments, "--policies", "coe,fcfs-lru", "--exact-limit", "0", "--json", str(out)
    )
    assert simulated.exit_code == 0, simulated.output
    assert {row["policy"] for row in json.loads(out.read_text())["rows"]} == {"coe", "fcfs-lru"}


def test_gpu_registries_have_the_pools_of_the_papers() -> None:
    counts = {file.stem: len(load_registry(file).experts) for file in GPU_REGISTRIES}
    assert counts == {"samba-coe": 5, "symbolic-moe": 16}


def test_the_kuberay_example_is_what_the_command_prints() -> None:
    file = DEPLOY / "registries" / "symbolic-moe.yaml"
    expected = kuberay_manifest(Deployed.of(load_registry(file), "/srv/coe", 1), "coe:gpu")
    assert yaml.safe_load((DEPLOY / "kuberay" / "rayservice.yaml").read_text()) == expected


class NoStatus:
    """A service without engines."""

    def readiness(self) -> Readiness:
        return Readiness(True)

    def engines(self) -> dict[str, Any]:
        return {}

    def experts(self) -> dict[str, Any]:
        return {}


def test_the_dashboard_uses_metrics_that_exist() -> None:
    metrics, store = Metrics(NoStatus()), MemoryStore()
    cache = ResponseCache(store, 60.0)
    Middlewares(AccessControl(None, store), store, cache, open_feedback(None, Path())).show_in(metrics)
    shown = metrics.render().decode()
    exported = set(re.findall(r"^# TYPE (coe_\w+)", shown, re.MULTILINE))
    panels = json.loads((DEPLOY / "grafana" / "coe.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    used = {re.sub("_bucket$", "", name) for query in queries for name in re.findall(r"coe_\w+", query)}
    assert len(queries) >= 10
    assert used <= exported


def _instructions(file: Path) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", file.read_text())
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_images_are_pinned_run_as_a_user_and_copy_what_exists(name: str) -> None:
    assert "Not built" in (DEPLOY / name).read_text().partition("FROM")[0], "the file says what was not done"
    steps = _instructions(DEPLOY / name)
    assert steps[0][0] == "FROM"
    assert re.search(r":[\w.-]*\d", steps[0][1]), "the base image has a version"
    assert {"FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "CMD"} <= {s[0] for s in steps}
    assert [value for verb, value in steps if verb == "USER"][-1] != "root"
    sources = [part for verb, value in steps if verb == "COPY" for part in value.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert json.loads(next(value for verb, value in steps if verb == "CMD"))[:2] == ["coe", "serve"]


def test_compose_starts_the_service_with_redis_prometheus_and_grafana() -> None:
    file = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())
    assert set(file["services"]) == {"coe", "redis", "prometheus", "grafana"}
    mounts = [m for service in file["services"].values() for m in service.get("volumes", [])]
    bound = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert [b for b in bound if not (DEPLOY / b).exists() and b != "../models"] == []
    assert file["services"]["coe"]["environment"]["COE_REDIS_URL"] == "redis://redis:6379/0"
    assert "redis:/data" in file["services"]["redis"]["volumes"], "what Redis keeps outlives its container"
    assert "redis" in file["volumes"]
    assert "Not run" in (DEPLOY / "docker-compose.yaml").read_text()
    target = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]
    assert target["static_configs"][0]["targets"] == ["coe:8000"]
