"""Which experts of a registry should go to another host, by the work that was done. Pure.

The service and the simulator use these same objects. Asked are only hosts that have experts: the others do
not run.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from coe.placement import Plan, Recruited
from coe.placing import choices, hosts_in, kind_of, registry_problem
from coe.pool.account import WorkDone
from coe.pool.events import HostId
from coe.registry.models import Host, Registry, RemoteHost
from coe.replanning import Observed, Replanner
from coe.types import ExpertId

LOOKS = 2
"""A move must pay by what was seen in each of so many periods in a row."""


@dataclass(frozen=True)
class Relocation:
    """``hosts``: of the experts that are to move, none: all stay. ``gain_s``: host time that the moves save
    within the horizon, ``moves_s``: what they take."""

    hosts: Mapping[ExpertId, HostId] = field(default_factory=dict)
    gain_s: float = 0.0
    moves_s: float = 0.0


class Looks:
    """What was seen in the last :data:`LOOKS` periods, from sums that only grow."""

    def __init__(self) -> None:
        self._done, self._at = WorkDone(), 0.0
        self._seen: deque[Observed] = deque(maxlen=LOOKS)

    def begin(self, done: WorkDone, now: float) -> None:
        """Forget what was seen; a period begins ``now``."""
        self._seen.clear()
        self._done, self._at = done, now

    def add(self, done: WorkDone, now: float) -> None:
        """A period has ended, the next one begins."""
        if now > self._at:
            self._seen.append(observed(self._done, done, now - self._at))
        self._done, self._at = done, now

    def __call__(self) -> Sequence[Observed]:
        """Oldest first; empty before there were enough."""
        return tuple(self._seen) if len(self._seen) == LOOKS else ()


def observed(before: WorkDone, after: WorkDone, seconds: float) -> Observed:
    """What happened between two accounts that are ``seconds`` apart."""
    requests = after.requests - before.requests
    pairs = {pair: count - before.together.get(pair, 0) for pair, count in after.together.items()}
    return Observed(
        loads={e: (work - before.work_s.get(e, 0.0)) / seconds for e, work in after.work_s.items()},
        move_s=after.load_s,
        recruited=tuple(Recruited(*pair, count / requests) for pair, count in pairs.items() if count > 0),
    )


def relocate(
    registry: Registry, free: Collection[ExpertId], seen: Sequence[Observed], horizon_s: float
) -> Relocation:
    """Which of ``free`` should move between hosts that are alike. Deterministic, seconds at most.

    ``seen``: :class:`Looks`. Never moved are experts that are pinned, and none so that a host is left
    without any: it would be stopped. Raises ConfigError where the experts do not fit on their hosts."""
    if not seen:
        return Relocation()
    free = set(free) - set(registry.pool.pinned)
    hosts: dict[ExpertId, HostId] = {}
    gain_s = moves_s = 0.0
    for allowed in _alike(registry, free):
        found = _relocate(registry, allowed, seen, horizon_s)
        hosts.update(found.hosts)
        gain_s, moves_s = gain_s + found.gain_s, moves_s + found.moves_s
    return Relocation(hosts, gain_s, moves_s)


def movable(registry: Registry, free: Collection[ExpertId]) -> set[HostId]:
    """Hosts between which some of ``free`` may move."""
    alike = _alike(registry, set(free) - set(registry.pool.pinned))
    return {host for allowed in alike for hosts in allowed.values() for host in hosts}


def _relocate(
    registry: Registry,
    allowed: Mapping[ExpertId, Sequence[HostId]],
    seen: Sequence[Observed],
    horizon_s: float,
) -> Relocation:
    problem = registry_problem(registry, allowed, {})
    kept = {n.id: frozenset(e.id for e in registry.experts_on(n.id)) for n in problem.nodes}
    replanner = Replanner(problem.experts, problem.nodes, horizon_s)
    present = Plan(kept, kept)
    before, last = (_of(allowed, each) for each in seen)
    verdict = replanner.judge(present, last, before)
    if verdict.plan is None or not all(verdict.plan.kept.values()):
        return Relocation()
    to = hosts_in(verdict.plan)
    return Relocation({expert: to[expert] for expert in verdict.moved}, verdict.gain_s, verdict.moves_s)


def _alike(registry: Registry, free: Collection[ExpertId]) -> list[Mapping[ExpertId, tuple[HostId, ...]]]:
    """Where each expert may be, for each kind of hosts between which somebody may move."""
    in_use = {expert.host for expert in registry.experts}
    groups: dict[object, dict[ExpertId, tuple[HostId, ...]]] = defaultdict(dict)
    for expert in registry.experts:
        own = registry.host(expert.host)
        if own is None or isinstance(own, RemoteHost):
            continue
        others = _others(choices(expert, registry), own, in_use) if expert.id in free else ()
        groups[kind_of(own)][expert.id] = (own.id, *others)
    return [allowed for allowed in groups.values() if any(len(hosts) > 1 for hosts in allowed.values())]


def _others(fitting: Sequence[HostId], own: Host, in_use: Collection[HostId | None]) -> list[HostId]:
    return [host for host in fitting if host in in_use and host != own.id]


def _of(experts: Collection[ExpertId], seen: Observed) -> Observed:
    """What was seen of these alone."""
    return Observed(
        {expert: seen.loads.get(expert, 0.0) for expert in experts},
        seen.move_s,
        [pair for pair in seen.recruited if pair.one in experts and pair.other in experts],
    )
