"""The machine that is simulated: hosts, experts with sizes, and what swapping them takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from coe.core.types import ExpertId
from coe.registry.hosts import AdapterHost, Host, VllmHost
from coe.registry.schema import Expert, Pool, Registry
from coe.scheduler.events import HostId
from coe.scheduler.plan import ExpertPlan, HostPlan, PoolPlan, build_plan
from coe.simulate.hardware import (
    ADAPTER_LOAD_S,
    ADAPTER_UNLOAD_S,
    BATCH_EXPONENT,
    DEFAULT_SIZE,
    ModelSize,
    Preset,
)

Swapping = Literal["slot", "in_place", "sleep", "adapter", "none"]
"""How a host changes experts. ``slot``: an engine per expert in RAM, one awake at a time."""
Sharing = Literal["by_expert", "one_batch", "none"]
"""How requests share a host's compute. ``by_expert``: a batch per expert, awake experts share the time;
``one_batch``: one batch of all; ``none``: every request runs as if alone (an API elsewhere)."""

UNBOUNDED_QUEUE = 10**9
DEFAULT_BATCH = 16


@dataclass(frozen=True)
class HostModel:
    """``batch``: the most requests that run together; b of them do ``b ** exponent`` times one's work."""

    id: HostId
    swapping: Swapping
    sharing: Sharing
    batch: int
    sleep_level: int = 1
    exponent: float = BATCH_EXPONENT

    @property
    def capacity(self) -> float:
        """Seconds of work (at batch 1) that it does in a second when its batch is full."""
        return self.speed(self.batch)

    def speed(self, batch: int) -> float:
        """Seconds of work that it does in a second with ``batch`` requests, or as many as it takes."""
        return float(self.batch) if self.sharing == "none" else min(batch, self.batch) ** self.exponent


@dataclass(frozen=True)
class ExpertModel:
    """``load_s`` is a measured load time that replaces the preset's."""

    id: ExpertId
    size: ModelSize = DEFAULT_SIZE
    load_s: float | None = None


@dataclass(frozen=True)
class Cluster:
    """``switch_factor`` scales everything that swapping experts takes: 0 makes switching free.

    ``work_per_s``: work (seconds at batch 1) per second at load 1. ``registry``: where there is one, and
    ``folder`` is that of its file, where policies of its own are looked for.
    """

    preset: Preset
    plan: PoolPlan
    pool: Pool
    hosts: Mapping[HostId, HostModel]
    experts: Mapping[ExpertId, ExpertModel]
    registry: Registry | None = None
    folder: Path = Path()
    work_per_s: float | None = None
    switch_factor: float = 1.0

    @property
    def nominal_capacity(self) -> float:
        """Work per second at load 1; where none was set, that of hosts with one request at a time."""
        return self.work_per_s or sum(host.speed(1) for host in self.hosts.values())

    @property
    def swapping_hosts(self) -> int:
        return sum(host.swapping != "none" for host in self.hosts.values())

    def load_s(self, expert: ExpertId, host: HostId) -> float:
        """Load of a cold expert whose weights are in RAM."""
        model, on = self.experts[expert], self.hosts[host]
        if on.swapping == "none":
            return 0.0
        if model.load_s is not None:
            seconds = model.load_s
        elif on.swapping == "adapter":
            seconds = ADAPTER_LOAD_S
        else:
            seconds = self.preset.wake_s(model.size.weights_gb)
            seconds += self.preset.cold_start_s if on.swapping == "sleep" else 0.0
        return seconds * self.switch_factor

    def wake_s(self, expert: ExpertId) -> float:
        """Wake of an expert that sleeps with its weights in RAM."""
        return self.preset.wake_s(self.experts[expert].size.weights_gb) * self.switch_factor

    def sleep_s(self, expert: ExpertId, host: HostId) -> float:
        """Freeing what an expert holds. In-place swaps overwrite: nothing to do before the load."""
        swapping = self.hosts[host].swapping
        if swapping in ("none", "in_place"):
            return 0.0
        if swapping == "adapter":
            return ADAPTER_UNLOAD_S * self.switch_factor
        return self.preset.sleep_s(self.experts[expert].size.weights_gb) * self.switch_factor

    def disk_s(self, expert: ExpertId) -> float:
        return self.preset.disk_s(self.experts[expert].size.weights_gb) * self.switch_factor

    def uses_ram(self, expert: ExpertId, host: HostId) -> bool:
        """Whether a cold load reads the expert's weights through the node's RAM."""
        return self.hosts[host].swapping in ("slot", "in_place", "sleep") and not self.experts[expert].load_s

    def in_ram_at_start(self) -> tuple[ExpertId, ...]:
        """The first experts of the plan that fit into RAM together."""
        held, fitting = 0.0, []
        for expert in self.experts.values():
            held += expert.size.weights_gb
            if held > self.preset.ram_gb:
                break
            fitting.append(expert.id)
        return tuple(fitting)

    def with_slo(self, slo_s: float) -> Cluster:
        """Requests of a trace are of the standard class: this is its SLO."""
        classes = {**self.plan.classes, "standard": replace(self.plan.classes["standard"], slo_s=slo_s)}
        return replace(self, plan=replace(self.plan, classes=classes))

    def without_switching_costs(self) -> Cluster:
        """The reference: the same machine when swapping takes no time."""
        pool = self.pool.model_copy(update={"min_residency_s": 0.0})
        plans = tuple(
            replace(e, load_s=0.0, wake_s=None if e.wake_s is None else 0.0) for e in self.plan.experts
        )
        return replace(self, switch_factor=0.0, pool=pool, plan=replace(self.plan, experts=plans))


