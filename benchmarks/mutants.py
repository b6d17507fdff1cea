"""Which faults would the tests notice? ``make mutants``, or ``python -m benchmarks.mutants --minutes 10``.

Changes one small thing in a copy of the sources (a comparison, a number, a condition, a statement left out),
runs the tests that run that line, and says whether any of them fails. The sample is random, by the seed, and
ends with the time. Only the copy is ever changed. The report goes to var/mutants.md and var/mutants.json.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "coe",
    "routers",
    "eval",
    "benchmarks",
    "tests",
    "docs",
    "deploy",
    "experts.yaml",
    "pyproject.toml",
    "README.md",
)
ROOMS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "scheduler": (
        ("coe/scheduler/*.py", "coe/scheduler/policies/s*.py", "coe/scheduler/policies/victims.py"),
        ("tests/test_scheduler*.py", "tests/test_conformance_policy.py"),
    ),
    "pool": (("coe/pool/*.py",), ("tests/test_pool*.py", "tests/test_generations.py")),
    "gateway": (
        (
            "coe/gateway/requests.py",
            "coe/gateway/responses.py",
            "coe/gateway/http.py",
            "coe/engines/upstream.py",
        ),
        ("tests/test_gateway*.py", "tests/test_upstream*.py", "tests/test_bounds.py"),
    ),
    "money": (
        ("coe/access/limits.py", "coe/gateway/completions.py"),
        ("tests/test_access.py", "tests/test_paying.py", "tests/test_gateway_ends.py"),
    ),
    "access": (
        ("coe/access/api_keys.py", "coe/access/response_cache.py", "coe/access/same_question.py"),
        ("tests/test_access.py", "tests/test_keys_file.py", "tests/test_same_question.py"),
    ),
    "votes": (("coe/aggregators/ballots.py",), ("tests/test_aggregators.py", "tests/test_votes*.py")),
    "live": (("coe/service/live_registry.py",), ("tests/test_live.py", "tests/test_sharing.py")),
}
"""Sources, and the tests that are meant to notice a fault in them."""
MARKS = "not (slow or models or redis or real_vllm or real_ray)"
_PAIRS = (
    (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn),
    (ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.Div),
)  # fmt: skip
FLIPS: Mapping[type[ast.AST], type[ast.AST]] = {
    a: b for one, other in _PAIRS for a, b in ((one, other), (other, one))
}
SWAPS = {"min": "max", "max": "min", "any": "all", "all": "any"}
SILENT = ("log", "logging", "warnings")
"""What is done with these names is for people to read."""
HEAVY = (
    "pytest", "pytest_asyncio", "hypothesis", "pydantic", "starlette.routing", "uvicorn", "httpx", "aiohttp",
    "openai", "numpy", "yaml", "prometheus_client", "cachetools",
)  # fmt: skip
"""Loaded once, before each run is split off."""
MOST_S = 60.0
"""Of tests for one mutant, by their time without it; the quickest first."""


@dataclass(frozen=True)
class Mutant:
    """``text`` replaces the bytes from ``start`` to ``end`` of a file."""

    file: str
    line: int
    what: str
    start: int
    end: int
    text: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


@dataclass(frozen=True)
class Verdict:
    """``by``: the test that failed; None where all that run the line passed, of which there are ``tests``."""

    file: str
    line: int
    what: str
    by: str | None
    tests: int


@dataclass
class Baseline:
    """By test: seconds, and the lines of each file that it runs."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def tests_of(self, mutant: Mutant) -> list[str]:
        found = [test for test, files in self.lines.items() if mutant.line in files.get(mutant.file, ())]
        chosen, left = list[str](), MOST_S
        for test in sorted(found, key=lambda each: self.seconds[each]):
            left -= self.seconds[test]
            if left < 0 and chosen:
                break
            chosen.append(test)
        return chosen


def mutants_of(file: str, source: bytes) -> Iterator[Mutant]:
    """Every small change of ``source`` that this knows, one at a time."""
    tree = ast.parse(source)
    starts = [0]
    for each in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(each))
    for node in _open(tree):
        for what, text in _changes(node):
            end_line, end_col = node.end_lineno or node.lineno, node.end_col_offset or 0  # type: ignore[attr-defined]
            start = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
            yield Mutant(file, node.lineno, what, start, starts[end_line - 1] + end_col, text)  # type: ignore[attr-defined]


