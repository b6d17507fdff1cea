"""What runs by itself (hooks, workflows, CI) calls make targets that exist, and the same ones."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import PROCESSES

ROOT = Path(__file__).parents[1]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def workflow_targets(name: str) -> set[str]:
    (job,) = read(f".github/workflows/{name}.yml")["jobs"].values()
    (command,) = [step["run"] for step in job["steps"] if "run" in step]
    if command == "make ${{ matrix.target }}":
        return set(job["strategy"]["matrix"]["target"])
    return {command.removeprefix("make ")}


def test_hooks_and_workflows_call_the_same_make_targets() -> None:
    (repo,) = read(".pre-commit-config.yaml")["repos"]
    hooks = {hook["entry"].removeprefix("make ") for hook in repo["hooks"]}
    assert hooks == workflow_targets("check") == {"check", "test-fast"}
    assert workflow_targets("test") == {"test"}
    assert hooks | {"test"} <= TARGETS


def test_ci_runs_everything() -> None:
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "exec make test"


@pytest.mark.parametrize("target", sorted(TARGETS - {"help"}))
def test_every_target_is_explained_by_make_help(target: str) -> None:
    assert re.search(rf"^{target}:.*## \S", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize(("word", "marker"), PROCESSES.items())
def test_process_that_a_test_is_not_marked_for_does_not_start(word: str, marker: str) -> None:
    with pytest.raises(AssertionError, match=f"pytest.mark.{marker}"):
        subprocess.run(["true", word], check=True)


@pytest.mark.redis
def test_process_that_a_test_is_marked_for_starts() -> None:
    assert subprocess.run(["true", "redis-server"], check=True).returncode == 0


def test_fast_tests_leave_out_all_that_start_engines_clusters_and_redis() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (expression,) = re.findall(r"^test-fast:.*\n(?:\t.*\n)*\t.*-m \"not \((.*)\)\"", makefile, re.M)
    assert {"slow", "models", *PROCESSES.values()} <= set(expression.split(" or "))
