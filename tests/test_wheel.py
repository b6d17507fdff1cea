"""The wheel: one name on the path, everything that a clean environment needs, nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LINKED = {"routers": "coe/routers", "eval": "coe/eval"}
DATA = (
    "coe/py.typed",
    "coe/routers/data/static.safetensors",
    "coe/routers/data/tokenizer.json",
    "coe/demo/adapters/sql.safetensors",
    "coe/eval/tasks/gsm8k.toml",
    "coe/profiles/shipped/tables",
)
ALIEN = "raise RuntimeError('this is not a package of CoE')\n"
REGISTRY = """
pool:
  hosts: [{id: far, kind: remote, url: "http://127.0.0.1:9/v1"}]
experts:
  - {id: maths, host: far, model: m, card: "Sums of whole numbers.", skills: [arithmetic]}
  - {id: words, host: far, model: w, card: "Anything else.", general: true}
"""
OWN_ROUTER = """
from coe.routers.base import RouterOptions
from coe.core.types import Decision, Ranked

class Last:
    "Always the last expert."
    options_type = RouterOptions
    blocking = False
    def __init__(self, name, options, setting):
        self.name = name
    def route(self, text, experts):
        last = experts[-1].id
        return Decision(self.name, (Ranked(last, 1.0),), (last,), 1.0, "of my own")
"""


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def build(source: Path, target: str, into: Path) -> Path:
    done = run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", into, cwd=source)
    assert done.returncode == 0, done.stderr
    (built,) = into.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as deploy/Dockerfile.* build it: of the files that they copy, with no repository around."""
    source, into = tmp_path_factory.mktemp("image"), tmp_path_factory.mktemp("wheel")
    for name in copied("Dockerfile.cpu") - {"requirements"}:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True)
        else:
            shutil.copy(ROOT / name, source)
    return build(source, "wheel", into)


def copied(dockerfile: str) -> set[str]:
    lines = re.findall(r"^COPY (.*) \S+$", (ROOT / "deploy" / dockerfile).read_text(encoding="utf-8"), re.M)
    return {name for line in lines for name in line.split()}


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_images_copy_all_that_the_wheel_is_built_of() -> None:
    assert copied("Dockerfile.cpu") - {"requirements"} == copied("Dockerfile.gpu")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied("Dockerfile.cpu")


def test_wheel_has_one_top_level_package(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"coe"}


def test_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "coe", "routers", "eval"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    expected = {
        LINKED.get(top, top) + "/" + rest for top, _, rest in (name.partition("/") for name in tracked)
    } - set(LINKED.values())
    assert {name for name in names(wheel) if name.startswith("coe/")} == expected
    assert [name for name in DATA if not any(found.startswith(name) for found in expected)] == []


def test_wheel_of_the_source_distribution_is_the_same(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "sdist").mkdir()
    with tarfile.open(build(ROOT, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert sorted(path.name for path in source.iterdir() if path.is_dir()) == ["coe"]
    assert [path for path in source.rglob("*") if path.is_symlink()] == []
    assert names(build(source, "wheel", tmp_path / "wheel")) == names(wheel)


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, the packages it depends on and nothing of the repository."""

    scripts: Path
    packages: Path

    def coe(self, folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run(self.scripts / "coe", *arguments, cwd=folder, **env)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    home = tmp_path_factory.mktemp("environment")
    done = run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    assert done.returncode == 0, done.stderr
    python = home / "bin" / "python"
    pip = ("-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel)
    done = run(sys.executable, *pip, cwd=home)
    assert done.returncode == 0, done.stderr
    packages = next((home / "lib").glob("python*/site-packages"))
    # A path of its own: files *.pth in it, and so the editable install, do not count there.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return Installed(python.parent, packages)


def project(folder: Path, registry: str = REGISTRY) -> Path:
    folder.mkdir()
    (folder / "experts.yaml").write_text(registry, encoding="utf-8")
    return folder


def package(folder: Path, text: str, modules: Sequence[str]) -> None:
    folder.mkdir()
    for name in ("__init__", *modules):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


COMMANDS = (("check",), ("route", "--local", "What is 17 + 25?"), ("eval", "run", "none", "--out", "run"))


def test_packages_of_other_people_named_routers_and_eval_change_nothing(
    installed: Installed, tmp_path: Path
) -> None:
    plain = project(tmp_path / "plain")
    expected = [installed.coe(plain, *command) for command in COMMANDS]
    assert [done.returncode for done in expected] == [0, 0, 2], [done.stderr for done in expected]
    assert "experts.yaml: can be served" in expected[0].stdout
    assert "maths" in expected[1].stdout
    assert "gsm8k" in expected[2].stderr

    beside = project(tmp_path / "beside")
    aliens = [parent / name for parent in (beside, installed.packages) for name in ("routers", "eval")]
    for folder in aliens:
        package(folder, ALIEN, ("base", "category", "knn", "live", "recorded"))
    try:
        found = [installed.coe(beside, *command, PYTHONPATH=".") for command in COMMANDS]
    finally:
        for folder in aliens:
            shutil.rmtree(folder)
    assert [(done.returncode, done.stdout) for done in found] == [
        (done.returncode, done.stdout) for done in expected
    ], [done.stderr for done in found]


def test_router_in_a_folder_routers_of_the_users_own_is_used(installed: Installed, tmp_path: Path) -> None:
    own = 'routers:\n  default: mine\n  available: [{name: mine, kind: "routers.mine:Last"}]\n'
    folder = project(tmp_path / "own", REGISTRY + own)
    (folder / "routers").mkdir()
    (folder / "routers" / "mine.py").write_text(OWN_ROUTER, encoding="utf-8")
    for env in ({}, {"PYTHONPATH": "."}):
        done = installed.coe(folder, "route", "--local", "What is 17 + 25?", **env)
        assert done.returncode == 0, done.stderr
        assert "of my own" in done.stdout


def test_installed_package_does_not_reach_into_the_repository(installed: Installed, tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, coe, coe.routers, coe.eval;"
        "print(coe.__file__, coe.routers.__file__, coe.eval.__file__);"
        "print([n for n in ('routers', 'eval', 'benchmarks', 'tests') if u.find_spec(n)])"
    )
    done = run(installed.scripts / "python", "-c", code, cwd=tmp_path)
    files, others = done.stdout.splitlines()
    assert all(file.startswith(str(installed.packages / "coe")) for file in files.split())
    assert others == "[]"
