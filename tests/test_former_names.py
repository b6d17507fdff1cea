"""Modules that moved: experts.yaml may name them as before, the code of a plug-in is told the new names."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coe.core.errors import ConfigError
from coe.core.former_names import NEW_NAMES, new_name
from coe.routers import ROUTER_KIND, router_class
from coe.routers.static import StaticRouter

ROOT = Path(__file__).parents[1]
REGISTRY = """
pool:
  hosts: [{id: far, kind: remote, url: "http://127.0.0.1:9/v1"}]
experts:
  - {id: maths, host: far, model: m, card: "Sums.", general: true}
  - {id: words, host: far, model: w, card: "Words."}
routers:
  default: always
  available: [{name: always, kind: "routers.static:StaticRouter", options: {expert: maths}}]
"""


def coe(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from coe.cli import main; main()", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env, check=False)


def test_every_former_name_leads_to_a_module() -> None:
    wrong = [new for new in NEW_NAMES.values() if importlib.util.find_spec(new) is None]
    assert wrong == []
    still_there = [former for former in NEW_NAMES if former.startswith("coe.") and _exists(former)]
    assert still_there == []


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def test_longest_former_name_counts() -> None:
    assert new_name("routers.knn") == "coe.routers.knn"
    assert new_name("routers.kept") == "coe.routers.encoders.memory_cache"
    assert new_name("coe.pool.policies.victims") == "coe.scheduler.policies.victims"
    assert new_name("coe.pool.pool") is None
    assert new_name("routerslike.knn") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"), [(("check",), "always"), (("route", "--local", "2+2?"), "maths")]
)
def test_registry_with_a_former_name_works_with_one_warning(
    tmp_path: Path, command: tuple[str, ...], said: str
) -> None:
    (tmp_path / "experts.yaml").write_text(REGISTRY, encoding="utf-8")
    done = coe(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    warnings = [line for line in done.stderr.splitlines() if "routers.static:StaticRouter" in line]
    assert len(warnings) == 1, done.stderr
    assert '"coe.routers.static:StaticRouter"' in warnings[0]


def test_module_of_the_users_own_by_that_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "routers").mkdir()
    (tmp_path / "routers" / "__init__.py").touch()
    (tmp_path / "routers" / "static.py").write_text(
        "from coe.routers.static import StaticRouter as Base\nclass StaticRouter(Base): ...\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("routers", "routers.static"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with caplog.at_level(logging.WARNING):
        assert router_class("routers.static:StaticRouter") is not StaticRouter
        assert router_class("routers.knn:KnnRouter").__module__ == "coe.routers.knn"
    assert [record.getMessage() for record in caplog.records if "routers.static" in record.getMessage()] == []
    for name in ("routers", "routers.static"):
        sys.modules.pop(name, None)


def test_module_of_that_name_beside_experts_yaml_comes_first(tmp_path: Path) -> None:
    (tmp_path / "routers").mkdir()
    (tmp_path / "routers" / "static.py").write_text(
        (ROOT / "routers" / "static.py").read_text(encoding="utf-8")
    )
    assert router_class("routers.static:StaticRouter", tmp_path).__module__ != "coe.routers.static"
    assert router_class("routers.uniform:RandomRouter", tmp_path).__module__ == "coe.routers.uniform"
    assert router_class("routers.static:StaticRouter", ROOT) is StaticRouter  # a checkout


def test_plug_in_whose_code_imports_a_former_name_is_told_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old_plug_in.py").write_text("from coe.types import Decision\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError) as refused:
        ROUTER_KIND.find("old_plug_in:Mine")
    assert "coe.core.types" in str(refused.value.hint)


def test_module_that_never_was_is_refused_by_the_name_it_was_given() -> None:
    with pytest.raises(ConfigError, match=r"routers\.none\.such:Mine.*No module named 'routers\.none'"):
        ROUTER_KIND.find("routers.none.such:Mine")


def test_former_name_without_the_class_is_refused_as_it_was_written() -> None:
    with pytest.raises(ConfigError, match=r"routers\.knn:Nobody"):
        ROUTER_KIND.find("routers.knn:Nobody")
