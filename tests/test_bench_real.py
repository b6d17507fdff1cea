"""The benchmark on real experts: what it does without an engine."""

from __future__ import annotations

import pytest

from coe.registry.models import Registry
from eval.bench.real import SAMPLE, Costs, Load, predict, recorded_load, slots_registry

REGISTRY = Registry.model_validate(
    {
        "pool": {"hosts": [{"id": "slot", "device": "cpu", "dtype": "float32"}], "min_residency_s": 0},
        "experts": [{"id": name, "host": "slot", "model": name, "parameters_b": 0.1} for name in "abcd"],
    }
)


def test_experts_are_dealt_out_over_the_slots() -> None:
    dealt = slots_registry(REGISTRY, 2, "fcfs-lru")
    assert [expert.host for expert in dealt.experts] == ["slot-0", "slot-1", "slot-0", "slot-1"]
    assert dealt.pool.policy == "fcfs-lru"


def test_a_run_is_predicted_with_the_measured_costs() -> None:
    load = Load((0.0, 10.0, 20.0), ("a", "a", "b"), (10, 20, 10))
    latencies, loads = predict(slots_registry(REGISTRY, 1, "coe"), load, Costs(0.5, 0.1, 0.8, 2.0))
    assert latencies == pytest.approx([2.0 + 1.5, 2.5, 2.0 + 1.5])
    assert loads == 2


def test_the_recorded_answers_are_cut_to_what_a_cpu_serves() -> None:
    load = recorded_load(SAMPLE, 50, ("a", "b"), seed=0)
    assert len(load.arrivals) == len(load.experts) == len(load.tokens) == 50
    assert min(load.tokens) >= 4
    assert max(load.tokens) <= 32
