"""How large the house is against what it may be: ``python -m benchmarks.budgets [--files]``.

Prints each budget with its figure of now; ``--files`` adds the files of the request's path. Exit code 1 when
a figure is over a budget that is held; the others are goals.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grimp

from benchmarks.request_path import ROOT, RequestPath, measure

PACKAGES = ("coe", "routers", "eval")
WORDINGS = {"coe/demo/skills/extraction.py", "coe/demo/skills/sorting.py"}
"""Tables of wordings, one a line, which may be longer than a file of code."""


@dataclass(frozen=True)
class Budget:
    """``held``: more than ``limit`` is an error; otherwise ``limit`` is a goal."""

    name: str
    now: int
    limit: int
    held: bool
    which: str = ""

    def line(self) -> str:
        verdict = "ok" if self.now <= self.limit else "OVER" if self.held else "goal not met"
        return f"{self.name:<46} {self.now:>7,} {self.limit:>7,}  {verdict:<12} {self.which}".rstrip()


def sources(*folders: str) -> Iterator[Path]:
    """Files of Python. ``coe``: without the links to the folders beside it."""
    return (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def longest_file() -> tuple[int, str]:
    named = ((lines_of(path), str(path.relative_to(ROOT))) for path in sources(*PACKAGES))
    return max(each for each in named if each[1] not in WORDINGS)


def longest_function() -> tuple[int, str]:
    """Its length without decorators, and where it is."""
    return max(
        (
            (node.end_lineno or node.lineno) - node.lineno + 1,
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}",
        )
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def product_lines() -> int:
    """Lines of coe/ and routers/ without the demo, without what tests use and without eval."""
    left_out = (ROOT / "coe" / "demo", ROOT / "coe" / "testing")
    counted = (
        path for path in sources("coe", "routers") if not any(path.is_relative_to(out) for out in left_out)
    )
    return sum(lines_of(path) for path in counted)


def rooms_and_imports() -> Mapping[str, frozenset[str]]:
    """Every room of coe and the rooms that it imports, imports inside functions included."""
    graph = grimp.build_graph("coe", cache_dir=None)
    found: dict[str, set[str]] = {room.split(".")[1]: set() for room in graph.find_children("coe")}
    for module in graph.modules - {"coe"}:
        imported = {
            target.split(".")[1]
            for target in graph.find_modules_directly_imported_by(module)
            if "." in target
        }
        found[module.split(".")[1]] |= imported
    return {room: frozenset(others - {room}) for room, others in found.items()}


def knots(imports: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Rooms that reach each other by imports, the largest set first; a room alone is a set of its own."""
    reached = {room: _reached(imports, room) for room in imports}
    sets = {frozenset([room, *(far for far in reached[room] if room in reached[far])]) for room in imports}
    return sorted((sorted(knot) for knot in sets), key=len, reverse=True)


def _reached(imports: Mapping[str, frozenset[str]], start: str) -> set[str]:
    seen: set[str] = set()
    open_ends = [start]
    while open_ends:
        new = imports[open_ends.pop()] - seen
        seen |= new
        open_ends.extend(new)
    return seen


def budgets(path: RequestPath) -> list[Budget]:
    file, function, imports = longest_file(), longest_function(), rooms_and_imports()
    largest = knots(imports)[0]
    return [
        Budget("lines of the longest file", file[0], 400, False, file[1]),
        Budget("lines of the longest function", function[0], 60, True, function[1]),
        Budget("lines of coe/ and routers/", product_lines(), 31_500, False, "without demo and test support"),
        Budget("rooms of coe", len(imports), 25, True),
        Budget("rooms in the largest import knot", len(largest), 1, True, ", ".join(largest[1:] and largest)),
        Budget("files on the path of a pinned streamed request", len(path.lines), 20, True),
        Budget("lines run on it", path.total, 1_500, True, f"in {path.functions} functions"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budgets", description=__doc__)
    parser.add_argument("--files", action="store_true", help="list the files of the request's path")
    path = measure()
    found = budgets(path)
    print(f"{'budget':<46} {'now':>7} {'limit':>7}")
    print("\n".join(budget.line() for budget in found))
    if parser.parse_args(arguments).files:
        print("\nlines run by file:")
        print("\n".join(f"{count:>5}  {file}" for file, count in path.lines.items()))
    return int(any(budget.held and budget.now > budget.limit for budget in found))


if __name__ == "__main__":
    raise SystemExit(main())
