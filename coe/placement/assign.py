"""Experts of a registry to its hosts, by the exact programme of :mod:`coe.placement.solver`. Pure.

Hosts that can serve the same experts are alike; an expert whose entry names no host may be on any of them.
Room is what the scheduler counts: slots, gigabytes or adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coe.core.errors import ConfigError
from coe.core.types import ExpertId
from coe.placement.solver import Node, PlacedExpert, Placement, PlacementProblem, Plan, Recruited, place
from coe.registry.schema import Expert, Registry
from coe.scheduler.events import HostId
from coe.scheduler.plan import EPSILON

START_EFFORT_S = 2.0
"""The solver's deterministic time where a service waits for it."""


def choices(expert: Expert, registry: Registry) -> tuple[HostId, ...]:
    """The hosts that could serve ``expert``: those like its own and, where it names none, those of the kind
    that its entry asks for. Raises ConfigError where that does not say which."""
    own = registry.host(expert.host)
    hosts = registry.pool.hosts
    if own is None:
        named = expert.adapter is not None
        fitting = (h for h in hosts if not h.always_awake and h.takes_adapters in (None, named))
        hosts = tuple(fitting)
        if len({host.alike for host in hosts}) != 1:
            found = ", ".join(host.id for host in hosts) or "none"
            raise ConfigError(
                f"expert {expert.id!r} names no host, and those that could serve it are not alike ({found})",
                hint="write its host",
            )
        own = hosts[0]
    room = {host.id: host.room.capacity for host in hosts if host.alike == own.alike}
    roomy = tuple(host for host in room if own.footprint(expert) <= room[host] + EPSILON)
    return roomy or tuple(room)


def registry_problem(
    registry: Registry,
    allowed: Mapping[ExpertId, Sequence[HostId]],
    loads: Mapping[ExpertId, float],
    recruited: Sequence[Recruited] = (),
) -> PlacementProblem:
    """Where to keep the experts of ``allowed`` among the hosts that it names. ``loads``: work per second, in
    any unit; where there is none at all, each expert has an equal share."""
    used = {host for hosts in allowed.values() for host in hosts}
    hosts = [host for host in registry.pool.hosts if host.id in used]
    shares = loads if any(loads.get(expert, 0.0) > 0 for expert in allowed) else dict.fromkeys(allowed, 1.0)
    pinned = registry.pool.pinned if registry.pool.policy == "static" else ()
    experts = []
    for expert in registry.experts:
        on = tuple(allowed.get(expert.id, ()))
        first = registry.host(on[0]) if on else None
        if first is not None:
            size = first.footprint(expert)
            load = shares.get(expert.id, 0.0)
            experts.append(PlacedExpert(expert.id, size, load, pinned=expert.id in pinned, nodes=on))
    # What sleeps or is cold takes room elsewhere, which the scheduler gives to whom it is worth most.
    aside = sum(expert.memory_gb for expert in experts)
    rooms = {host.id: host.room.capacity for host in hosts}
    nodes = tuple(Node(host, room, room + aside) for host, room in rooms.items())
    known = [pair for pair in recruited if pair.one in allowed and pair.other in allowed]
    return PlacementProblem(tuple(experts), nodes, tuple(known))


def managed(registry: Registry, free: bool = False) -> dict[ExpertId, tuple[HostId, ...]]:
    """Where each expert that holds memory may be: on its host, or where it names none (``free``: in any case)
    on those that could serve it."""
    found = {}
    for expert in registry.experts:
        at = registry.host(expert.host)
        if at is not None and at.always_awake:
            continue
        own = None if free else expert.host
        found[expert.id] = choices(expert, registry) if own is None else (own,)
    return found


def hosts_in(plan: Plan) -> dict[ExpertId, HostId]:
    """Of experts that one host keeps."""
    return {expert: host for host, experts in plan.kept.items() for expert in sorted(experts)}


def on_hosts(registry: Registry, hosts: Mapping[ExpertId, HostId]) -> Registry:
    """The registry with these experts on these hosts."""
    experts = tuple(
        expert.model_copy(update={"host": hosts[expert.id]}) if expert.id in hosts else expert
        for expert in registry.experts
    )
    return registry.model_copy(update={"experts": experts})


def place_experts(
    registry: Registry,
    loads: Mapping[ExpertId, float],
    recruited: Sequence[Recruited] = (),
    free: bool = False,
    limit_s: float = 10.0,
) -> Placement:
    """The plan of all experts that hold memory; ``free``: those too whose entry names a host.

    Raises ConfigError where nothing can be placed."""
    return place(registry_problem(registry, managed(registry, free), loads, recruited), limit_s)


def with_hosts(registry: Registry, former: Mapping[ExpertId, HostId] | None = None) -> Registry:
    """The registry with a host for every expert. One that names none stays where it was (``former``) if that
    host can serve it, so that an edit moves nobody; equal shares of the load. Raises ConfigError."""
    if all(expert.host is not None for expert in registry.experts):
        return registry
    kept = {}
    for expert in registry.experts:
        before = former.get(expert.id) if former else None
        if expert.host is None and before is not None and before in choices(expert, registry):
            kept[expert.id] = before
    registry = on_hosts(registry, kept)
    open_ones = {expert.id for expert in registry.experts if expert.host is None}
    if not open_ones:
        return registry
    found = hosts_in(place_experts(registry, {}, limit_s=START_EFFORT_S).plan)
    return on_hosts(registry, {expert: found[expert] for expert in open_ones})
