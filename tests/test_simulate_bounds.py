"""No policy beats a bound, and the exact optimum is one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import permutations

import pytest

from coe.simulate.baselines import POLICIES, make_policy
from coe.simulate.bounds import lower_bounds
from coe.simulate.cluster import Cluster, slots_cluster
from coe.simulate.driver import Simulation
from coe.simulate.exact import solve_exact
from coe.simulate.hardware import PRESETS
from coe.simulate.metrics import Row, measure
from coe.simulate.workload import Workload

H100 = PRESETS["h100"]
WAKE, SLEEP = H100.wake_s(13.5), H100.sleep_s(13.5)
ROUNDING_S = 0.02
"""The exact solver rounds down to milliseconds, in each step of a chain."""


def instance(seed: int, requests: int, experts: int, rate: float) -> Workload:
    rng = random.Random(seed)
    names = [f"e{i}" for i in range(experts)]
    arrivals = [0.0]
    while len(arrivals) < requests:
        arrivals.append(arrivals[-1] + rng.expovariate(rate))
    drawn = tuple(rng.choice(names) for _ in arrivals)
    return Workload(tuple(arrivals), drawn, tuple(0.1 + rng.expovariate(1.0) for _ in arrivals))


def cluster_for(experts: int, slots: int, batch: int = 16) -> Cluster:
    return slots_cluster([f"e{i}" for i in range(experts)], slots, H100, batch)


def simulate(policy: str, load: Workload, cluster: Cluster) -> Row:
    chosen = make_policy(cluster.pool.model_copy(update={"policy": policy}))
    return measure(policy, Simulation(cluster, load, chosen).run(), load, cluster, 20.0)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("batch", [1, 16])
def test_no_policy_beats_a_lower_bound(policy: str, seed: int, batch: int) -> None:
    for rate, slots, experts in ((0.2, 1, 3), (2.0, 2, 8), (10.0, 3, 12)):
        load, cluster = instance(seed, 150, experts, rate), cluster_for(experts, slots, batch)
        row, bounds = simulate(policy, load, cluster), lower_bounds(load, cluster)
        if row.rejected:
            continue
        assert row.mean is not None
        assert row.max_wait is not None
        assert row.mean >= max(bounds.lb1, bounds.lb3) - 1e-9
        assert row.max_wait >= bounds.lb4 - 1e-9
        assert bounds.lb2 * load.span_s <= slots * row.span_s + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("slots", "batch"), [(1, 1), (1, 16), (2, 16)])
def test_no_policy_beats_the_exact_optimum(policy: str, seed: int, slots: int, batch: int) -> None:
    load, cluster = instance(seed, 8, 3, 1.0), cluster_for(3, slots, batch)
    row, exact = simulate(policy, load, cluster), solve_exact(load, cluster, 20.0)
    assert exact.status == "optimal"
    assert exact.mean is not None
    assert row.mean is not None
    assert row.rejected or row.mean >= exact.mean - ROUNDING_S
    assert exact.mean >= lower_bounds(load, cluster).lb1 - ROUNDING_S


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_optimum_is_that_of_trying_every_order(seed: int) -> None:
    load, cluster = instance(seed, 6, 3, 1.0), cluster_for(3, 1, batch=1)
    best = min(mean_in_order(order, load) for order in fair_orders(load))
    assert solve_exact(load, cluster, 20.0).mean == pytest.approx(best, abs=ROUNDING_S)


def fair_orders(load: Workload) -> Iterator[tuple[int, ...]]:
    """Orders that keep each expert's requests in order of arrival."""
    for order in permutations(range(len(load))):
        places = {request: place for place, request in enumerate(order)}
        if all(
            places[a] < places[b]
            for a in places
            for b in places
            if a < b and load.experts[a] == load.experts[b]
        ):
            yield order


def mean_in_order(order: tuple[int, ...], load: Workload) -> float:
    first = {e: load.arrivals[load.experts.index(e)] + WAKE for e in set(load.experts)}
    now, resident, total = 0.0, None, 0.0
    for request in order:
        expert = load.experts[request]
        swap = SLEEP + WAKE if resident not in (None, expert) else 0.0
        now = max(now + swap, load.arrivals[request], first[expert]) + load.work[request]
        resident, total = expert, total + now - load.arrivals[request]
    return total / len(order)


def test_a_known_mean_does_not_change_the_optimum() -> None:
    load, cluster = instance(1, 8, 3, 1.0), cluster_for(3, 2)
    mean = simulate("coe", load, cluster).mean
    assert solve_exact(load, cluster, 20.0, mean).mean == solve_exact(load, cluster, 20.0).mean


def test_large_instances_have_no_exact_optimum() -> None:
    assert solve_exact(instance(0, 41, 3, 1.0), cluster_for(3, 1), 1.0).status == "too large"
    assert solve_exact(instance(0, 10, 3, 1.0), cluster_for(3, 3), 1.0).status == "too large"
    assert solve_exact(instance(0, 10, 3, 1.0), cluster_for(3, 1), 0.0).status == "off"


def test_what_is_not_proved_is_not_called_exact() -> None:
    exact = solve_exact(instance(0, 30, 5, 2.0), cluster_for(5, 2), 0.01)
    assert (exact.status, exact.mean) == ("not proved", None)


def test_bounds_of_a_case_that_can_be_worked_out() -> None:
    """Two experts take turns on one slot, 1 s of work each, every 0.5 s."""
    count = 40
    load = Workload(tuple(i * 0.5 for i in range(count)), tuple("ab" * (count // 2)), (1.0,) * count)
    bounds = lower_bounds(load, slots_cluster("ab", 1, H100, 1))
    assert bounds.lb1 == pytest.approx(1.0 + 2 * WAKE / count)
    assert bounds.lb2 == pytest.approx((count + 2 * WAKE) / load.span_s)
    assert bounds.lb3 == pytest.approx(sum(1 + i * 0.5 for i in range(count)) / count)
    assert bounds.lb4 == pytest.approx(count + 2 * WAKE - load.span_s - 1.0)


def test_sparse_requests_for_many_experts_cannot_all_stay() -> None:
    """Work is nothing, yet one slot cannot hold ten experts that are each asked for every two seconds."""
    load = Workload(tuple(i * 0.2 for i in range(500)), tuple(f"e{i % 10}" for i in range(500)), (0.0,) * 500)
    assert lower_bounds(load, cluster_for(10, 1)).lb4 > 1.0
    assert lower_bounds(load, cluster_for(10, 10)).lb4 < WAKE + 1e-9


def test_hosts_that_share_nothing_are_bounded_apart() -> None:
    from dataclasses import replace

    both = slots_cluster("ab", 2, H100, 1)
    plans = tuple(replace(p, hosts=(f"slot-{i}",)) for i, p in enumerate(both.plan.experts))
    apart = replace(both, plan=replace(both.plan, experts=plans))
    load = Workload(tuple(i * 0.5 for i in range(20)), ("a",) * 20, (1.0,) * 20)
    assert lower_bounds(load, apart).lb4 > lower_bounds(load, both).lb4
