"""The scheduling benchmark on the shipped sample: every target is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.bench.scheduling import main
from eval.bench.scheduling_report import half_width


def test_every_target_is_printed_beside_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COE_DATA", raising=False)
    monkeypatch.setattr("eval.bench.scheduling_report.exact_ratios", lambda: [1.1, 1.3])
    monkeypatch.setattr("eval.bench.scheduling_report.decision_cost_us", lambda: 50.0)
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
    assert "free switching" in capsys.readouterr().out


def test_the_interval_of_five_seeds_is_students() -> None:
    assert half_width([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1.966, abs=0.01)
