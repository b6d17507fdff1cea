"""What the import contracts of pyproject.toml cannot say: names, late imports, rooms, lengths of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grimp

from benchmarks.budgets import knots, rooms_and_imports

ROOT = Path(__file__).parents[1]
PACKAGES = ("coe", "routers", "eval")
"""coe/routers and coe/eval are links to the folders beside it, which are read here instead."""

MAX_LINES = 400
MAX_ROOMS = 25

LONG_TABLES = {f"coe/demo/skills/{name}.py" for name in ("extraction", "sorting")}
"""Mostly wordings, one a line."""

TO_SPLIT = {"coe/scheduler/state.py"}

RAY_HOMES = (
    "coe.cluster.ray_app",
    "coe.cluster.operator",
    "tests.support.ray_cluster",
    "tests.support.ray_echo",
)
"""The only places that may import ray."""


@dataclass(frozen=True)
class Import:
    """``target`` is imported by ``module``; ``late``: inside a function or for type checking only."""

    module: str
    target: str
    line: int
    late: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def module_name(path: Path) -> str:
    """The name it is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = ("coe", *parts) if parts[0] in ("routers", "eval") else parts
    return ".".join(own[:-1] if own[-1] == "__init__" else own)


def source_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(*folders: str) -> tuple[Import, ...]:
    return tuple(found for path in source_files(*(folders or PACKAGES)) for found in _imports_of(path))


@cache
def _imports_of(path: Path) -> tuple[Import, ...]:
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(
        Import(module, target, node.lineno, late)  # type: ignore[attr-defined]
        for node, late in _nodes(tree, late=False)
        for target in _targets(node, package)
    )


def _nodes(node: ast.AST, late: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below, and whether it runs only when a function is called or types are checked."""
    stack = [(node, late)]
    while stack:
        node, late = stack.pop()
        yield node, late
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node)
        stack.extend((child, late) for child in ast.iter_child_nodes(node))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _targets(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *([node.module] if node.module else [])])
        return [_as_module(base, alias.name) for alias in node.names]
    if isinstance(node, ast.Call) and _name_of(node.func) in ("import_module", "__import__"):
        return [each.value for each in node.args[:1] if isinstance(each, ast.Constant)]
    return []


def _name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@cache
def _as_module(base: str, name: str) -> str:
    """``from coe.core import types`` imports coe.core.types; ``from coe.core.types import Router`` too."""
    as_path = ROOT / Path(*f"{base}.{name}".split("."))
    is_module = as_path.with_suffix(".py").exists() or (as_path / "__init__.py").exists()
    return f"{base}.{name}" if is_module else base


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def test_import_contracts_hold() -> None:
    """Those of pyproject.toml; ``make check`` runs them too. Says which line breaks which contract."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_contracts_see_the_linked_folders_and_late_imports() -> None:
    """Routers and eval are links inside coe: a linter that did not follow them would check nothing."""
    graph = grimp.build_graph("coe", cache_dir=None)
    edges = {
        (found.module, found.target)
        for found in imports()
        if within(found.target, "coe") and found.target in graph.modules
    }
    assert {found.late for found in imports() if within(found.target, "coe")} == {True, False}
    seen = {
        (module, target)
        for module in graph.modules
        for target in graph.find_modules_directly_imported_by(module)
    }
    assert {edge for edge in edges - seen if edge[0] != edge[1]} == set()
    assert any(within(module, "coe.routers") for module, _ in seen)
    assert any(within(module, "coe.eval") for module, _ in seen)


def test_routers_and_eval_are_imported_as_parts_of_coe() -> None:
    """A user's own folder ``routers/``, or PyPI's package of that name, must not stand for ours."""
    everything = imports("coe", "routers", "eval", "benchmarks", "tests")
    assert [str(found) for found in everything if within(found.target, "routers", "eval")] == []


def test_coe_holds_rooms_and_no_loose_module() -> None:
    found = {path.name: path for path in (ROOT / "coe").iterdir() if path.name != "__pycache__"}
    assert {name for name, path in found.items() if path.is_file()} == {"__init__.py", "py.typed"}
    rooms = {name for name, path in found.items() if path.is_dir()}
    assert rooms == set(rooms_and_imports())
    assert len(rooms) <= MAX_ROOMS, sorted(rooms)


def test_every_import_knot_is_one_room() -> None:
    assert [knot for knot in knots(rooms_and_imports()) if len(knot) > 1] == []


def test_ray_is_imported_in_one_place() -> None:
    users = {found.module for found in imports(*PACKAGES, "tests/support") if within(found.target, "ray")}
    assert users == set(RAY_HOMES)


def test_litellm_is_imported_late_and_in_one_place() -> None:
    users = [each for each in imports() if within(each.target, "litellm")]
    assert {each.module for each in users} == {"coe.engines.remote.litellm"}
    assert all(each.late for each in users)


HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "sentence_transformers",
    "faiss",
    "onnx",
    "onnxruntime",
    "sklearn",
    "scipy",
    "ray",
    "litellm",
    "peft",
    "opentelemetry.sdk",
    "opentelemetry.exporter",
)


def test_heavy_packages_are_imported_inside_functions() -> None:
    found = [
        str(each)
        for each in imports()
        if within(each.target, *HEAVY) and not each.late and not within(each.module, *RAY_HOMES)
    ]
    assert found == []


def test_command_modules_start_quickly() -> None:
    """Their top level imports click, the standard library and light modules of ours."""
    light = ("coe.core.errors", "coe.core.suggest", "coe.cli")
    found = [
        str(each)
        for each in imports()
        if within(each.module, "coe.cli")
        and not each.late
        and within(each.target, "coe", "rich", "aiohttp", "pydantic", "numpy")
        and not within(each.target, *light)
        and each.target != "coe"
    ]
    assert found == []


def test_no_source_file_is_too_long() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in source_files(*PACKAGES)
    }
    too_long = {name: count for name, count in lengths.items() if count > MAX_LINES}
    assert set(too_long) <= LONG_TABLES | TO_SPLIT, too_long


def test_tests_are_flat() -> None:
    """``tests`` is a package for the sake of tests.support; test files lie beside each other."""
    assert [path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")] == ["support"]
