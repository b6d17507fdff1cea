"""Comparisons, pages and retrieval: figures against hand-made runs."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import struct
import warnings
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from benchmarks.make_tables import main as make_tables
from benchmarks.reproduce import TABLES, Table
from coe.cli import main
from coe.core.errors import ConfigError
from coe.core.page import Page, cell
from coe.eval.live.compare import compare, comparison_lines
from coe.eval.live.journal import Journal, Meter
from coe.eval.live.retrieval import Collection, measure, ndcg, read_collection
from coe.eval.live.task import load_task
from coe.eval.recorded.folds import cross_folds
from coe.eval.recorded.report import all_rows, figures
from coe.eval.recorded.study import Plan, Study
from coe.eval.report import plots
from coe.eval.report.live import swap_curve, write_live_report
from coe.eval.report.recorded import write_recorded_report
from coe.eval.report.tables import markdown
from coe.outcomes.outcome_set import read_outcomes


def finished_run(folder: Path, scores: Sequence[float], *, swaps: float = 3, task: str = "own") -> Path:
    """A run's folder as `coe eval run` leaves it."""
    folder.mkdir()
    journal = Journal(folder / "journal.jsonl")
    journal.begin({"task": task}, at=0.0)
    journal.measure(10, at=1.0)
    journal.measure(10 + swaps, at=5.0)
    journal.close()
    (folder / "records.jsonl").write_text(
        "".join(json.dumps(record(number, score)) + "\n" for number, score in enumerate(scores))
    )
    summary = {
        "task": task, "version": 1, "model": "coe", "mode": "x", "wanted": len(scores),
        "questions": len(scores), "accuracy": sum(scores) / len(scores), "low": 0.0, "high": 1.0,
        "unparsed": 0.0, "failed": 0, "asked_again": 0, "prompt_tokens": 1, "completion_tokens": 1,
        "cost_usd": 0.5, "mean_experts": 1.0, "p50_latency_ms": 1.0, "p99_latency_ms": 1.0, "seconds": 4.0,
        "sessions": 1, "swaps": swaps, "swap_ms": 0.0,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def record(number: int, score: float) -> dict[str, Any]:
    return {
        "id": f"q{number}", "category": "ab"[number % 2], "gold": "x", "question": "?", "prompt": "?",
        "prompt_hash": "p", "experts": ["one"], "answers": ["x"], "scores": [score], "outputs": ["x"],
        "output_hashes": ["h"], "answer": "x" if score else "y", "score": score, "prompt_tokens": 1,
        "completion_tokens": 1, "cost_usd": 0.1, "latency_ms": 5.0, "calls": 1, "asked": 1, "error": None,
        "receipts": [{"confidence": 0.7}],
    }  # fmt: skip


def test_runs_are_compared_on_the_questions_that_they_share(tmp_path: Path) -> None:
    a = finished_run(tmp_path / "a", [1.0] * 8 + [0.0] * 2, swaps=3)
    b = finished_run(tmp_path / "b", [0.0] * 4 + [1.0] * 5, swaps=9)
    found = compare(a, b)
    assert found.questions == 9
    assert (found.test.only_a, found.test.only_b) == (4, 1)
    assert found.difference.mean == pytest.approx(3 / 9)
    assert found.swaps_saved == 6
    assert found.identical == 4
    assert found.identical_outputs == 9
    assert any("A saves 6" in line for line in comparison_lines(found))


def test_runs_of_different_tasks_are_not_compared(tmp_path: Path) -> None:
    a, b = finished_run(tmp_path / "a", [1.0]), finished_run(tmp_path / "b", [1.0], task="gsm8k")
    with pytest.raises(ConfigError, match="nothing to pair"):
        compare(a, b)
    result = CliRunner().invoke(main, ["eval", "compare", str(a), str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "holds no summary.json" in result.output


@pytest.mark.slow
def test_a_live_run_has_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    folder, page = finished_run(tmp_path / "a", [1.0, 0.0, 1.0]), tmp_path / "page.html"
    write_live_report(folder, page)
    text = page.read_text()
    assert text.count("data:image/png;base64,") >= 5  # accuracy, routes, cost, calibration, swaps, latency
    assert "http" not in text.replace("https://", "http://").replace("http-equiv", "")
    assert "3 swaps in 4 s" in text


def test_swaps_of_sessions_add_up_without_the_time_between() -> None:
    meters = [Meter(1, 5, 100), Meter(1, 8, 110), Meter(2, 0, 500), Meter(2, 4, 506)]
    assert swap_curve(meters) == ([0, 10, 10, 16], [0, 3, 3, 7])


def outcome_set(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet as parquet

    rng = np.random.default_rng(0)
    questions = [
        {"question_id": str(n), "question": f"What about {'law' if n % 2 else 'sums'} {n}?",
         "category": "law" if n % 2 else "sums", "split": "dev", "prompt_tokens": 10}
        for n in range(60)
    ]  # fmt: skip
    outcomes = [
        {"question_id": str(n), "expert": expert, "output_tokens": 5,
         "score": float(rng.random() < (0.8 if (expert == "lawyer") == bool(n % 2) else 0.3))}
        for n in range(60) for expert in ("lawyer", "adder")
    ]  # fmt: skip
    folder.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(questions), folder / "questions.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(outcomes), folder / "outcomes.parquet")
    (folder / "experts.csv").write_text(
        "expert,input_usd_per_mtok,output_usd_per_mtok\nlawyer,1,2\nadder,2,4\n"
    )
    return folder


@pytest.mark.slow
def test_a_recorded_run_has_a_page_with_curves_routes_and_attribution(
    tmp_path: Path,
) -> None:
    outcomes = read_outcomes(outcome_set(tmp_path / "set"))
    vectors = np.asarray([[n % 2, 1 - n % 2] for n in range(60)], dtype=np.float32)
    plan = Plan(cross_folds(outcomes.questions, 2, 0), ("static", "knn", "cascade"), (), (1, 2))
    study = Study(outcomes, vectors, plan)
    document = figures(study, list(all_rows(study)), 1.0)
    write_recorded_report(document, study, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("data:image/png;base64,") == 6
    for word in ("routing missed", "AIQ", "lawyer", "best single"):
        assert word in text


def test_a_page_shows_every_text_as_it_is(tmp_path: Path) -> None:
    nasty = """<script>alert("1")</script>' & {{ title }}"""
    page = Page(nasty)
    page.heading(nasty)
    page.text(nasty)
    page.table([nasty], [[nasty], [None], [0.5]])
    page.plot(b"png", nasty)
    page.write(tmp_path / "new" / "page.html")

    seen = Seen()
    seen.feed((tmp_path / "new" / "page.html").read_text())
    assert seen.texts.count(nasty) == 7  # twice the title, heading, text, head, cell, and below the plot
    assert seen.attributes["alt"] == nasty
    assert seen.texts[-3:-1] == ["-", "0.500"]
    assert "script" not in seen.tags


class Seen(HTMLParser):
    """What a browser reads."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: dict[str, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= dict(attrs)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)


def test_a_heat_map_of_two_experts_has_room_for_their_names() -> None:
    names = ("Meta-Llama-3.1-8B-Instruct", "DeepSeek-R1-Distill-Qwen-7B-nothinking")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where the labels leave no room for the cells
        png = plots.heat_map(names, names, np.asarray([[np.nan, 0.3], [0.2, np.nan]]), "row beats column")
    width, height = struct.unpack(">II", png[16:24])
    assert width > 110 * 0.06 * len(names[1]) + 200, "the longest name beside the cells"
    assert height > 110 * 0.05 * len(names[1]) + 66, "and, slanted, below them"


def test_tables_say_nothing_where_nothing_is_known() -> None:
    assert cell(None) == cell(float("nan")) == "-"
    assert markdown(["a|b"], [["x|y"]]).splitlines()[-1] == "| x\\|y |"


def test_ndcg_is_that_of_trec_eval() -> None:
    assert ndcg(["a", "b"], {"a": 1}) == 1.0
    assert ndcg(["b", "a"], {"a": 1}) == pytest.approx(1 / np.log2(3))
    assert ndcg(["a", "b"], {"a": 1, "b": 2}) == pytest.approx((1 + 2 / np.log2(3)) / (2 + 1 / np.log2(3)))
    assert ndcg(["x"] * 10 + ["a"], {"a": 1}) == 0.0


def test_retrieval_searches_exactly_and_leaves_out_the_query_itself() -> None:
    vectors = {"one": [1.0, 0.0], "two": [0.0, 1.0], "almost two": [0.1, 0.9]}

    async def encode(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.asarray([vectors[text] for text in texts], dtype=np.float32)

    collection = Collection(
        {"d1": "one", "d2": "two", "q2": "almost two"},
        {"q1": "one", "q2": "almost two"},
        {"q1": {"d1": 1}, "q2": {"d2": 1}},
    )
    assert asyncio.run(measure(collection, encode)) == {"q1": 1.0, "q2": 1.0}


def test_collections_are_read_in_beirs_layout(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "title": "T", "text": "x"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "?"}\n{"_id": "q2", "text": "?"}\n')
    judged = tmp_path / "qrels" / "test.tsv"
    judged.write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td1\t0\n")
    found = read_collection(load_task("arguana"), str(tmp_path))
    assert (found.documents, found.relevant) == ({"d1": "T x"}, {"q1": {"d1": 2}})
    judged.write_text("query-id\tcorpus-id\tscore\nq9\td1\t1\n")
    with pytest.raises(ConfigError, match="q9"):
        read_collection(load_task("arguana"), str(tmp_path))


def test_a_profile_that_knows_the_test_is_told(tmp_path: Path) -> None:
    profile, run = outcome_set(tmp_path / "set"), finished_run(tmp_path / "run", [1.0])
    words = ["eval", "contamination", str(profile)]
    assert CliRunner().invoke(main, [*words, str(run)]).exit_code == 0
    found = CliRunner().invoke(main, [*words, str(profile)])
    assert found.exit_code == 1
    assert "60 of 60 test questions" in found.output


def test_tables_name_their_commands_once(tmp_path: Path) -> None:
    assert len({table.name for table in TABLES}) == len(TABLES)
    docs = Path(__file__).parents[1] / "docs"
    assert [table.page for table in TABLES if not (docs / table.page).is_file()] == []
    assert [table.program for table in TABLES if importlib.util.find_spec(table.program) is None] == []
    command = next(t for t in TABLES if t.name == "pool-b").command(Path("data"), Path("out"))
    assert command[:4] == ["coe.cli", "eval", "recorded", "--outcomes"]
    assert command[4] == "data/outcomes/mmlu_pro"
    assert command[-2:] == ["--json", "out/pool-b.json"]
    result = CliRunner().invoke(make_tables, ["--data", str(tmp_path), "--only", "pool-x"])
    assert result.exit_code == 1
    assert "pool-b" in result.output


def test_tables_are_made_anew_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Table("toy", "evaluation.md", "platform", ("--terse",))
    monkeypatch.setattr(
        "benchmarks.reproduce.TABLES", (toy, replace(toy, name="broken", program="no_such_module"))
    )
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "0.json").write_text("what other code found")
    words = ["--data", str(tmp_path), "--out", str(tmp_path), "--jobs", "1"]
    made = CliRunner().invoke(make_tables, [*words, "--only", "toy"])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "toy.md").read_text() in made.output
    assert not (tmp_path / "toy").exists()
    failed = CliRunner().invoke(make_tables, words)
    assert failed.exit_code == 1
    assert "the table broken could not be made" in failed.output


def test_extraction_is_compared_on_the_command_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["eval", "extraction", "--outcomes", str(tmp_path)])
    assert result.exit_code == 2
    assert "questions.parquet" in result.output
