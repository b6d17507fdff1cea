"""Small worlds for scenarios of the scheduler: experts that share a slot, or a GPU."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

from coe.core.types import ExpertId
from coe.scheduler.events import HostId
from coe.scheduler.plan import CLASSES as DEFAULT_CLASSES
from coe.scheduler.plan import ClassPlan, ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.policies import Coe
from coe.scheduler.watch import UnderWay
from coe.testing.scheduling import World

AGEING_S = 10.0
CLASSES = {**DEFAULT_CLASSES, "standard": ClassPlan(slo_s=20.0, ageing_s=AGEING_S)}


def slot_world(*experts: str, batch: int = 2, **plan: Any) -> World:
    """Experts that take turns in one slot. Frames are a batch, residency half a second."""
    seats = tuple(ExpertPlan(e, ("slot",), max_running=batch) for e in experts or ("a", "b", "c"))
    pool = PoolPlan((HostPlan("slot", max_running=batch),), seats, classes=CLASSES)
    return World(replace(pool, **plan), Coe(min_residency_s=0.5, max_frame=1))


def gpu_world(**footprints: float) -> World:
    experts = tuple(
        ExpertPlan(e, ("gpu",), size, max_running=2, load_s=30, wake_s=2) for e, size in footprints.items()
    )
    host = HostPlan("gpu", capacity=24.0, sleeps=True, sleep_level=2)
    return World(PoolPlan((host,), experts, classes=CLASSES), Coe(min_residency_s=0.5))


def bring_in(world: World, expert: str) -> None:
    """Make ``expert`` awake and idle, long enough for it to be evictable."""
    world.arrive(f"first-{expert}", expert)
    world.ready(expert)
    world.finish(f"first-{expert}")
    world.wait(5.0)


def under_way(world: World) -> UnderWay:
    """What really goes on in it."""
    leases: dict[HostId, Counter[ExpertId]] = defaultdict(Counter)
    for seat in world.leases.values():
        leases[seat.host][seat.expert] += 1
    moving: dict[str, dict[HostId, set[ExpertId]]] = {"loading": defaultdict(set), "going": defaultdict(set)}
    for seat in world.seats("loading", "going"):
        moving[world.place(seat.expert, seat.host)][seat.host].add(seat.expert)
    return UnderWay(world.waiting, leases, moving["loading"], moving["going"])
