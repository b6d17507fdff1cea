"""The architecture, held by the imports: who may know whom, and how long a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("coe", "routers", "eval")
MAX_LINES = 400

LONG_TABLES = {f"coe/examples/skills/{name}.py" for name in ("extraction", "sorting")}
"""Mostly wordings, one a line."""

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
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def imports() -> tuple[Import, ...]:
    return tuple(
        found
        for path in source_files(*PACKAGES)
        for found in _imports_of(path, ast.parse(path.read_text(encoding="utf-8")))
    )


def _imports_of(path: Path, tree: ast.Module) -> Iterator[Import]:
    module = module_name(path)
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node)
        for inner in ast.walk(node)
    }
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        for target in _targets(node, package):
            yield Import(module, target, node.lineno, id(node) in late)  # type: ignore[attr-defined]


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
    return []


def _as_module(base: str, name: str) -> str:
    """``from coe import types`` imports coe.core.types; ``from coe.core.types import Router``
    coe.core.types too."""
    as_path = ROOT / Path(*f"{base}.{name}".split("."))
    is_module = as_path.with_suffix(".py").exists() or (as_path / "__init__.py").exists()
    return f"{base}.{name}" if is_module else base


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def broken(module: tuple[str, ...], allowed: tuple[str, ...]) -> list[str]:
    """Imports of our own packages by ``module`` that are not ``allowed``."""
    return [
        str(found)
        for found in imports()
        if within(found.module, *module)
        and within(found.target, *PACKAGES)
        and not within(found.target, *allowed)
    ]


@pytest.mark.parametrize(
    "module", ["coe.core.types", "coe.core.errors", "coe.core.suggest", "coe.core.extraction"]
)
def test_core_words_import_nothing_of_ours(module: str) -> None:
    assert broken((module,), ()) == []


def test_registry_models_know_only_the_core() -> None:
    parts = ("base", "operation", "combining", "scheduling", "models")
    models = tuple(f"coe.registry.{part}" for part in parts)
    assert broken(models, ("coe.core.types", *models)) == []


CORE = (
    "coe.core.types",
    "coe.core.errors",
    "coe.core.suggest",
    "coe.core.plugins",
    "coe.core.extraction",
    "coe.registry.schema",
    "coe.demo",
)


def test_routers_know_the_core_and_themselves() -> None:
    assert broken(("routers",), (*CORE, "routers")) == []


def test_eval_knows_the_core_and_what_it_measures() -> None:
    found = broken(("eval",), (*CORE, "routers", "coe.aggregators", "coe.profiles", "eval"))
    drivers = ("coe.eval.__main__:", "benchmarks.")  # a benchmark drives the product itself
    assert [line for line in found if not line.startswith(drivers)] == []


def test_engines_and_pool_do_not_know_who_uses_them() -> None:
    users = ("coe.gateway", "coe.pipeline", "coe.service.service", "coe.cli", "routers", "eval")
    found = [
        str(each)
        for each in imports()
        if within(each.module, "coe.engines", "coe.pool") and within(each.target, *users)
    ]
    assert found == []


def test_gateway_knows_no_router_engine_or_pool() -> None:
    hidden = ("coe.engines", "coe.pool", "routers", "coe.service.service", "coe.cli")
    found = [
        str(each) for each in imports() if within(each.module, "coe.gateway") and within(each.target, *hidden)
    ]
    assert found == []


def test_only_the_command_line_imports_the_command_line() -> None:
    found = [
        str(each)
        for each in imports()
        if within(each.target, "coe.cli") and not within(each.module, "coe.cli", "coe.eval.__main__")
    ]
    assert found == []


def test_the_product_does_not_import_its_test_helpers() -> None:
    found = [
        str(each)
        for each in imports()
        if within(each.target, "coe.testing") and not within(each.module, "coe.testing", "benchmarks")
    ]
    assert found == []


def test_ray_is_imported_in_one_place() -> None:
    found = [
        str(each) for each in imports() if within(each.target, "ray") and not within(each.module, *RAY_HOMES)
    ]
    assert found == []


POOL_SHELL = ("coe.pool.pool", "coe.pool.transitions")
"""The asyncio side of the pool; every other module of it decides, and runs in the simulator too."""


def test_scheduling_core_is_pure() -> None:
    outside = ("asyncio", "time", "datetime", "logging", "threading", "random", "socket", "os")
    found = [
        str(each)
        for each in imports()
        if within(each.module, "coe.pool")
        and not within(each.module, *POOL_SHELL)
        and within(each.target, *outside, *POOL_SHELL)
    ]
    assert found == []


def test_litellm_is_imported_late_and_in_one_place() -> None:
    users = [each for each in imports() if within(each.target, "litellm")]
    assert {each.module for each in users} <= {"coe.engines.remote.openai_url"}
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
    "opentelemetry",
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
        and within(each.target, *PACKAGES, "rich", "aiohttp", "pydantic", "numpy")
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
    assert set(too_long) <= LONG_TABLES, too_long


def test_tests_are_flat() -> None:
    assert [path.name for path in (ROOT / "tests").iterdir() if (path / "__init__.py").exists()] == []
    assert not (ROOT / "tests" / "__init__.py").exists()
