"""Copies of a node in virtual time: what the benchmark of autoscaling says must be what the policy does."""

from __future__ import annotations

import math

import pytest

from benchmarks.scaling_simulated import Fleet, Scaling
from coe.simulate.baselines import make_policy
from coe.simulate.cluster import Cluster, slots_cluster
from coe.simulate.driver import Simulation
from coe.simulate.hardware import find_preset
from coe.simulate.workload import Workload

EXPERTS = ("a", "b")


@pytest.fixture
def cluster() -> Cluster:
    return slots_cluster(EXPERTS, 1, find_preset("h100"), max_batch=1)


def steady(count: int, every_s: float, work_s: float = 1.0) -> Workload:
    experts = tuple(EXPERTS[i % 2] for i in range(count))
    return Workload(tuple(i * every_s for i in range(count)), experts, (work_s,) * count)


def test_one_fixed_copy_is_the_simulation_of_one_node(cluster: Cluster) -> None:
    load = steady(40, every_s=2.3)
    alone = Simulation(cluster, load, make_policy(cluster.pool)).run()
    fleet = Fleet(cluster, load, Scaling(1, 1)).run()
    assert fleet.latencies == tuple(e - a for e, a in zip(alone.finished, load.arrivals, strict=True))
    assert (fleet.most, fleet.swaps) == (1, alone.loads + alone.wakes)


@pytest.mark.slow
def test_a_queue_starts_copies_and_all_requests_end(cluster: Cluster) -> None:
    load = steady(600, every_s=0.5)
    one, scaled = (Fleet(cluster, load, Scaling(1, high, start_s=20.0)).run() for high in (1, 4))
    assert scaled.most > 1
    assert all(math.isfinite(latency) for latency in scaled.latencies)
    assert max(scaled.latencies) < max(one.latencies) / 2


def test_copies_that_nobody_needs_leave_after_serves_delay(cluster: Cluster) -> None:
    rush, late = steady(200, every_s=0.5), 4000.0
    load = Workload((*rush.arrivals, late), (*rush.experts, "a"), (*rush.work, 1.0))
    scaled = Fleet(cluster, load, Scaling(1, 4, start_s=20.0)).run()
    assert scaled.most > 1
    assert scaled.copy_s < 1.3 * scaled.span_s


def test_the_first_request_after_none_waits_for_a_start_and_the_copy_goes_again(cluster: Cluster) -> None:
    load = Workload((100.0, 1000.0), ("a", "a"), (1.0, 1.0))
    scaled = Fleet(cluster, load, Scaling(0, 1, start_s=60.0)).run()
    assert all(61.0 < latency < 65.0 for latency in scaled.latencies)
    assert scaled.copy_s < 2 * (60 + 5 + 125)
