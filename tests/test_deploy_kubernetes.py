"""Kubernetes manifests, ours and those that `coe deploy` prints, against Kubernetes' own schemas.

Pod templates and metadata are checked by the schemas of Kubernetes 1.37 (tests/data/NOTICE says where
they come from); a field that they do not know is a fault. The definition of KubeRay's RayService is in
no package of PyPI or npm that we found: what stands around the pod templates is checked by the fields of
KubeRay's v1 API that we use, written down here from its Go types (ray-operator/apis/ray/v1), and the
Serve config inside by Ray's own classes (test_deploy.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from coe.cli import main

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SCHEMAS = ROOT / "tests" / "data" / "kubernetes_pods.json"

Manifest = dict[str, Any]


def _object(required: str, **properties: Any) -> Manifest:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _kubernetes(name: str) -> Manifest:
    return {"$ref": f"#/$defs/io.k8s.{name}"}


TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
GROUP = {
    "rayStartParams": {"type": "object", "additionalProperties": TEXT},
    "template": _kubernetes("api.core.v1.PodTemplateSpec"),
}
WORKERS = _object(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    **GROUP,
)
CLUSTER = _object(
    "rayVersion headGroupSpec workerGroupSpecs",
    rayVersion=TEXT,
    headGroupSpec=_object("rayStartParams template", **GROUP),
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
RAY_SERVICE = _object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata=_kubernetes("apimachinery.pkg.apis.meta.v1.ObjectMeta"),
    spec=_object("serveConfigV2 rayClusterConfig", serveConfigV2=TEXT, rayClusterConfig=CLUSTER),
)
KINDS = {("ray.io/v1", "RayService"): RAY_SERVICE}
"""By API version and kind. Whoever adds a manifest of another kind adds its schema."""


@cache
def validator(api_version: str, kind: str) -> Draft202012Validator:
    return Draft202012Validator({**json.loads(SCHEMAS.read_text()), **KINDS[api_version, kind]})


def faults(manifest: Manifest) -> list[str]:
    """One line each: where, and what."""
    found = validator(manifest["apiVersion"], manifest["kind"]).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in found]


def manifests_of(text: str) -> Iterator[Manifest]:
    """The documents of a YAML text that are meant for Kubernetes."""
    for document in yaml.safe_load_all(text):
        if isinstance(document, dict) and {"apiVersion", "kind"} <= document.keys():
            yield document


def printed(folder: Path, **changes: Any) -> Manifest:
    """What `coe deploy --dry-run --format kuberay` prints for a small registry."""
    registry = {
        "pool": {"hosts": [{"id": "slot", "device": "cpu"}, {"id": "other", "device": "cpu"}]},
        "experts": [
            {"id": "a", "host": "slot", "model": "org/a", "card": "one"},
            {"id": "b", "host": "other", "model": "org/b", "card": "two"},
        ],
        "routers": {
            "default": "s",
            "available": [{"name": "s", "kind": "static", "options": {"expert": "a"}}],
        },
        **changes,
    }
    file = folder / "experts.yaml"
    file.write_text(yaml.safe_dump(registry))
    done = CliRunner().invoke(
        main, ["deploy", "--registry", str(file), "--dry-run", "--format", "kuberay", "--image", "coe:1"]
    )
    assert done.exit_code == 0, done.output
    (manifest,) = manifests_of(done.stdout)
    return manifest


def test_every_manifest_under_deploy_is_what_kubernetes_takes() -> None:
    files = sorted([*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")])
    found = {file.relative_to(ROOT): list(manifests_of(file.read_text())) for file in files}
    checked = {str(file) for file, manifests in found.items() if manifests}
    assert checked == {"deploy/kuberay/rayservice.yaml"}
    assert {file: faults(one) for file, manifests in found.items() for one in manifests if faults(one)} == {}


@pytest.mark.parametrize(
    "cluster",
    [
        {},
        {"max_gateways": 4},
        {
            "nodes": [
                {"id": "big", "hosts": ["slot"], "gpus": 2, "cpus": 4, "copies": 0, "max_copies": 3},
                {"id": "small", "hosts": ["other"], "cpus": 0.5, "resources": {"a100": 1}},
            ]
        },
    ],
    ids=["one node", "more gateways", "two kinds of nodes"],
)
def test_what_the_command_prints_is_what_kubernetes_takes(tmp_path: Path, cluster: Manifest) -> None:
    assert faults(printed(tmp_path, cluster=cluster)) == []


def _container(manifest: Manifest, group: int | None = None) -> Manifest:
    config = manifest["spec"]["rayClusterConfig"]
    where = config["headGroupSpec"] if group is None else config["workerGroupSpecs"][group]
    found: Manifest = where["template"]["spec"]["containers"][0]
    return found


def _misspell(holder: Manifest, field: str, as_: str) -> None:
    holder[as_] = holder.pop(field)


CLUSTER_PATH = r"$.spec.rayClusterConfig"
HEAD = rf"{CLUSTER_PATH}.headGroupSpec"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: _misspell(_container(m), "image", "imgae"), f"{HEAD}.template.spec.containers[0]: "),
        (
            lambda m: _misspell(_container(m, 0), "volumeMounts", "volumeMount"),
            "'volumeMount' was unexpected",
        ),
        (lambda m: _misspell(_container(m)["ports"][0], "containerPort", "port"), "'port' was unexpected"),
        (lambda m: _container(m).pop("name"), "'name' is a required property"),
        (lambda m: _container(m)["env"][0].update(value=1), "1 is not of type 'string'"),
        (lambda m: _container(m)["resources"].update(limit={}), "'limit' was unexpected"),
        (lambda m: _misspell(m["metadata"], "name", "nmae"), "$.metadata: "),
        (lambda m: _misspell(m["spec"], "serveConfigV2", "serveConfig"), "$.spec: "),
        (lambda m: m["spec"]["rayClusterConfig"]["headGroupSpec"].update(templates={}), f"{HEAD}: "),
        (
            lambda m: m["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"].update(n=0),
            f"{HEAD}.rayStartParams.n: 0 is not of type 'string'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_misspelt_field_or_a_wrong_type_is_found(
    tmp_path: Path, spoil: Callable[[Manifest], object], says: str
) -> None:
    # Through JSON: an anchor of the YAML becomes two objects.
    manifest = json.loads(json.dumps(printed(tmp_path)))
    assert faults(manifest) == []
    spoil(manifest)
    assert any(says in fault for fault in faults(manifest)), faults(manifest)
