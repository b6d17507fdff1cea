"""The command that measures the budgets: what it counts, and when it fails."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from benchmarks import budgets
from benchmarks.budgets import Budget, knots
from benchmarks.request_path import ROOT, RequestPath, Tracer, measure
from coe.core.suggest import nearest, suggest

LIFE = (
    (ROOT / "CONTRIBUTING.md")
    .read_text(encoding="utf-8")
    .split("## The life of a request")[1]
    .split("\n## ")[0]
)


def test_rooms_that_reach_each_other_are_one_knot() -> None:
    imports = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("a"), "d": frozenset("a")}
    assert knots(imports) == [["a", "b", "c"], ["d"]]


def test_only_what_runs_while_the_tracer_is_active_is_counted() -> None:
    tracer = Tracer()
    with tracer.installed():
        suggest("a", ["b"])
        assert tracer.lines == {}
        tracer.active = True
        nearest("routr", ["router"])
        tracer.active = False
    assert list(tracer.lines) == [Path("coe/core/suggest.py")]
    assert nearest.__code__ in tracer.functions
    assert suggest.__code__ not in tracer.functions


def test_threads_are_counted() -> None:
    tracer = Tracer(active=True)
    with tracer.installed():
        thread = threading.Thread(target=suggest, args=("a", ["b"]))
        thread.start()
        thread.join()
    assert suggest.__code__ in tracer.functions


@pytest.fixture(scope="module")
def path() -> RequestPath:
    return measure()


@pytest.mark.slow
def test_path_of_a_streamed_request_goes_from_the_http_server_to_the_engine(path: RequestPath) -> None:
    rooms = {file.parts[1] for file in path.lines if file.parts[0] == "coe"}
    assert {"gateway", "pipeline", "pool", "scheduler", "engines"} <= rooms
    assert path.functions > len(path.lines)
    assert path.total > path.functions


@pytest.mark.slow
def test_the_life_of_a_request_lists_the_files_of_its_path_in_their_order(path: RequestPath) -> None:
    assert re.findall(r"^(\S+\.py) ", LIFE.split("```")[1], re.MULTILINE) == [
        str(file) for file in path.lines
    ]


def test_all_files_that_the_life_of_a_request_names_exist() -> None:
    named = re.findall(r"(?<![\w/])((?:coe|routers)/[\w/*.]*)", LIFE)
    assert len(named) > 30
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/.")))] == []


@pytest.mark.parametrize(("held", "code"), [(True, 1), (False, 0)])
def test_only_a_held_budget_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], held: bool, code: int
) -> None:
    monkeypatch.setattr(budgets, "measure", lambda: RequestPath({Path("coe/a.py"): 3}, 1))
    monkeypatch.setattr(budgets, "budgets", lambda _: [Budget("rooms", 26, 25, held)])
    assert budgets.main(["--files"]) == code
    printed = capsys.readouterr().out
    assert ("OVER" if held else "goal not met") in printed
    assert "coe/a.py" in printed
