"""What the documentation says of experts.yaml, the API and the metrics holds for the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from coe.access.api_keys import Holder, add_key
from coe.core.files import POLL_S
from coe.core.types import WakeFrom
from coe.registry.errors import models_in
from coe.registry.schema import Pool, Registry
from coe.registry.source import parse_source
from coe.scheduler.events import Evict
from coe.scheduler.plan import ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.policies import make_policy
from coe.service.check import explain
from coe.service.registry_file import parse_registry
from coe.service.service import build_service
from coe.testing.engines import FakeEngine
from coe.testing.scheduling import World
from docs.generate.pages import documents
from tests.support.docs import files_of

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
API = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")

MINIMAL = {
    "pool": {"hosts": [{"id": "far", "kind": "remote", "url": "http://127.0.0.1:9"}]},
    "experts": [
        {
            "id": name,
            "host": "far",
            "model": name,
            "card": "c",
            "skills": [name],
            "general": name == "general",
            "parameters_b": 7.0,
        }
        for name in ("general", "base", "code")
    ],
}


def blocks() -> list[Any]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^ *```ya?ml[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            found.append(pytest.param(page, match[1], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def merged(into: Any, part: Any) -> Any:
    if isinstance(into, dict) and isinstance(part, dict):
        return {**into, **{key: merged(into.get(key), value) for key, value in part.items()}}
    return part


@pytest.mark.parametrize(("page", "block"), blocks())
def test_every_yaml_block_of_the_documentation_passes_the_check(
    page: Path, block: str, tmp_path: Path
) -> None:
    for name, text in files_of(page).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    part = yaml.safe_load(block)
    assert isinstance(part, dict), "not a part of experts.yaml by its own keys"
    whole = {"pool", "experts"} <= part.keys()
    text = block if whole else yaml.safe_dump(merged(MINIMAL, part), sort_keys=False)
    file = tmp_path / "experts.yaml"
    assert parse_source(text, file).issues == ()
    registry = parse_registry(text, file)
    if not whole:  # the models of a whole file are not here
        assert explain(registry, tmp_path).errors == ()


def names_a_key(model: type[BaseModel], steps: list[str]) -> bool:
    """Whether the path leads to a key, where ``options`` of plug-ins may hold anything."""
    field = model.model_fields.get(steps[0])
    if field is None:
        return False
    below = models_in(field.annotation)
    if len(steps) == 1 or not below:
        return len(steps) == 1 or steps[0] == "options"
    return any(names_a_key(each, steps[1:]) for each in below)


def test_a_dotted_key_in_the_text_is_a_key_of_experts_yaml() -> None:
    sections = "|".join(name for name, field in Registry.model_fields.items() if models_in(field.annotation))
    pattern = re.compile(rf"`((?:{sections})(?:\.[a-z_]+)+)(?:: [^`]*)?`")
    named = {(page, key) for page in PAGES for key in pattern.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 20
    files = {"routers", "experts"}  # folders, as in `routers/knn.py`, are not matched: they have a slash
    wrong = [(page.name, key) for page, key in named if not names_a_key(Registry, key.split("."))]
    assert [found for found in sorted(wrong) if found[1].split(".")[0] not in files] == []


def test_the_table_of_paths_has_every_path_of_the_api() -> None:
    rows = [row.split("|")[1] for row in API.splitlines() if row.startswith("| `")]
    shown = {path for row in rows for path in re.findall(r"`(?:GET|POST|DELETE) ([^`?]+)`", row)}
    assert {path for document in documents() for path in document["paths"]} - shown == set()


def test_the_tiers_of_a_swap_are_all_named() -> None:
    (row,) = (line for line in API.splitlines() if line.startswith("| `coe_swap_seconds`"))
    assert {tier for tier in get_args(WakeFrom) if f"`{tier}`" not in row} == {"awake"}


def test_every_metric_is_in_the_documentation(tmp_path: Path) -> None:
    add_key(tmp_path / "keys.yaml", Holder(id="alice", sha256="0" * 64))
    registry = Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [{"id": "sums", "host": "slot", "model": "sums"}],
            "routers": {"default": "random"},
            "access": {"keys_file": "keys.yaml"},
            "cache": {},
            "observe": {"capture": {}},
        }
    )
    shown = build_service(registry, tmp_path, lambda *_: FakeEngine("slot")).metrics.render().decode()
    names = set(re.findall(r"^# TYPE (\w+) ", shown, re.MULTILINE))
    assert "coe_requests_total" in names
    assert [name for name in sorted(names) if f"`{name}`" not in API and not name.endswith("_created")] == []


def test_the_page_on_edits_says_how_often_the_file_is_looked_at() -> None:
    assert f"every {POLL_S:g} s" in (ROOT / "docs/howto/registry.md").read_text(encoding="utf-8")


def test_a_pinned_expert_leaves_for_a_request_that_has_waited_for_the_standard_slo() -> None:
    """As the key's description says, and so does the complete example."""
    pool = Pool.model_validate({"hosts": [{"id": "slot"}], "policy": "static", "pinned": ["a"]})
    plan = PoolPlan((HostPlan("slot"),), tuple(ExpertPlan(each, ("slot",)) for each in "ab"))
    world = World(plan, make_policy(pool))
    world.arrive("r1", "a")
    world.ready("a")
    world.finish("r1")
    world.arrive("r2", "b")
    slo_s = pool.classes.standard.slo_s
    assert not [action for action in world.wait(slo_s - 0.1) if isinstance(action, Evict)]
    assert [action.expert for action in world.wait(0.2) if isinstance(action, Evict)] == ["a"]
    described = str(Pool.model_fields["pinned"].description)
    example = (ROOT / "docs/experts.example.yaml").read_text(encoding="utf-8")
    (comment,) = re.findall(r"^  pinned: .*# (.*)$", example, re.MULTILINE)
    for said in (described, comment):
        assert "static" in said
        assert "standard.slo_s" in said
        assert "never" not in said
