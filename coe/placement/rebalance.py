"""Re-planning of a placement, slowly: a move must gain more than it costs. Pure: no clock, no log.

What is observed comes in, another plan or the word to stay goes out. While the load stays as it is, a plan
that was taken up is not left again: each move must lower the cost of the plan.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from coe.core.errors import ConfigError
from coe.core.types import ExpertId
from coe.placement.assign import choices, hosts_in, registry_problem
from coe.placement.solver import SCALE, Node, PlacedExpert, PlacementProblem, Plan, Recruited, cost, place
from coe.registry.hosts import Host
from coe.registry.schema import Registry
from coe.scheduler.estimates import WorkDone
from coe.scheduler.events import HostId


@dataclass(frozen=True)
class Observed:
    """``loads``: seconds of work that each expert's requests bring in a second. ``move_s``: what it takes to
    bring an expert in on another node, in seconds of that node (0 where there is none)."""

    loads: Mapping[ExpertId, float]
    move_s: Mapping[ExpertId, float]
    recruited: Sequence[Recruited] = ()


@dataclass(frozen=True)
class Verdict:
    """``plan``: the one to go over to, None: stay. ``gain_s``: node time that it saves within the horizon,
    ``moves_s``: what the moves take; both of the best plan that was found, taken up or not."""

    plan: Plan | None
    gain_s: float
    moves_s: float
    moved: tuple[ExpertId, ...] = ()


@dataclass(frozen=True)
class Replanner:
    """``experts``: with any load, for it is observed. ``horizon_s``: for how long the load is taken to stay
    as it was observed. ``limit_s``: deterministic time of the solver for each of its two runs."""

    experts: Sequence[PlacedExpert]
    nodes: Sequence[Node]
    horizon_s: float = 3_600.0
    limit_s: float = 1.0

    def judge(self, present: Plan, seen: Observed, before: Observed | None = None) -> Verdict:
        """Whether to leave ``present`` for the plan that is best for what was ``seen``. Deterministic.

        The gain is the difference of the costs (:func:`coe.placement.solver.cost` without moves, in shares
        of the load) times the load times the horizon: node time. It must be more than what the moves take,
        also by what was seen ``before`` where that is given: what came by chance pays only once. Both plans
        are judged with the best choice of who is awake. Raises ConfigError where nothing fits."""
        verdict = self._best(present, seen)
        if verdict.plan is None or before is None:
            return verdict
        problem = self._problem(before)
        saved = self._awake_in(problem, present) - self._awake_in(problem, verdict.plan)
        if saved * self._work(before) * self.horizon_s > sum(
            before.move_s.get(e, 0.0) for e in verdict.moved
        ):
            return verdict
        return replace(verdict, plan=None, moved=())

    def _best(self, present: Plan, seen: Observed) -> Verdict:
        work = self._work(seen)
        if work <= 0:
            return Verdict(None, 0.0, 0.0)
        problem = self._problem(seen)
        now = self._awake_in(problem, present)
        dearest = max((seen.move_s.get(e.id, 0.0) for e in self.experts), default=0.0)
        too_much = 3.0 + sum(pair.share for pair in seen.recruited)  # no plan costs so much
        per_move = too_much
        if dearest < too_much * work * self.horizon_s:
            per_move = max(dearest / (work * self.horizon_s), 1.0 / SCALE)
        best = place(replace(problem, previous=present, move_gain=per_move), self.limit_s)
        moved = _moved(present, best.plan)
        gain_s = (now - cost(problem, best.plan)) * work * self.horizon_s
        moves_s = sum(seen.move_s.get(expert, 0.0) for expert in moved)
        # On a tie with staying the solver may answer either: staying is what keeps a plan from flapping.
        if not moved or best.cost >= now or gain_s <= moves_s:
            return Verdict(None, gain_s, moves_s)
        return Verdict(best.plan, gain_s, moves_s, moved)

    def _work(self, seen: Observed) -> float:
        return sum(seen.loads.get(expert.id, 0.0) for expert in self.experts)

    def _problem(self, seen: Observed) -> PlacementProblem:
        experts = tuple(replace(e, load=seen.loads.get(e.id, 0.0)) for e in self.experts)
        return PlacementProblem(experts, self.nodes, seen.recruited)

    def _awake_in(self, problem: PlacementProblem, plan: Plan) -> float:
        """What ``plan`` costs at least, with the best choice of who is awake."""
        fixed = tuple(replace(e, nodes=_nodes_of(e.id, plan)) for e in problem.experts)
        return place(replace(problem, experts=fixed), self.limit_s).bound


def _nodes_of(expert: ExpertId, plan: Plan) -> tuple[str, ...]:
    nodes = tuple(node for node, experts in plan.kept.items() if expert in experts)
    if not nodes:
        raise ConfigError(f"expert {expert!r} is on no node of the present plan", hint="place it first")
    return nodes


def _moved(before: Plan, after: Plan) -> tuple[ExpertId, ...]:
    """Experts that come to a node, once for each."""
    none: frozenset[ExpertId] = frozenset()
    return tuple(
        expert for node in after.kept for expert in sorted(after.kept[node] - before.kept.get(node, none))
    )


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
        if own is None or own.always_awake:
            continue
        others = _others(choices(expert, registry), own, in_use) if expert.id in free else ()
        groups[own.alike][expert.id] = (own.id, *others)
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
