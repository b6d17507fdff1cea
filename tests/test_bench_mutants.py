"""The mutation check: which changes it makes, and that it says truly who notices them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks import mutants
from benchmarks.mutants import Baseline, Mutant, baseline_of, judge, mutants_of, report, sample

SOURCE = b'''"""A text -- it is no code."""
import logging

log = logging.getLogger(__name__)


def grade(points: int, most: int = 10) -> str | None:
    """One more text."""
    log.info("grading %d of %d", points, most)
    if points < most and not points == 3:
        raise ValueError("more than 1 point is missing")
    marks = min(points, most) + 1
    marks += 2
    return f"{marks + 1} of {most}"
'''


def changed() -> list[str]:
    return [mutant.what for mutant in mutants_of("x.py", SOURCE)]


@pytest.mark.parametrize(
    "what",
    [
        "points < most -> points <= most",
        "points < most and (not points == 3) -> points < most or not points == 3",
        "not points == 3 -> points == 3",
        "points == 3 -> points != 3",
        "3 -> 4",
        "3 -> 2",
        "10 -> 11",
        "min(points, most) -> max(points, most)",
        "min(points, most) + 1 -> min(points, most) - 1",
        "marks += 2 -> pass",
        "return f'{marks + 1} of {most}' -> return None",
    ],
)
def test_small_changes_are_made(what: str) -> None:
    assert what in changed()


def test_nothing_for_people_is_changed_and_every_mutant_is_a_programme() -> None:
    found = list(mutants_of("x.py", SOURCE))
    for mutant in found:
        ast.parse(mutant.applied(SOURCE))
        assert mutant.applied(SOURCE) != SOURCE
        assert mutant.applied(SOURCE).count(b"\n") == SOURCE.count(b"\n")
    assert not {1, 8, 9, 11} & {mutant.line for mutant in found}


@pytest.mark.slow
def test_whoever_notices_a_mutant_is_named_and_the_sources_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sums").mkdir()
    (tmp_path / "checks").mkdir()
    source = tmp_path / "sums" / "sums.py"
    source.write_text("def over(a, b):\n    return a > b\n\n\ndef unused():\n    return 1 + 1\n")
    (tmp_path / "checks" / "test_sums.py").write_text(
        "from sums.sums import over\n\n\ndef test_over():\n    assert over(2, 1)\n"
    )
    (tmp_path / "sums" / "__init__.py").touch()
    (tmp_path / "checks" / "__init__.py").touch()
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.setattr(mutants, "ROOMS", {"sums": (("sums/sums.py",), ("checks/test_sums.py",))})
    before = source.read_bytes()
    baseline = baseline_of(tmp_path, ["sums"])
    verdicts = {m.what: judge(tmp_path, m, baseline) for m in sample(tmp_path, ["sums"], seed=1)}
    assert verdicts["return a > b -> return None"].by == "checks/test_sums.py::test_over"
    assert (verdicts["a > b -> a >= b"].by, verdicts["a > b -> a >= b"].tests) == (None, 1)
    assert (verdicts["1 + 1 -> 1 - 1"].by, verdicts["1 + 1 -> 1 - 1"].tests) == (None, 0)
    assert source.read_bytes() == before
    told = report(list(verdicts.values()), 1)
    assert "| `a > b -> a >= b` | sums/sums.py:2 | **nobody** of 1 |" in told
    assert "| `1 + 1 -> 1 - 1` | sums/sums.py:6 | **nobody runs the line** |" in told


def test_the_quickest_tests_of_a_line_run_first_and_no_more_than_there_is_time_for() -> None:
    lines = {name: {"x.py": [1, 7]} for name in ("slow", "quick", "middle")} | {"other": {"x.py": [2]}}
    baseline = Baseline({"slow": 50.0, "quick": 0.1, "middle": 20.0, "other": 0.0}, lines)
    assert baseline.tests_of(Mutant("x.py", 7, "", 0, 0, "")) == ["quick", "middle"]
    assert baseline.tests_of(Mutant("x.py", 3, "", 0, 0, "")) == []