def _open(node: ast.AST) -> Iterator[ast.AST]:
    """What may be changed: no annotations, no texts for people, no f-strings (their parts have no place)."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "exc", "msg", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(
                child, ast.JoinedStr | ast.Import | ast.ImportFrom
            ):
                continue
            if isinstance(child, ast.Expr) and (
                _is_silent(child.value) or isinstance(child.value, ast.Constant)
            ):
                continue
            if hasattr(child, "lineno"):
                yield child
            yield from _open(child)


def _is_silent(node: ast.AST) -> bool:
    while isinstance(node, ast.Call | ast.Attribute):
        node = node.func if isinstance(node, ast.Call) else node.value
    return isinstance(node, ast.Name) and node.id in SILENT


def _changes(node: ast.AST) -> Iterator[tuple[str, str]]:
    """What is said of a change, and the new text."""
    before = ast.unparse(node)
    for after in _variants(node):
        text = ast.unparse(after)
        statement = isinstance(node, ast.stmt)
        yield f"{_short(before)} -> {_short(text)}", text if statement else f"({text})"


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in FLIPS:
            yield ast.Compare(node.left, [FLIPS[type(op)]()], node.comparators)  # type: ignore[list-item]
        case ast.BoolOp(op=op):
            yield ast.BoolOp(FLIPS[type(op)](), node.values)  # type: ignore[arg-type]
        case ast.BinOp(op=op) if type(op) in FLIPS and not _is_text(node):
            yield ast.BinOp(node.left, FLIPS[type(op)](), node.right)  # type: ignore[arg-type]
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Call(func=ast.Name(id=name)) if name in SWAPS:
            yield ast.Call(ast.Name(SWAPS[name]), node.args, node.keywords)
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield ast.Return(ast.Constant(None))
        case ast.Expr() | ast.AugAssign() | ast.Delete():
            yield ast.Pass()


def _is_text(node: ast.BinOp) -> bool:
    texts = (each for each in ast.walk(node) if isinstance(each, ast.JoinedStr | ast.Constant))
    return any(isinstance(each, ast.JoinedStr) or isinstance(each.value, str) for each in texts)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else line[:67] + "..."


class Watched:
    """A plug-in of pytest: which test failed first, how long each took, and what it ran of ``files``."""

    def __init__(self, root: Path, files: frozenset[str] = frozenset()) -> None:
        self.broken: list[str] = []
        self.baseline = Baseline()
        self._paths = {str(root / file): file for file in files}
        self._now: dict[str, set[int]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.broken.append(report.nodeid)
        seconds = self.baseline.seconds
        seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_runtest_protocol(self) -> None:
        self._now = {}
        if self._paths:
            sys.settrace(self._enter)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        sys.settrace(None)
        self.baseline.lines[nodeid] = {file: sorted(lines) for file, lines in self._now.items()}

    def _enter(self, frame: Any, _event: str, _argument: Any) -> Any:
        file = self._paths.get(frame.f_code.co_filename)
        if file is None:
            return None
        lines = self._now.setdefault(file, set())

        def line(frame: Any, _event: str, _argument: Any) -> Any:
            lines.add(frame.f_lineno)
            return line

        return line(frame, "", None)


def run_tests(root: Path, tests: Sequence[str], files: frozenset[str], timeout_s: float) -> dict[str, Any]:
    """pytest in a process split off, in ``root``. ``failed``: a test, or why there was no result."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(reader)
        with contextlib.suppress(BaseException):
            _pytest(root, tests, files, writer)
        os._exit(0)
    os.close(writer)
    said, deadline = bytearray(), time.monotonic() + timeout_s
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not (part := pipe.read(1 << 16)):
                break
            said += part
        else:
            said = bytearray(json.dumps({"failed": f"no end within {timeout_s:.0f} s"}).encode())
    _end(child)  # with what the tests have left
    return json.loads(said) if said else {"failed": "the process of the tests died"}


def _pytest(root: Path, tests: Sequence[str], files: frozenset[str], writer: int) -> None:
    import pytest

    os.chdir(root)
    os.environ["PYTHONPATH"] = str(root)
    sys.path[:] = [str(root), *(each for each in sys.path if Path(each or ".").resolve() != ROOT)]
    quiet = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(quiet, standard)
    watched = Watched(root, files)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", MARKS, *([] if files else ["-x"])]
    code = pytest.main([*options, *tests], plugins=[watched])
    failed = next(iter(watched.broken), None if code == 0 else f"pytest ended with {int(code)}")
    said: dict[str, Any] = {"failed": failed}
    if files and code in (0, 1):
        said |= {"broken": watched.broken, **asdict(watched.baseline)}
    with os.fdopen(writer, "w") as pipe:
        json.dump(said, pipe)


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(group, 0)


