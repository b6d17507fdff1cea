"""The regression gate: who may be routed to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from coe.onboarding.gate import ProfileGate
from coe.onboarding.profiler import Probes, profile_recorded
from coe.profiles.gate import compare
from coe.registry.schema import Registry
from coe.routers.knn import KnnEstimator
from coe.routers.learning.evidence import Evidence
from tests.support.profiles import data, known_and_newcomer, registry_of


def evidence_with(newcomer: np.ndarray, count: int = 600) -> Evidence:
    made = data(count)
    known = made.evidence(["lawyer", "counter", "all-round"])
    scores = np.column_stack([known.scores, newcomer]).astype(np.float32)
    return Evidence(
        **{
            **vars(known),
            "experts": (*known.experts, "newcomer"),
            "scores": scores,
            "counts": np.ones_like(scores),
        }
    )


def test_gate_admits_an_expert_that_helps() -> None:
    _, truth = known_and_newcomer()
    found = compare(evidence_with(truth), "newcomer", KnnEstimator)
    assert found.faults == ()
    assert found.categories["biology"].mean > 0.05


def test_gate_refuses_an_expert_whose_estimate_promises_what_answers_do_not_hold() -> None:
    promised = np.full(600, 0.95)
    asked = np.arange(0, 600, 2)
    promised[asked] = 0.0  # every second question it was asked, and failed
    evidence = evidence_with(promised)
    evidence.counts[:, -1] = 0.05
    evidence.counts[asked, -1] = 1
    boastful = compare(evidence, "newcomer", lambda: _Boast("newcomer"))
    assert boastful.faults
    assert "overall" in boastful.faults[0]


class _Boast:
    """An estimator that sends everything to one expert when it is there."""

    def __init__(self, favourite: str) -> None:
        self.favourite = favourite

    def fit(self, evidence: Evidence) -> _Boast:
        self.experts_ = evidence.experts
        return self

    def estimate(self, texts: object, vectors: np.ndarray) -> np.ndarray:
        row = [1.0 if expert == self.favourite else 0.5 for expert in self.experts_]
        return np.tile(np.asarray(row, dtype=np.float32), (len(vectors), 1))


def test_gate_of_a_registry_reports_and_admits(tmp_path: Path) -> None:
    registry = registry_of("lawyer", "counter", "newcomer")
    profile_recorded(registry, tmp_path, registry.experts[2], data(), Probes(60))
    report = ProfileGate(tmp_path).check(registry, "newcomer")
    assert report.admit, report.reasons
    assert "allowed" in report.reasons[-1]


def test_expert_without_profile_is_admitted_unchecked(tmp_path: Path) -> None:
    report = ProfileGate(tmp_path).check(registry_of("lawyer", "counter"), "counter")
    assert report.admit
    assert "unchecked" in report.reasons[0]


def test_example_registry_names_the_profiles() -> None:
    example = yaml.safe_load((Path(__file__).parents[1] / "docs" / "experts.example.yaml").read_text())
    assert example["profiles"] == list(Registry.model_fields["profiles"].default)