def slots_cluster(
    experts: Sequence[ExpertId],
    slots: int,
    preset: Preset,
    max_batch: int = DEFAULT_BATCH,
) -> Cluster:
    """``slots`` accelerators that each hold one expert at a time; any expert may run on any of them.

    Experts are 7B bf16 models. They start in RAM as far as they fit, none is awake. A swap is the sleep of
    the old expert and the wake of the new one. The queue is not bounded.
    """
    hosts = {f"slot-{i}": HostModel(f"slot-{i}", "slot", "by_expert", max_batch) for i in range(slots)}
    wake_s = preset.wake_s(DEFAULT_SIZE.weights_gb)
    weights_gb = DEFAULT_SIZE.weights_gb
    all_fit = len(experts) * weights_gb <= preset.ram_gb
    ram_gb = None if all_fit else preset.ram_gb  # Where all are in RAM, there is nothing to look after.
    plan = PoolPlan(
        hosts=tuple(HostPlan(host, ram_gb=ram_gb, node="node", reads_ahead=not all_fit) for host in hosts),
        experts=tuple(
            ExpertPlan(
                expert, tuple(hosts), max_running=max_batch, load_s=wake_s, weights_gb=weights_gb, size="7B"
            )
            for expert in experts
        ),
        max_queue=UNBOUNDED_QUEUE,
    )
    models = {expert: ExpertModel(expert) for expert in experts}
    return Cluster(preset, plan, Pool(hosts=()), hosts, models)


def registry_cluster(registry: Registry, preset: Preset) -> Cluster:
    """The hosts and experts of a registry, with its limits. Raises ConfigError as ``build_plan`` does."""
    plan = build_plan(registry)
    batches: dict[HostId, int] = {}
    for planned in plan.experts:
        for host_id in planned.hosts:
            batches[host_id] = max(batches.get(host_id, 1), planned.max_running)
    hosts = {host.id: _host_model(host, batches.get(host.id, 1)) for host in registry.pool.hosts}
    experts = {
        expert.id: ExpertModel(expert.id, _size(expert, registry, preset), expert.load_s)
        for expert in registry.experts
    }
    return Cluster(preset, plan, registry.pool, hosts, experts, registry)


def _host_model(host: Host, batch: int) -> HostModel:
    room = host.room
    if host.always_awake:
        return HostModel(host.id, "none", "none", host.max_running)
    if isinstance(host, AdapterHost):
        return HostModel(host.id, "adapter", "one_batch", host.max_running)
    most = batch if room.max_running is None else min(batch, room.max_running)
    return HostModel(host.id, "sleep" if room.sleeps else "in_place", "by_expert", most, room.sleep_level)


def _size(expert: Expert, registry: Registry, preset: Preset) -> ModelSize:
    """From the parameters where given, else from ``memory_gb`` (which includes the KV cache)."""
    if expert.parameters_b is None and expert.memory_gb is None:
        return DEFAULT_SIZE
    host = registry.host(expert.host)
    per_parameter = preset.bytes_per_parameter
    if isinstance(host, VllmHost | AdapterHost) and host.dtype != "auto":
        per_parameter = host.bytes_per_parameter
    if expert.parameters_b is not None:
        weights = expert.parameters_b * per_parameter
        return ModelSize(weights, expert.active_b or expert.parameters_b)
    weights = expert.memory_gb or math.nan
    return ModelSize(weights, expert.active_b or weights / per_parameter)