def files_of(patterns: Sequence[str], root: Path) -> list[str]:
    return sorted({str(path.relative_to(root)) for each in patterns for path in root.glob(each)})


def copy_to(root: Path, copied: Sequence[str] = COPIED) -> None:
    for name in copied:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__", "*.pyc")
        if source.is_dir():
            shutil.copytree(source, root / name, symlinks=True, ignore=ignored)
        elif source.exists():
            shutil.copy2(source, root / name)


def baseline_of(root: Path, rooms: Sequence[str]) -> Baseline:
    """Of every test that passes without any change."""
    found = Baseline()
    for room in rooms:
        sources, tests = (files_of(patterns, root) for patterns in ROOMS[room])
        result = run_tests(root, tests, frozenset(sources), 900.0)
        if "lines" not in result:
            raise SystemExit(f"the tests of {room} cannot be run: {result['failed']}")
        found.seconds |= result["seconds"]
        for test, lines in result["lines"].items():
            if test in result["broken"]:
                print(f"left out, since it fails without any change: {test}", flush=True)
            else:
                found.lines[test] = {**found.lines.get(test, {}), **lines}
    return found


def judge(root: Path, mutant: Mutant, baseline: Baseline) -> Verdict:
    """Run the tests that run its line, with the change."""
    tests = baseline.tests_of(mutant)
    by: str | None = None
    if tests:
        path = root / mutant.file
        before = path.read_bytes()
        path.write_bytes(mutant.applied(before))
        try:
            limit_s = 30.0 + 3 * sum(baseline.seconds[test] for test in tests)
            by = run_tests(root, tests, frozenset(), limit_s)["failed"]
        finally:
            path.write_bytes(before)
    return Verdict(mutant.file, mutant.line, mutant.what, by, len(tests))


def sample(root: Path, rooms: Sequence[str], seed: int) -> list[Mutant]:
    """Room by room in turn, each in random order: a short run looks at all of them."""
    chance = random.Random(seed)
    queues: list[list[Mutant]] = []
    for room in rooms:
        sources = files_of(ROOMS[room][0], root)
        found = [m for file in sources for m in mutants_of(file, (root / file).read_bytes())]
        chance.shuffle(found)
        queues.append(found)
    longest = max(map(len, queues), default=0)
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)]


def report(verdicts: Sequence[Verdict], seed: int) -> str:
    """Markdown."""
    killed = sum(each.by is not None for each in verdicts)
    lines = [
        f"{killed} of {len(verdicts)} mutants were noticed (seed {seed}).",
        "",
        "| mutant | place | noticed by |",
        "|---|---|---|",
    ]
    for each in sorted(verdicts, key=lambda v: (v.by is not None, v.file, v.line)):
        by = each.by or (f"**nobody** of {each.tests}" if each.tests else "**nobody runs the line**")
        lines.append(f"| `{each.what.replace('|', chr(92) + '|')}` | {each.file}:{each.line} | {by} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of mutants, beside one run of all the tests"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rooms", default=",".join(ROOMS), help=f"some of {','.join(ROOMS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "var")
    options = parser.parse_args()
    os.nice(10)
    for name in HEAVY:
        importlib.import_module(name)
    verdicts: list[Verdict] = []
    rooms = options.rooms.split(",")
    with tempfile.TemporaryDirectory(prefix="coe-mutants-") as folder:
        root = Path(folder).resolve()
        copy_to(root)
        baseline = baseline_of(root, rooms)
        print(f"{len(baseline.seconds)} tests run the sources; they pass unchanged", flush=True)
        sys.dont_write_bytecode = True
        ends = time.monotonic() + 60 * options.minutes
        for mutant in sample(root, rooms, options.seed):
            if time.monotonic() > ends:
                break
            verdicts.append(judge(root, mutant, baseline))
            last = verdicts[-1]
            print(f"{last.file}:{last.line} {last.what}: {last.by or 'SURVIVED'}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "mutants.md").write_text(report(verdicts, options.seed), encoding="utf-8")
    (options.out / "mutants.json").write_text(
        json.dumps([asdict(v) for v in verdicts], indent=1), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
