"""The benchmark on real experts: what it does without an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.real import SAMPLE, Costs, Load, predict, recorded_load
from benchmarks.real_pools import adapters_registry, serves_adapters, slots_registry
from coe.registry.schema import Registry
from coe.simulate.cluster import registry_cluster
from coe.simulate.hardware import find_preset

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


def test_a_pool_of_many_adapters_repeats_the_real_ones(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (folder := tmp_path / "models" / "adapters" / name).mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
    base = REGISTRY.experts[0].model_copy(update={"model": "models/base", "general": True})
    pool = adapters_registry(REGISTRY.model_copy(update={"experts": (base,)}), tmp_path, 5, 2, "coe")
    assert [expert.adapter for expert in pool.experts[:3]] == [f"models/adapters/{n}" for n in "xyx"]
    assert len({expert.id for expert in pool.experts}) == 6, "the base is an expert, too"
    assert serves_adapters(pool)
    assert registry_cluster(pool, find_preset("cpu")).swapping_hosts == 1


def test_without_adapters_the_pool_of_adapters_says_what_to_do(tmp_path: Path) -> None:
    base = REGISTRY.experts[0].model_copy(update={"general": True})
    with pytest.raises(FileNotFoundError, match="make experts"):
        adapters_registry(REGISTRY.model_copy(update={"experts": (base,)}), tmp_path, 5, 2, "coe")
