"""Experts of a registry on its hosts: at the start, by hand, and anew while the load changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.cli import main
from coe.placement.assign import hosts_in, managed, place_experts, with_hosts
from coe.placement.rebalance import Observed, Replanner
from coe.placement.solver import Node, PlacedExpert, PlacementProblem, Plan, cost, place
from coe.registry.errors import RegistryError
from coe.registry.schema import Registry
from coe.scheduler.policies import make_policy
from coe.service.registry_file import parse_registry
from coe.simulate.cluster import registry_cluster
from coe.simulate.driver import Simulation
from coe.simulate.hardware import PRESETS
from coe.simulate.replan import Replanning
from coe.simulate.workload import Workload

SLOTS = [{"id": "one"}, {"id": "two"}]


def text(hosts: list[dict[str, Any]], *experts: dict[str, Any], **pool: Any) -> str:
    return json.dumps({"pool": {"hosts": hosts, **pool}, "experts": [{"model": "m", **e} for e in experts]})


def read(hosts: list[dict[str, Any]], *experts: dict[str, Any], **pool: Any) -> Registry:
    return parse_registry(text(hosts, *experts, **pool), Path("experts.yaml"))


def named(*names: str) -> list[dict[str, Any]]:
    return [{"id": name} for name in names]


def where(registry: Registry) -> dict[str, str | None]:
    return {expert.id: expert.host for expert in registry.experts}


# At the start


def test_experts_without_a_host_are_spread_over_the_hosts_and_always_in_the_same_way() -> None:
    first = read(SLOTS, *named("a", "b", "c", "d"))
    assert sorted(map(str, where(first).values())) == ["one", "one", "two", "two"]
    assert where(read(SLOTS, *named("a", "b", "c", "d"))) == where(first)


def test_a_host_that_is_written_stays_and_counts() -> None:
    registry = read(SLOTS, {"id": "a", "host": "one"}, {"id": "b", "host": "one"}, *named("c", "d"))
    assert where(registry) == {"a": "one", "b": "one", "c": "two", "d": "two"}


def test_an_edit_moves_nobody_who_was_placed() -> None:
    before = read(SLOTS, *named("a", "b", "c", "d"))
    edited = text(SLOTS, *named("b", "c", "d", "e", "f"))
    after = where(parse_registry(edited, Path("experts.yaml"), former=where(before)))
    kept = {name: host for name, host in where(before).items() if name != "a"}
    assert after.items() >= kept.items()
    assert set(after) == {"b", "c", "d", "e", "f"}


def test_adapters_go_to_adapter_hosts_and_checkpoints_to_the_others() -> None:
    hosts = [{"id": "slot"}, *({"id": name, "kind": "adapter", "base": "b"} for name in ("x", "y"))]
    registry = read(hosts, *({"id": name, "adapter": "folder"} for name in "ab"), *named("c"))
    assert {where(registry)["a"], where(registry)["b"]} == {"x", "y"}
    assert where(registry)["c"] == "slot"


def test_gigabytes_are_kept_within() -> None:
    hosts = [{"id": name, "swap": "sleep", "memory_gb": gb} for name, gb in (("small", 10), ("big", 40))]
    registry = read(hosts, {"id": "a", "memory_gb": 30}, {"id": "b", "memory_gb": 8})
    assert where(registry) == {"a": "big", "b": "small"}


@pytest.mark.parametrize(
    "hosts",
    [
        [{"id": "one"}, {"id": "two", "swap": "sleep", "memory_gb": 10}],
        [{"id": "api", "kind": "remote", "url": "http://127.0.0.1:1/v1"}],
    ],
)
def test_where_it_is_not_clear_which_host_could_serve_the_file_is_refused(
    hosts: list[dict[str, Any]],
) -> None:
    with pytest.raises(RegistryError, match=r"'a' names no host.*write its host"):
        read(hosts, *named("a"))


# By hand


def test_coe_place_prints_the_plan_for_a_trace(tmp_path: Path) -> None:
    (tmp_path / "experts.yaml").write_text(text(SLOTS, *({"id": e, "host": "one"} for e in "abcd")))
    rows = [f"{i},{e},1.0" for i, e in enumerate("aaaabbbccd")]
    (tmp_path / "trace.csv").write_text("\n".join(["t,expert,service_seconds", *rows]) + "\n")
    common = ["place", "--registry", str(tmp_path / "experts.yaml"), "--trace", str(tmp_path / "trace.csv")]
    fixed = json.loads(CliRunner().invoke(main, [*common, "--json"], catch_exceptions=False).stdout)
    assert [host["load"] for host in fixed["hosts"]] == [1.0]
    free = json.loads(CliRunner().invoke(main, [*common, "--free", "--json"]).stdout)
    assert free["optimal"] is True
    assert [host["load"] for host in free["hosts"]] == [0.5, 0.5]
    assert sorted(host["awake"] for host in free["hosts"]) == [["a"], ["b"]]
    assert free["objective"] == pytest.approx(0.5 + 0.3)  # the busier half, and c and d asleep
    shown = CliRunner().invoke(main, [*common, "--free", "--together", "a+b=1"]).stdout
    assert "no plan costs less" in shown


def test_a_pair_that_is_none_is_explained(tmp_path: Path) -> None:
    (tmp_path / "experts.yaml").write_text(text(SLOTS, *named("a")))
    result = CliRunner().invoke(
        main, ["place", "--registry", str(tmp_path / "experts.yaml"), "--together", "a,b"]
    )
    assert result.exit_code == 2
    assert "code+math=0.2" in result.output


def test_pinned_experts_are_awake_where_the_policy_pins() -> None:
    experts = ({"id": e, "host": "gpu", "memory_gb": 8} for e in "ab")
    hosts = [{"id": "gpu", "swap": "sleep", "memory_gb": 10}]
    registry = read(hosts, *experts, policy="static", pinned=["b"])
    assert place_experts(registry, {"a": 9.0, "b": 1.0}).plan.awake["gpu"] == {"b"}


def test_experts_behind_apis_are_not_placed() -> None:
    hosts = [*SLOTS, {"id": "api", "kind": "remote", "url": "http://127.0.0.1:1/v1"}]
    registry = read(hosts, {"id": "far", "host": "api"}, *named("a"))
    assert list(managed(registry)) == ["a"]
    assert with_hosts(registry) is registry


# Anew

NODES = (Node("n0", 1.0, 9.0), Node("n1", 1.0, 9.0))
NAMES = ("a", "b", "c", "d")
EXPERTS = tuple(PlacedExpert(name, 1.0, 1.0) for name in NAMES)
loads = st.fixed_dictionaries({name: st.floats(0.0, 3.0) for name in NAMES})
moves = st.fixed_dictionaries({name: st.floats(0.0, 200.0) for name in NAMES})
plans = st.tuples(*[st.sampled_from(["n0", "n1"])] * 4).map(
    lambda on: {
        node: frozenset(e for e, n in zip(NAMES, on, strict=True) if n == node) for node in ("n0", "n1")
    }
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(plans, loads, moves)
def test_a_move_gains_more_than_it_costs_keeps_the_budgets_and_is_not_taken_back(
    kept: dict[str, frozenset[str]], load: dict[str, float], move_s: dict[str, float]
) -> None:
    replanner, seen = Replanner(EXPERTS, NODES, horizon_s=100.0), Observed(load, move_s)
    verdict = replanner.judge(Plan(kept, {}), seen)
    assert verdict == replanner.judge(Plan(kept, {}), seen)
    if verdict.plan is None:
        assert not verdict.moved
        return
    assert verdict.gain_s > verdict.moves_s == pytest.approx(sum(move_s[e] for e in verdict.moved))
    for node in NODES:
        assert verdict.plan.awake[node.id] <= verdict.plan.kept[node.id]
        assert len(verdict.plan.awake[node.id]) <= 1
    assert sorted(e for experts in verdict.plan.kept.values() for e in experts) == sorted(NAMES)
    assert replanner.judge(verdict.plan, seen).plan is None


def test_the_gain_is_that_of_the_plans_own_costs() -> None:
    """Two busy experts on one node: apart, the busiest node has half the work and both are awake."""
    replanner = Replanner(EXPERTS[:2], NODES, horizon_s=100.0)
    together = Plan({"n0": frozenset("ab"), "n1": frozenset()}, {})
    verdict = replanner.judge(together, Observed({"a": 0.5, "b": 0.5}, {"a": 10.0, "b": 10.0}))
    assert (verdict.gain_s, verdict.moves_s) == (pytest.approx(100.0 * (1.5 - 0.5)), 10.0)
    assert verdict.plan is not None
    dear = replanner.judge(together, Observed({"a": 0.5, "b": 0.5}, {"a": 120.0, "b": 120.0}))
    assert dear.plan is None
    assert replanner.judge(together, Observed({}, {})).plan is None


def test_in_the_simulator_experts_move_to_where_there_is_room_and_every_request_ends() -> None:
    registry = read(SLOTS, *({"id": e, "host": "one"} for e in "ab"), {"id": "c", "host": "two"})
    cluster = registry_cluster(registry, PRESETS["a100"])
    asked = [(4.0 * i, "ab"[i % 2], 3.0) for i in range(60)]
    arrivals, experts, work = zip(*asked, strict=True)
    workload, policy = Workload(arrivals, experts, work), make_policy(cluster.pool)
    fixed = Simulation(cluster, workload, policy).run()
    moved = Simulation(cluster, workload, make_policy(cluster.pool), Replanning(cluster, 40.0)).run()
    assert (fixed.moves, moved.moves) == (0, 1)
    assert max(moved.finished) < float("inf")
    assert moved.loads < fixed.loads / 2


def test_placed_alone_the_plan_costs_what_it_says() -> None:
    registry = read(SLOTS, *({"id": e, "host": "one"} for e in "abc"))
    placement = place_experts(registry, {"a": 3.0, "b": 2.0, "c": 1.0}, free=True)
    assert sorted(hosts_in(placement.plan)) == ["a", "b", "c"]
    sizes = {"a": 3.0, "b": 2.0, "c": 1.0}
    problem = PlacementProblem(
        tuple(PlacedExpert(e, 1.0, w) for e, w in sizes.items()),
        (Node("one", 1.0, 9.0), Node("two", 1.0, 9.0)),
    )
    assert placement.cost == pytest.approx(cost(problem, placement.plan))
    assert placement.cost == pytest.approx(place(problem).cost)
