"""Pools of real experts for :mod:`benchmarks.real`, made out of the registry's own."""

from __future__ import annotations

from pathlib import Path

from coe.registry.hosts import AdapterHost, VllmHost
from coe.registry.schema import Expert, Registry


def slots_registry(registry: Registry, slots: int, policy: str) -> Registry:
    """The registry's in-place experts dealt out over ``slots`` copies of its first in-place host."""
    base = _in_place_host(registry)
    hosts = tuple(base.model_copy(update={"id": f"slot-{i}"}) for i in range(slots))
    experts = tuple(
        expert.model_copy(update={"host": f"slot-{i % slots}"})
        for i, expert in enumerate(registry.experts_on(base.id))
    )
    pool = registry.pool.model_copy(update={"hosts": hosts, "policy": policy})
    return registry.model_copy(update={"pool": pool, "experts": experts})


def adapters_registry(registry: Registry, root: Path, count: int, kept: int, policy: str) -> Registry:
    """``count`` LoRA experts on one base (itself an expert, too), of which ``kept`` are loaded at once.

    The real adapters beside the registry's checkpoints (``models/adapters``) repeat under names of their own:
    vLLM loads each name separately. Raises ``FileNotFoundError`` when there are none.
    """
    slot = _in_place_host(registry)
    base = next(expert for expert in registry.experts_on(slot.id) if expert.general)
    folders = sorted((root / base.model).parent.glob("adapters/*/adapter_config.json"))
    if not folders:
        raise FileNotFoundError(f"no adapters beside {root / base.model}: run `make experts`")
    host = AdapterHost(
        id="adapters",
        kind="adapter",
        base=base.model,
        device=slot.device,
        dtype=slot.dtype,
        threads=slot.threads,
        max_running=slot.max_running,
        max_model_len=slot.max_model_len,
        max_adapters=kept,
        max_adapters_in_batch=min(kept, 4),
    )
    adapted = tuple(
        Expert(
            id=f"{folders[i % len(folders)].parent.name}-{i:03}",
            host=host.id,
            model=base.model,
            adapter=str(folders[i % len(folders)].parent.relative_to(root)),
            parameters_b=base.parameters_b,
        )
        for i in range(count)
    )
    experts = (*adapted, base.model_copy(update={"host": host.id}))
    pool = registry.pool.model_copy(update={"hosts": (host,), "policy": policy})
    return registry.model_copy(update={"pool": pool, "experts": experts})


def serves_adapters(registry: Registry) -> bool:
    return any(isinstance(host, AdapterHost) for host in registry.pool.hosts)


def _in_place_host(registry: Registry) -> VllmHost:
    return next(h for h in registry.pool.hosts if isinstance(h, VllmHost) and h.swap == "in_place")
