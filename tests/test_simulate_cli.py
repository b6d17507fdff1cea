"""``coe simulate`` as a person or a programme uses it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from coe.cli import main
from coe.simulate.baselines import POLICIES

SAMPLE = Path(__file__).parent / "data" / "azure_conv_sample.csv"
TRACES = Path(os.environ.get("COE_DATA", "/nonexistent")) / "traces"
PINNED = (
    "policy", "load", "goodput", "mean", "p50", "p99", "max_wait", "swaps_per_1k", "switching_share",
    "decision_us",
)  # fmt: skip

REGISTRY = """\
pool:
  hosts:
    - {id: slot, device: cpu, dtype: float32}
experts:
  - {id: sums, host: slot, model: models/sums, parameters_b: 0.135}
  - {id: base, host: slot, model: models/base, parameters_b: 0.135, general: true}
"""


def simulate(*words: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *words])


def figures(*words: str) -> dict[str, Any]:
    result = simulate(*words, "--json", "-")
    assert result.exit_code == 0, result.output
    read: dict[str, Any] = json.loads(result.stdout)
    return read


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.csv"
    rows = [f"{i * 0.7},{'ab'[i % 3 == 0]},,,0.5" for i in range(9)]
    path.write_text(
        "t,expert,input_tokens,output_tokens,service_seconds\n" + "\n".join(rows), encoding="utf-8"
    )
    return str(path)


@pytest.mark.slow
def test_json_has_the_pinned_keys_for_every_policy() -> None:
    read = figures("--trace", str(SAMPLE), "--experts", "6", "--slots", "2", "--load", "0.9")
    assert [row["policy"] for row in read["rows"]] == list(POLICIES)
    assert set(read) >= {"rows", "bounds", "meta"}
    assert set(read["bounds"]) == {"lb1", "lb2", "lb3", "lb4", "exact"}
    for row in read["rows"]:
        assert set(PINNED) <= set(row)
        assert row["load"] == pytest.approx(0.9)
        assert 0 <= row["goodput"] <= 1
        assert row["requests"] == 300


def test_a_small_trace_has_an_exact_optimum(small: str) -> None:
    read = figures("--trace", small, "--slots", "1")
    exact = read["bounds"]["exact"]
    assert exact is not None
    assert all(row["mean"] >= exact - 0.002 for row in read["rows"])
    assert read["meta"]["assign"] == "column:expert"
    assert read["meta"]["experts"] == 2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures() -> None:
    words = ("--trace", "synthetic:bursty:n=300,rate=2", "--experts", "20", "--seed", "5")
    first, second = figures(*words), figures(*words)
    for row in (
        *first["rows"],
        *second["rows"],
        *(s["free_switching"] for s in (*first["scenarios"], *second["scenarios"])),
    ):
        row.pop("decision_us")
    assert first == second
    assert figures(*words[:-1], "6")["rows"][0]["mean"] != first["rows"][0]["mean"]


def test_a_table_is_printed_with_bounds_beside_it(small: str) -> None:
    result = simulate("--trace", small, "--slots", "1", "--load-batch", "1")
    assert result.exit_code == 0
    assert "load 0.80, 1 host" in result.stdout
    assert "goodput" in result.stdout
    assert "free switching" in result.stdout
    assert "lb4" in result.stdout
    assert "exact optimum of the mean" in result.stdout


def test_a_sweep_over_loads_has_a_block_for_each() -> None:
    read = figures("--trace", str(SAMPLE), "--experts", "4", "--load", ".3,.6", "--policies", "coe")
    assert [row["load"] for row in read["rows"]] == pytest.approx([0.3, 0.6])
    assert len(read["scenarios"]) == 2
    assert read["bounds"] == read["scenarios"][0]["bounds"]


@pytest.mark.slow
def test_a_sweep_over_slots_keeps_the_arrivals_and_says_how_many_suffice() -> None:
    words = (
        "--trace",
        str(SAMPLE),
        "--experts",
        "4",
        "--load",
        ".8",
        "--slots",
        "1,2,4",
        "--policies",
        "coe",
    )
    assert [row["load"] for row in figures(*words)["rows"]] == pytest.approx([0.8, 0.4, 0.2])
    assert "hosts needed for a goodput of 0.9" in simulate(*words).stdout


@pytest.mark.slow
def test_a_report_is_one_page_with_its_plots_beside_it(tmp_path: Path) -> None:
    page, out = tmp_path / "report.html", tmp_path / "out.json"
    words = (
        "--trace",
        str(SAMPLE),
        "--experts",
        "4",
        "--load",
        ".5,.9",
        "--report",
        str(page),
        "--json",
        str(out),
    )
    result = simulate(*words)
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert "data:image/png;base64," in text
    assert "http" not in text
    assert "azure_conv_sample.csv" in text
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(out.read_text())["rows"]


def test_a_registry_brings_its_hosts_and_experts(tmp_path: Path) -> None:
    registry = tmp_path / "experts.yaml"
    registry.write_text(REGISTRY, encoding="utf-8")
    read = figures("--trace", str(SAMPLE), "--registry", str(registry), "--load", "0.5")
    assert (read["meta"]["experts"], read["meta"]["preset"]) == (2, "cpu")
    assert read["rows"][0]["slots"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--trace", "nowhere.csv"), "cannot be read"),
        (("--trace", str(SAMPLE), "--policies", "co"), "unknown policy kind"),
        (("--trace", str(SAMPLE), "--preset", "h200"), "no hardware preset"),
        (("--trace", str(SAMPLE), "--slots", "two"), "numbers between commas"),
        (("--trace", str(SAMPLE), "--slots", "0"), "1 or more"),
        (("--trace", str(SAMPLE), "--load", "0"), "above 0"),
        (("--trace", str(SAMPLE), "--registry", "experts.yaml", "--slots", "2"), "--registry"),
        (("--trace", str(SAMPLE), "--assign", "column:tenant"), "no column 'tenant'"),
        (("--trace", "synthetic:poisson", "--assign", "column:expert"), "has no columns"),
        ((), "--trace"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_one_line(words: tuple[str, ...], said: str) -> None:
    result = simulate(*words)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_experts_of_the_trace_must_be_in_the_registry(tmp_path: Path, small: str) -> None:
    registry = tmp_path / "experts.yaml"
    registry.write_text(REGISTRY, encoding="utf-8")
    result = simulate("--trace", small, "--registry", str(registry))
    assert result.exit_code == 2
    assert "small.csv:2: no expert 'b'" in result.output


def test_requests_that_all_come_at_once_can_be_simulated_but_not_scaled(tmp_path: Path) -> None:
    path = tmp_path / "wave.csv"
    path.write_text("t,expert,service_seconds\n0,a,1\n0,b,1\n0,a,1\n", encoding="utf-8")
    read = figures("--trace", str(path), "--slots", "1")
    assert read["rows"][0]["load"] is None
    assert simulate("--trace", str(path), "--load", "0.5").exit_code == 2


@pytest.mark.slow
def test_a_thousand_experts_are_an_ordinary_input() -> None:
    read = figures(
        "--trace",
        "synthetic:poisson:n=2000,rate=1,service=1",
        "--experts",
        "1000",
        "--load",
        ".5",
        "--policies",
        "coe",
    )
    assert read["rows"][0]["requests"] == 2_000


@pytest.mark.slow
@pytest.mark.skipif(not TRACES.is_dir(), reason="COE_DATA is not set")
@pytest.mark.parametrize("name", ["AzureLLMInferenceTrace_code.csv", "conversation_trace.jsonl"])
def test_recorded_traces_run_at_every_load(name: str) -> None:
    read = figures("--trace", str(TRACES / name), "--experts", "16", "--load", ".3,1.2", "--policies", "coe")
    low, high = read["rows"]
    assert low["goodput"] >= high["goodput"]
    assert low["mean"] >= read["scenarios"][0]["bounds"]["lb1"]
