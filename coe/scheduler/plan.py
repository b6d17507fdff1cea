"""What the scheduler has to know of hosts and experts, and how it follows from the registry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from coe.core.errors import ConfigError
from coe.core.types import DeadlineClass, ExpertId
from coe.registry.hosts import Host
from coe.registry.scheduling_settings import DeadlineClasses, DeadlineClassSpec
from coe.registry.schema import Expert, Registry
from coe.scheduler.events import HostId

EPSILON = 1e-9
"""Slack in comparisons of footprints (their sums are floats)."""


@dataclass(frozen=True)
class ClassPlan:
    """A deadline class. ``slo_s``: an answer after it counts as missed; ``ageing_s``: a request that has
    waited that long goes before all that have not; ``max_wait_s``: one that could have to wait longer is
    refused at once."""

    slo_s: float = 20.0
    ageing_s: float = 60.0
    max_wait_s: float = math.inf


CLASSES: Mapping[DeadlineClass, ClassPlan] = MappingProxyType(
    {
        "interactive": ClassPlan(slo_s=10.0, ageing_s=30.0),
        "standard": ClassPlan(),
        "batch": ClassPlan(slo_s=120.0, ageing_s=600.0),
    }
)


@dataclass(frozen=True)
class HostPlan:
    """A place where experts run.

    ``capacity`` and the experts' footprints share a unit of the host's own: slots, gigabytes, adapters.
    ``max_running`` bounds the leases out on the whole host (None: only each expert's own bound).
    On a host that ``sleeps`` a displaced expert keeps a copy that wakes faster than a cold load.
    An ``always_awake`` host neither loads nor frees anything. ``ram_gb`` bounds the weights that it keeps in
    RAM, asleep at level 1 or read ahead (None: it is not looked after, and nothing is read ahead); hosts of
    one ``node`` share it. One that ``reads_ahead`` can prefetch. ``hardware``: experts of one size take the
    same time to move on hosts of the same.
    """

    id: HostId
    capacity: float = 1.0
    max_running: int | None = None
    sleeps: bool = False
    sleep_level: int = 1
    always_awake: bool = False
    ram_gb: float | None = None
    node: str = ""
    reads_ahead: bool = False
    hardware: str = ""

    @property
    def ram_of(self) -> str:
        """Whose RAM it uses."""
        return self.node or f"host {self.id}"


@dataclass(frozen=True)
class ExpertPlan:
    """An expert and the hosts it may run on. ``max_running`` is its batch capacity on each host.

    ``load_s``, ``wake_s`` and ``sleep_s`` (seconds) are first guesses; the scheduler learns better ones, from
    others of the same ``size`` too. ``weights_gb`` is what it takes in RAM. ``content`` names what it is made
    of: an expert with another content than before is loaded anew.
    """

    id: ExpertId
    hosts: tuple[HostId, ...]
    footprint: float = 1.0
    max_running: int = 16
    load_s: float = 1.0
    wake_s: float | None = None
    sleep_s: float = 0.0
    weights_gb: float = 0.0
    size: str = ""
    content: str = ""


@dataclass(frozen=True)
class PoolPlan:
    """All that scheduling depends on. Times in seconds.

    A failed load is tried again after ``retry_s``, twice that, and so on; after ``max_failures`` in a row
    the expert is refused on that host for ``quarantine_s``, then one attempt is allowed again.
    """

    hosts: tuple[HostPlan, ...]
    experts: tuple[ExpertPlan, ...]
    max_queue: int = 1_000
    retry_s: float = 1.0
    max_failures: int = 3
    quarantine_s: float = 30.0
    classes: Mapping[DeadlineClass, ClassPlan] = field(default_factory=lambda: CLASSES)

    def __post_init__(self) -> None:
        hosts = {host.id: host for host in self.hosts}
        if len(hosts) != len(self.hosts) or len({e.id for e in self.experts}) != len(self.experts):
            raise ConfigError("two hosts or two experts of the pool have the same id", hint="rename one")
        for expert in self.experts:
            _check_expert(expert, hosts)
        budgets: dict[str, float | None] = {}
        for host in self.hosts:
            if budgets.setdefault(host.ram_of, host.ram_gb) != host.ram_gb:
                raise ConfigError(
                    f"hosts of node {host.node!r} disagree about its RAM", hint="give one ram_gb"
                )


def _check_expert(expert: ExpertPlan, hosts: dict[HostId, HostPlan]) -> None:
    if not expert.hosts:
        raise ConfigError(f"expert {expert.id!r} has no host", hint="set its host to one under pool.hosts")
    for host_id in expert.hosts:
        host = hosts.get(host_id)
        if host is None:
            known = ", ".join(sorted(hosts)) or "none"
            raise ConfigError(f"expert {expert.id!r}: no host {host_id!r}", hint=f"known hosts: {known}")
        if expert.footprint <= EPSILON and not host.always_awake:
            raise ConfigError(f"expert {expert.id!r} takes no room on {host_id!r}", hint="set its footprint")
        if expert.footprint > host.capacity + EPSILON:
            raise ConfigError(
                f"expert {expert.id!r} needs {expert.footprint:g} but host {host_id!r} has {host.capacity:g}",
                hint="raise the host's memory_gb, or correct the expert's memory_gb",
            )


def build_plan(registry: Registry) -> PoolPlan:
    """The plan of a registry, of its hosts that have experts.

    Raises :class:`ConfigError` where a host or a size is missing.
    """
    return PoolPlan(
        hosts=tuple(host_plan(host) for host in registry.used_hosts),
        experts=tuple(_expert_plan(expert, registry) for expert in registry.experts),
        max_queue=registry.limits.max_queue,
        classes=_classes(registry.pool.classes),
    )


def _classes(spec: DeadlineClasses) -> Mapping[DeadlineClass, ClassPlan]:
    def plan(one: DeadlineClassSpec) -> ClassPlan:
        return ClassPlan(one.slo_s, one.ageing_s, one.max_wait_s)

    return {
        "interactive": plan(spec.interactive),
        "standard": plan(spec.standard),
        "batch": plan(spec.batch),
    }


def host_plan(host: Host) -> HostPlan:
    """Raises :class:`ConfigError` where its size is missing."""
    room = host.room
    return HostPlan(
        host.id,
        capacity=room.capacity,
        max_running=room.max_running,
        sleeps=room.sleeps,
        sleep_level=room.sleep_level,
        always_awake=host.always_awake,
        ram_gb=room.ram_gb,
        reads_ahead=room.reads_ahead,
        hardware=room.hardware,
    )


def _expert_plan(expert: Expert, registry: Registry) -> ExpertPlan:
    host = registry.host(expert.host)
    if host is None:
        known = ", ".join(h.id for h in registry.pool.hosts) or "none"
        raise ConfigError(f"expert {expert.id!r}: no host {expert.host!r}", hint=f"known hosts: {known}")
    return ExpertPlan(
        id=expert.id,
        hosts=(host.id,),
        footprint=host.footprint(expert),
        max_running=expert.max_running or host.max_running,
        load_s=1.0 if expert.load_s is None else expert.load_s,
        wake_s=expert.wake_s,
        sleep_s=expert.sleep_s or 0.0,
        weights_gb=_weights_gb(expert, host),
        size="" if expert.parameters_b is None else f"{expert.parameters_b:g}B",
        content=" + ".join(part for part in (expert.model, expert.adapter) if part),
    )


def _weights_gb(expert: Expert, host: Host) -> float:
    """``memory_gb`` where given, else by the parameters; 0 where neither is known."""
    if host.always_awake:
        return 0.0
    return expert.memory_gb or (expert.parameters_b or 0.0) * host.bytes_per_parameter
