"""The scheduling benchmark on the shipped sample: every target is answered."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks.scheduling import Results, main
from benchmarks.scheduling_headroom import latencies
from benchmarks.scheduling_optimum import SLO_S, Optimum, most_in_time, small_instances
from benchmarks.scheduling_report import half_width, rows_as_json
from coe.simulate.cluster import slots_cluster
from coe.simulate.hardware import find_preset
from coe.simulate.metrics import Row
from coe.simulate.runs import run_policy
from coe.simulate.workload import Workload, default_experts


@pytest.mark.slow
def test_every_target_is_printed_beside_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COE_DATA", raising=False)
    monkeypatch.setattr("benchmarks.scheduling_report.exact_ratios", lambda: [1.1, 1.3])
    monkeypatch.setattr(
        "benchmarks.scheduling_report.goodput_beside_the_optimum", lambda: Optimum(1, 0.7, 0.6, 0.8)
    )
    out = tmp_path / "out.json"
    policies = "coe,coe[-frames],fcfs-lru,collating-fifo,group-online"
    assert main(["--quick", "--policies", policies, "--json", str(out)]) == 0
    read = json.loads(out.read_text(encoding="utf-8"))
    found = {target["target"] for target in read["targets"]}
    assert any("collating FIFO" in target for target in found)
    assert any("3x FCFS+LRU" in target for target in found)
    assert any("exact optimum" in target for target in found)
    ablated = [row["load"] for row in read["rows"] if row["policy"] == "coe[-frames]"]
    assert ablated == pytest.approx([0.9])
    printed = capsys.readouterr().out
    assert "free switching" in printed
    assert "optimum 0.800: 50% of the gap" in printed


def test_rows_of_an_earlier_run_stand_beside_those_of_a_later_one() -> None:
    def row(policy: str, goodput: float) -> Row:
        return Row(policy, 0.9, goodput, *[1.0] * 7, 2, 10, 0, *[1.0] * 4)

    key = ("sample", "zipf", 0)
    earlier = Results({key: [row("fcfs-lru", 0.1), row("coe", 0.2)]}, {key: {"fcfs-lru": 0.5}})
    later = Results({key: [row("coe", 0.7)]}, {key: {"coe": 0.8}})
    later.add(json.loads(json.dumps(rows_as_json(earlier))))
    assert [(r.policy, r.goodput) for r in later.rows[key]] == [("coe", 0.7), ("fcfs-lru", 0.1)]
    assert later.sustained[key] == {"fcfs-lru": 0.5, "coe": 0.8}


@pytest.mark.slow
def test_no_policy_has_more_in_time_than_the_optimum() -> None:
    workload, cluster = next(iter(small_instances(1)))
    best = most_in_time(workload, cluster, SLO_S, limit_s=20.0)
    assert best is not None
    for policy in ("coe", "collating-fifo", "group-online"):
        assert run_policy(policy, cluster, workload, SLO_S).goodput * len(workload) <= best


def test_the_optimum_of_two_that_exclude_each_other_is_one() -> None:
    """Both arrive at once, for two experts, and a swap takes longer than the SLO leaves."""
    _, cluster = next(iter(small_instances(1)))
    both = Workload((0.0, 0.0), ("expert-0", "expert-1"), (4.0, 1.0))
    assert most_in_time(both, cluster, SLO_S, limit_s=5.0) == 1
    short = Workload((0.0, 0.0), ("expert-0", "expert-1"), (1.0, 1.0))
    assert most_in_time(short, cluster, SLO_S, limit_s=5.0) == 2


def test_the_interval_of_five_seeds_is_students() -> None:
    assert half_width([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1.966, abs=0.01)


def test_the_look_ahead_without_knowledge_is_the_policy_and_with_it_all_requests_end_too() -> None:
    drawn = random.Random(5)
    count, experts = 120, default_experts(6)
    arrivals = sorted(drawn.uniform(0.0, 60.0) for _ in range(count))
    chosen = tuple(drawn.choices(experts, weights=(6, 3, 2, 2, 1, 1), k=count))
    workload = Workload(tuple(arrivals), chosen, tuple(drawn.expovariate(0.5) for _ in range(count)))
    cluster = slots_cluster(experts, 2, find_preset("h100"), max_batch=2).with_slo(20.0)
    alone = latencies(workload, cluster, 20.0, "nothing")
    ours = run_policy("coe", cluster, workload, 20.0)
    assert sum(alone) / count == pytest.approx(ours.mean)
    assert sum(latency <= 20.0 for latency in alone) / count == ours.goodput
    for knows in ("queue", "future"):
        assert len(latencies(workload, cluster, 20.0, knows)) == count
