"""Traces: what is read, what is recognised, and what is refused with file and line."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from coe.simulate.errors import SimulationError, TraceError
from coe.simulate.synthetic import synthetic_trace, zipf_labels
from coe.simulate.trace import Trace, read_trace
from coe.simulate.workload import labels_of, parse_assignment

SAMPLE = Path(__file__).parent / "data" / "azure_conv_sample.csv"
TRACES = Path(os.environ.get("COE_DATA", "/nonexistent")) / "traces"

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:17:03.9799600,4808,10\r
2023-11-16 18:17:04.2299600,110,27\r
"""
MOONCAKE = (
    '{"timestamp": 1000, "input_length": 6758, "output_length": 500, "hash_ids": [0], "model": "b"}\n'
    '{"timestamp": 500, "input_length": 7322, "output_length": 490, "hash_ids": [1], "model": "a"}\n'
)
PLAIN = "t,expert,input_tokens,output_tokens,service_seconds\n5,law,10,20,\n4.5,maths,,,1.5\n"


def written(folder: Path, text: str, name: str = "trace") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_azure_rows_start_at_zero_and_keep_fractions_of_seconds(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, AZURE))
    assert trace.format == "azure"
    assert [row.t for row in trace.rows] == [0.0, pytest.approx(0.25, abs=1e-6)]
    assert (trace.rows[0].input_tokens, trace.rows[0].output_tokens) == (4808, 10)
    assert not trace.labelled


def test_mooncake_is_sorted_and_in_milliseconds(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, MOONCAKE), column="model")
    assert (trace.format, trace.labelled) == ("mooncake", True)
    assert [(row.t, row.label) for row in trace.rows] == [(0.0, "a"), (0.5, "b")]


def test_plain_csv_has_optional_columns_and_names_its_experts(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, PLAIN))
    assert (trace.format, trace.labelled) == ("csv", True)
    first, second = trace.rows
    assert (first.t, first.label, first.service_s, first.input_tokens) == (0.0, "maths", 1.5, None)
    assert (second.t, second.label, second.service_s, second.output_tokens) == (0.5, "law", None, 20)


def test_plain_csv_without_header_has_the_pinned_order(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "0,law,10,20,1\n2,maths\n"))
    assert [(row.t, row.label, row.line) for row in trace.rows] == [(0, "law", 1), (2, "maths", 2)]


def test_any_column_can_name_the_experts(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens,Tenant\n2023-11-16 18:17:03,1,2,blue\n"
    assert labels_of(read_trace(written(tmp_path, text), column="Tenant")) == ("blue",)


def test_experts_of_a_trace_come_most_popular_first(tmp_path: Path) -> None:
    assert labels_of(read_trace(written(tmp_path, "t,expert\n0,b\n1,a\n2,c\n3,c\n"))) == ("c", "a", "b")


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,x,2\n",
            None,
            ":2: ContextTokens is 'x'",
        ),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", None, ":2: TIMESTAMP is 'yesterday'"),
        ("t,expert,service_seconds\n0,a,1\n1,a,-3\n", None, ":3: service_seconds is '-3'"),
        ("t,expert\n0,a\nnan,a\n", None, ":3: t is 'nan'"),
        ("t,expert\n0,a\n1,\n", None, ":3: column 'expert' is empty"),
        ("t,expert\n0,a\n", "tenant", ":1: no column 'tenant'"),
        ('{"timestamp": 1, "input_length": 2, "output_length": 3}\n{"timestamp": 1\n', None, ":2: not JSON"),
        ('{"timestamp": 1, "input_length": 2}\n', None, ":1: output_length is None"),
        ('{"timestamp": true, "input_length": 2, "output_length": 3}\n', None, ":1: timestamp is True"),
        ('{"timestamp": 1, "input_length": 2, "output_length": 3}\n', "model", ":1: no 'model'"),
        ("when;who\n1;2\n", None, ":1: not a known trace format"),
        ("t,expert\n", None, "no requests"),
        ("", None, "not a known trace format"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(
    tmp_path: Path, text: str, column: str | None, said: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TraceError, match="trace") as caught:
        read_trace(path, column=column)
    assert said in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path / "nowhere.csv")


def test_the_format_can_be_forced(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="not JSON"):
        read_trace(written(tmp_path, AZURE), "mooncake")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["poisson", "bursty", "diurnal"])
def test_synthetic_traces_repeat_by_seed_and_keep_their_rate(kind: str) -> None:
    text = f"synthetic:{kind}:n=20000,rate=2,period=500"
    trace = synthetic_trace(text, seed=7)
    assert trace == synthetic_trace(text, seed=7)
    assert trace.rows != synthetic_trace(text, seed=8).rows
    assert len(trace.rows) == 20_000
    assert trace.span_s == pytest.approx(10_000, rel=0.1)


def test_bursty_arrivals_vary_more_than_poisson() -> None:
    def variation(kind: str) -> float:
        rows = synthetic_trace(f"synthetic:{kind}:n=20000,rate=1", 0).rows
        gaps = [b.t - a.t for a, b in pairwise(rows)]
        mean = sum(gaps) / len(gaps)
        return (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean

    assert variation("poisson") == pytest.approx(1.0, rel=0.05)
    assert variation("bursty") == pytest.approx(4.0, rel=0.2)


def test_diurnal_arrivals_swing_with_the_period() -> None:
    rows = synthetic_trace("synthetic:diurnal:n=20000,rate=2,period=1000,depth=0.8", 0).rows
    rising = sum(row.t % 1000 < 500 for row in rows)
    assert rising / len(rows) == pytest.approx(0.5 + 0.8 / 3.1416, abs=0.03)


def test_synthetic_service_replaces_tokens() -> None:
    rows = synthetic_trace("synthetic:poisson:n=5000,service=3", 0).rows
    assert sum(row.service_s or 0 for row in rows) / len(rows) == pytest.approx(3, rel=0.1)
    assert rows[0].input_tokens is None


@pytest.mark.parametrize(
    "text",
    ["synthetic:poison", "synthetic:poisson:rat=1", "synthetic:poisson:rate=fast", "synthetic:poisson:n=0"],
)
def test_a_bad_synthetic_trace_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(TraceError) as caught:
        synthetic_trace(text, 0)
    assert caught.value.hint


def test_zipf_draws_follow_the_popularity_of_ranks() -> None:
    counts = Counter(zipf_labels(("a", "b", "c"), 30_000, 1.0, seed=1))
    assert counts["a"] / counts["b"] == pytest.approx(2.0, rel=0.05)
    assert counts["a"] / counts["c"] == pytest.approx(3.0, rel=0.07)


@pytest.mark.parametrize("text", ["zipf:x", "zipf:-1", "column:", "popularity"])
def test_a_bad_assignment_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(SimulationError) as caught:
        parse_assignment(text)
    assert caught.value.hint


def test_the_sample_of_the_azure_trace_is_read() -> None:
    trace = read_trace(SAMPLE)
    assert (trace.format, len(trace.rows)) == ("azure", 300)


@pytest.mark.slow
@pytest.mark.skipif(not TRACES.is_dir(), reason="COE_DATA is not set")
@pytest.mark.parametrize("path", sorted(TRACES.glob("*")), ids=lambda path: path.name)
def test_recorded_traces_are_read_whole(path: Path) -> None:
    trace: Trace = read_trace(path)
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = sum(bool(line.strip()) for line in raw.decode().splitlines())
    assert len(trace.rows) == lines - (trace.format != "mooncake")  # the others have a head
    assert all(a.t <= b.t for a, b in pairwise(trace.rows))
