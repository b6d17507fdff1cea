"""The machine model and the driver: times that can be worked out by hand."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field, replace

import pytest

from coe.registry.schema import Pool, Registry
from coe.scheduler.policies import HostView, ReplicaView, Rules, Swap
from coe.simulate.baselines import make_policy
from coe.simulate.cluster import Cluster, HostModel, registry_cluster, slots_cluster
from coe.simulate.driver import Outcome, Simulation, StuckError
from coe.simulate.hardware import PRESETS, ModelSize, find_preset
from coe.simulate.machine import HostMachine
from coe.simulate.memory import Ram
from coe.simulate.metrics import measure
from coe.simulate.runs import Pace, named_policy, run_policy
from coe.simulate.workload import Workload

A100 = PRESETS["a100"]
WAKE, SLEEP = A100.wake_s(13.5), A100.sleep_s(13.5)
"""Of a 13.5 GB expert."""


def workload(*requests: tuple[float, str, float]) -> Workload:
    """Of (arrival, expert, work)."""
    arrivals, experts, work = zip(*requests, strict=True)
    return Workload(arrivals, experts, work)


def run(cluster: Cluster, load: Workload) -> Outcome:
    return Simulation(cluster, load, make_policy(cluster.pool)).run()


def one_slot(*experts: str, batch: int = 16) -> Cluster:
    return slots_cluster(experts, 1, A100, batch)


def test_the_first_request_waits_for_its_load_and_then_runs_at_full_speed() -> None:
    outcome = run(one_slot("a"), workload((0, "a", 2.0)))
    assert outcome.granted == [pytest.approx(WAKE)]
    assert outcome.finished == [pytest.approx(WAKE + 2.0)]


def test_a_swap_takes_the_sleep_of_the_old_and_the_wake_of_the_new_expert() -> None:
    outcome = run(one_slot("a", "b"), workload((0, "a", 1.0), (10, "b", 1.0)))
    assert outcome.finished[1] == pytest.approx(10 + SLEEP + WAKE + 1.0)
    assert outcome.loads == 2
    assert outcome.switching_s == pytest.approx(2 * WAKE + SLEEP)


def test_a_batch_of_two_is_slower_for_each_and_faster_together() -> None:
    outcome = run(one_slot("a"), workload((0, "a", 2.0), (0, "a", 2.0)))
    assert outcome.finished == [pytest.approx(WAKE + 2.0 * 2**0.17)] * 2


def test_a_request_that_joins_slows_the_one_that_runs() -> None:
    first = 1.0 + (2.0 - 1.0) * 2**0.17
    outcome = run(one_slot("a"), workload((0, "a", 2.0), (WAKE + 1.0, "a", 5.0)))
    assert outcome.finished[0] == pytest.approx(WAKE + first)
    left = 5.0 - (first - 1.0) / 2**0.17
    assert outcome.finished[1] == pytest.approx(WAKE + first + left)


def test_no_more_than_a_batch_runs_together() -> None:
    outcome = run(one_slot("a", batch=1), workload((0, "a", 1.0), (0, "a", 1.0)))
    assert outcome.finished == [pytest.approx(WAKE + 1.0), pytest.approx(WAKE + 2.0)]


def test_two_slots_serve_two_experts_at_once() -> None:
    outcome = run(slots_cluster(("a", "b"), 2, A100), workload((0, "a", 1.0), (0, "b", 1.0)))
    assert outcome.finished == [pytest.approx(WAKE + 1.0)] * 2
    assert outcome.peak_gb == pytest.approx(27.0)


def test_the_scheduler_learns_what_a_load_takes() -> None:
    """In a registry the prior is one second; what counts is what the hardware takes."""
    outcome = run(one_slot("a"), workload((0, "a", 0.0), (100, "a", 0.0)))
    assert outcome.finished == [pytest.approx(WAKE), 100.0]


def test_free_switching_takes_no_time() -> None:
    cluster = one_slot("a", "b").without_switching_costs()
    outcome = run(cluster, workload((0, "a", 1.0), (2, "b", 1.0), (4, "a", 1.0)))
    assert outcome.finished == [1.0, 3.0, 5.0]
    assert outcome.switching_s == 0.0


def test_runs_are_deterministic() -> None:
    rng = random.Random(3)
    load = workload(*((i * 0.3, rng.choice("abcdef"), rng.expovariate(1)) for i in range(400)))
    first, second = (run(slots_cluster(tuple("abcdef"), 2, A100), load) for _ in range(2))
    assert (first.finished, first.loads, first.steps) == (second.finished, second.loads, second.steps)


def test_batches_share_a_host_like_a_step_by_step_integration() -> None:
    """Random starts on one host against tiny time steps."""
    rng = random.Random(5)
    for sharing in ("by_expert", "one_batch", "none"):
        starts = sorted((rng.uniform(0, 5), rng.choice("ab"), rng.uniform(0.1, 3)) for _ in range(12))
        machine = HostMachine(HostModel("h", "sleep", sharing, 16))  # type: ignore[arg-type]
        ends: dict[int, float] = {}
        for request, (at, expert, work) in enumerate(starts):
            while machine.next_end() <= at:
                end = machine.next_end()
                ends.update(dict.fromkeys(machine.end(end), end))
            machine.start(request, expert, work, at)
        while len(ends) < len(starts):
            end = machine.next_end()
            ends.update(dict.fromkeys(machine.end(end), end))
        expected = integrate(starts, sharing)
        assert [ends[r] for r in range(len(starts))] == pytest.approx(expected, abs=0.02)


def integrate(starts: list[tuple[float, str, float]], sharing: str) -> list[float]:
    step, now = 0.001, 0.0
    left = [work for _, _, work in starts]
    ends = [0.0] * len(starts)
    while any(work > 0 for work in left):
        running = [r for r, (at, _, _) in enumerate(starts) if at <= now and left[r] > 0]
        batches = {starts[r][1] for r in running}
        for r in running:
            mates = [q for q in running if sharing == "one_batch" or starts[q][1] == starts[r][1]]
            speed = 1.0 if sharing == "none" else len(mates) ** -0.17
            speed /= len(batches) if sharing == "by_expert" else 1
            left[r] -= step * speed
            ends[r] = now + step
        now += step
    return ends


def test_experts_that_do_not_fit_into_ram_are_read_from_disk_and_kept() -> None:
    preset = replace(A100, ram_gb=20.0)
    cluster = slots_cluster(("a", "b"), 1, preset)
    disk = preset.disk_s(13.5)
    outcome = run(cluster, workload((0, "a", 0.0), (50, "b", 0.0), (100, "b", 0.0), (150, "a", 0.0)))
    waits = [end - at for end, at in zip(outcome.finished, (0, 50, 100, 150), strict=True)]
    assert waits == pytest.approx([WAKE, max(SLEEP, disk) + WAKE, 0.0, max(SLEEP, disk) + WAKE])


def test_a_prefetch_reads_ahead() -> None:
    ram = Ram(slots_cluster(("a", "b"), 1, replace(A100, ram_gb=14.0)))
    disk = A100.disk_s(13.5)
    assert ram.read("a", 0.0) == 0.0
    assert ram.read("b", 0.0) == pytest.approx(disk)
    assert ram.read("b", 1.0) == pytest.approx(disk - 1.0)
    assert ram.read("b", 100.0) == 0.0
    assert ram.read("a", 100.0) == pytest.approx(disk)


@pytest.mark.parametrize(("policy", "waits_s"), [("coe", 0.0), ("coe[-prefetch]", A100.disk_s(13.5))])
def test_weights_are_read_from_disk_while_another_expert_still_works(policy: str, waits_s: float) -> None:
    cluster = slots_cluster(("a", "b"), 1, replace(A100, ram_gb=14.0))
    load = workload((0.0, "a", 10.0), (1.0, "b", 0.0))
    outcome = Simulation(cluster, load, make_policy(Pool(hosts=(), policy=policy))).run()
    assert outcome.finished[1] == pytest.approx(WAKE + 10.0 + SLEEP + waits_s + WAKE)
    assert outcome.prefetches == (policy == "coe")


def test_sleepers_beyond_the_ram_are_read_from_disk_when_they_wake() -> None:
    gpu = {"id": "gpu", "swap": "sleep", "memory_gb": 20, "max_running": 4, "ram_gb": 17}
    experts = [{"id": e, "host": "gpu", "model": "m", "memory_gb": 14} for e in ("big", "other")]
    registry = {"pool": {"hosts": [gpu]}, "experts": experts}
    cluster = registry_cluster(Registry.model_validate_json(json.dumps(registry)), replace(A100, ram_gb=17.0))
    load = workload((0, "big", 0.0), (100, "other", 0.0), (200, "big", 0.0), (300, "other", 0.0))
    outcome = run(cluster, load)
    assert outcome.ram_peak_gb == 14.0
    disk_s = A100.disk_s(14.0)
    assert outcome.finished[2:] == pytest.approx(
        [200 + A100.sleep_s(14.0) + A100.wake_s(14.0), 300 + A100.sleep_s(14.0) + disk_s + A100.wake_s(14.0)]
    )


REGISTRY = {
    "pool": {
        "hosts": [
            {"id": "gpu", "swap": "sleep", "memory_gb": 20, "max_running": 4},
            {"id": "cpu", "device": "cpu", "dtype": "float32"},
            {"id": "lora", "kind": "adapter", "base": "b", "max_adapters": 1},
            {"id": "api", "kind": "remote", "url": "http://127.0.0.1:9"},
        ]
    },
    "experts": [
        {"id": "big", "host": "gpu", "model": "m", "memory_gb": 16, "parameters_b": 7},
        {"id": "other", "host": "gpu", "model": "m", "memory_gb": 16, "parameters_b": 7},
        {"id": "small", "host": "cpu", "model": "m", "parameters_b": 0.1},
        {"id": "timed", "host": "cpu", "model": "m", "parameters_b": 0.1, "load_s": 0.7},
        {"id": "style", "host": "lora", "model": "m", "adapter": "s"},
        {"id": "far", "host": "api", "model": "m"},
    ],
}


def registered() -> Cluster:
    return registry_cluster(Registry.model_validate_json(json.dumps(REGISTRY)), A100)


def test_a_registry_gives_sizes_and_ways_of_swapping() -> None:
    cluster = registered()
    assert cluster.experts["big"].size == ModelSize(14.0, 7.0)
    assert cluster.experts["small"].size.weights_gb == pytest.approx(0.4)
    assert {host.id: host.swapping for host in cluster.hosts.values()} == {
        "gpu": "sleep", "cpu": "in_place", "lora": "adapter", "api": "none",
    }  # fmt: skip
    assert cluster.swapping_hosts == 3


def test_a_process_per_expert_starts_cold_once_and_wakes_later() -> None:
    load = workload((0, "big", 0.0), (100, "other", 0.0), (200, "big", 0.0))
    outcome = run(registered(), load)
    cold, wake = A100.cold_start_s + A100.wake_s(14.0), A100.wake_s(14.0)
    waits = [end - at for end, at in zip(outcome.finished, load.arrivals, strict=True)]
    assert waits == pytest.approx([cold, A100.sleep_s(14.0) + cold, A100.sleep_s(14.0) + wake])
    assert (outcome.loads, outcome.wakes) == (2, 1)


def test_in_place_swaps_write_nothing_back_and_measured_loads_are_taken() -> None:
    outcome = run(registered(), workload((0, "small", 0.0), (50, "timed", 0.0), (90, "far", 1.0)))
    assert outcome.finished == pytest.approx([A100.wake_s(0.4), 50.7, 91.0])


def test_adapters_load_in_milliseconds() -> None:
    assert run(registered(), workload((0, "style", 1.0))).finished == [pytest.approx(1.026)]


@dataclass(frozen=True)
class _Refusing:
    name: str = "refusing"
    across_hosts: bool = False
    rules: Rules = field(default_factory=Rules)

    def swap(self, view: HostView) -> Swap | None:
        return None

    def grant(self, view: HostView, grantable: list[ReplicaView]) -> None:
        return None

    def frame(self, replica: ReplicaView) -> int:
        return 0

    def wake_at(self, view: HostView) -> float:
        return float("inf")


def test_a_policy_that_serves_nobody_is_reported() -> None:
    with pytest.raises(StuckError, match="refusing"):
        Simulation(one_slot("a"), workload((0, "a", 1.0)), _Refusing()).run()  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_policy_that_only_ticks_is_reported() -> None:
    @dataclass(frozen=True)
    class Ticking(_Refusing):
        def wake_at(self, view: HostView) -> float:
            return view.now + 1e-3

    with pytest.raises(StuckError):
        Simulation(one_slot("a"), workload((0, "a", 1.0)), Ticking()).run()  # type: ignore[arg-type]


def test_rejected_requests_miss_the_slo_and_have_no_latency() -> None:
    cluster = one_slot("a", batch=1)
    cluster = replace(cluster, plan=replace(cluster.plan, max_queue=1))
    load = workload((0, "a", 1.0), (0.1, "a", 1.0), (0.2, "a", 1.0), (20, "a", 1.0))
    row = measure("coe", run(cluster, load), load, cluster, slo_s=WAKE + 1.5)
    assert row.rejected == 2
    assert row.goodput == 0.5
    assert row.mean == pytest.approx((WAKE + 1.0 + 1.0) / 2)
    assert row.max_wait == pytest.approx(WAKE)


def test_metrics_of_a_run_that_can_be_worked_out() -> None:
    cluster = one_slot("a", "b")
    load = workload((0, "a", 1.0), (10, "b", 1.0))
    outcome = run(cluster, load)
    row = measure("coe", outcome, load, cluster, slo_s=20.0)
    end = 10 + SLEEP + WAKE + 1.0
    assert row.span_s == pytest.approx(end)
    assert row.switching_share == pytest.approx((2 * WAKE + SLEEP) / end)
    assert row.swaps_per_1k == 1_000
    assert row.load == pytest.approx(2.0 / 10.0)
    assert row.memory_gb == pytest.approx(13.5)
    assert row.p50 == pytest.approx((WAKE + 1.0 + SLEEP + WAKE + 1.0) / 2)


def test_the_slo_asked_for_is_the_schedulers_too() -> None:
    classes = one_slot("a").with_slo(5.0).plan.classes
    assert classes["standard"].slo_s == 5.0
    assert classes["batch"] == one_slot("a").plan.classes["batch"]


def test_load_scaling_stretches_the_arrivals() -> None:
    cluster = slots_cluster(("a",), 2, A100)
    load = workload((0, "a", 3.0), (1, "a", 1.0), (4, "a", 4.0))
    scaled = load.scaled_to(0.5, cluster)
    assert scaled.load(cluster) == pytest.approx(0.5)
    assert scaled.arrivals == pytest.approx((0, 2, 8))


def test_presets_match_what_was_published() -> None:
    assert A100.wake_s(61) == pytest.approx(2.9, rel=0.1)
    assert A100.wake_s(8.3) == pytest.approx(0.82, rel=0.3)
    assert A100.sleep_s(61) == pytest.approx(2.8, rel=0.1)
    assert PRESETS["sn40l"].wake_s(13.5) == pytest.approx(13.5 / 32 / 31, rel=0.02)
    cpu = PRESETS["cpu"]
    assert cpu.service_s(ModelSize(0.54, 0.135), 0, 14) == pytest.approx(1.0)
    assert cpu.wake_s(0.65) == pytest.approx(0.75, rel=0.1)


def test_only_the_active_part_of_a_mixture_is_read_and_computed() -> None:
    dense, mixture = ModelSize(93.4, 46.7), ModelSize(93.4, 12.9)
    assert A100.service_s(mixture, 1000, 100) == pytest.approx(A100.service_s(dense, 1000, 100) * 12.9 / 46.7)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(Exception, match="no hardware preset") as caught:
        find_preset("h10")
    assert "h100" in str(caught.value.hint)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["coe", "collating-fifo", "fcfs-lru"])
def test_whether_a_pace_is_kept_is_known_early_and_as_at_the_end(policy: str) -> None:
    draws = random.Random(3)
    experts = ("a", "b", "c")
    cluster, at = slots_cluster(experts, 1, A100), 0.0
    requests = []
    for _ in range(200):
        at += draws.expovariate(0.5)
        requests.append((at, draws.choice(experts), 1.0))
    told = set()
    for slo_s in (3.0, 10.0, 30.0, 100.0, 300.0):
        load = workload(*requests)
        pace = Pace(load.arrivals, slo_s, goodput=0.9)
        watched = Simulation(cluster, load, named_policy(policy, load, cluster), watch=pace).run()
        assert pace.kept == (run_policy(policy, cluster, load, slo_s).goodput >= 0.9)
        assert sum(at < math.inf for at in watched.finished) < 200, "it need not run to the end"
        told.add(pace.kept)
    assert told == {True, False}
