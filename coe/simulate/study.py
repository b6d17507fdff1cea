"""From what was asked for to rows: every policy on every load and number of slots, with bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from coe.core.types import ExpertId
from coe.registry.hosts import VllmHost
from coe.registry.schema import Pool, Registry
from coe.simulate.baselines import POLICIES, make_policy, under_policy
from coe.simulate.bounds import LowerBounds, lower_bounds
from coe.simulate.cluster import DEFAULT_BATCH, Cluster, registry_cluster, slots_cluster
from coe.simulate.errors import SimulationError
from coe.simulate.exact import Exact, solve_exact
from coe.simulate.hardware import find_preset
from coe.simulate.metrics import Row
from coe.simulate.runs import run_policy, with_capacities
from coe.simulate.synthetic import PREFIX, synthetic_trace
from coe.simulate.trace import Trace, TraceFormat, read_trace
from coe.simulate.workload import (
    Assignment,
    Workload,
    assign,
    build_workload,
    default_experts,
    labels_of,
    parse_assignment,
)

DEFAULT_EXPERTS, DEFAULT_SLOTS = 16, 2
FREE_POLICY = "coe"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class StudyPlan:
    """What to simulate; ``None`` means: the default that fits the trace or the registry.

    ``trace`` is a path or ``synthetic:...``. ``loads`` refer to the first of ``slots``: the other numbers of
    slots get the same arrivals. ``exact_limit`` bounds the solver's deterministic time; 0 switches it off.
    ``replan_s``: experts are placed anew so often (None: never). ``folder``: that of the registry's file.
    """

    trace: str
    trace_format: TraceFormat | None = None
    assignment: str | None = None
    experts: int | None = None
    slots: tuple[int, ...] = ()
    registry: Registry | None = None
    folder: Path = Path()
    preset: str | None = None
    loads: tuple[float, ...] = ()
    slo_s: float = 20.0
    policies: tuple[str, ...] = ()
    seed: int = 0
    max_batch: int = DEFAULT_BATCH
    load_batch: int | None = None
    exact_limit: float = 10.0
    replan_s: float | None = None


@dataclass(frozen=True)
class ScenarioResult:
    """``free`` is the row of the reference policy on the same machine with free switching."""

    slots: int
    load: float | None
    rows: tuple[Row, ...]
    free: Row
    bounds: LowerBounds
    exact: Exact


@dataclass(frozen=True)
class Study:
    plan: StudyPlan
    trace: Trace
    preset: str
    assignment: str
    experts: int
    scenarios: tuple[ScenarioResult, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for scenario in self.scenarios for row in scenario.rows)


def run_study(plan: StudyPlan, progress: Progress = lambda _: None) -> Study:
    """Everything in ``plan``; the same plan gives the same figures, ``decision_us`` apart.

    Raises :class:`coe.core.errors.ConfigError` for what cannot be simulated as asked.
    """
    _check(plan)
    registry = plan.registry
    trace, assignment = _read(plan)
    experts = _experts(plan, registry, trace, assignment, progress)
    preset = find_preset(plan.preset or _default_preset(registry))
    labels = assign(trace, assignment, experts, plan.seed)
    clusters = (
        [registry_cluster(registry, preset)]
        if registry
        else [
            slots_cluster(experts, slots, preset, plan.max_batch) for slots in plan.slots or (DEFAULT_SLOTS,)
        ]
    )
    clusters = [replace(cluster.with_slo(plan.slo_s), folder=plan.folder) for cluster in clusters]
    results = [_run(*scenario, plan, progress) for scenario in _scenarios(plan, clusters, trace, labels)]
    shown = f"column:{assignment.column}" if assignment.column else f"zipf:{assignment.exponent:g}"
    return Study(plan, trace, preset.name, shown, len(experts), tuple(results))


def expert_loads(
    registry: Registry, trace: str, assignment: str | None, seed: int = 0
) -> dict[ExpertId, float]:
    """Seconds of work (at batch 1, on the preset that fits the registry) a second that a trace brings each
    expert; in all, where its requests come at once. Raises ConfigError as :func:`run_study` does."""
    read, chosen = _read(StudyPlan(trace, assignment=assignment, seed=seed))
    cluster = registry_cluster(registry, find_preset(_default_preset(registry)))
    labels = assign(read, chosen, tuple(expert.id for expert in registry.experts), seed)
    workload = build_workload(read, labels, cluster)
    loads = dict.fromkeys((expert.id for expert in registry.experts), 0.0)
    for expert, work in zip(workload.experts, workload.work, strict=True):
        loads[expert] += work / (workload.span_s or 1.0)
    return loads


def _check(plan: StudyPlan) -> None:
    for name in plan.policies:
        make_policy(under_policy(plan.registry.pool if plan.registry else Pool(hosts=()), name), plan.folder)
    if plan.registry and (plan.slots or plan.experts):
        raise SimulationError(
            "--registry brings its own hosts and experts",
            hint="leave --slots and --experts out, or --registry",
        )
    if plan.replan_s is not None and (plan.replan_s <= 0 or not plan.registry):
        raise SimulationError(
            "--replan takes seconds above 0, and a --registry whose hosts experts can move between",
            hint="for example --registry experts.yaml --replan 600",
        )
    if any(load <= 0 for load in plan.loads) or plan.slo_s <= 0:
        raise SimulationError("--load and --slo must be above 0", hint="for example --load 0.9 --slo 20")
    counts = (*plan.slots, plan.max_batch, plan.load_batch, plan.experts)
    if any(count is not None and count < 1 for count in counts):
        raise SimulationError(
            "--slots, --experts, --max-batch and --load-batch must be 1 or more",
            hint="for example --slots 1,2",
        )


def _read(plan: StudyPlan) -> tuple[Trace, Assignment]:
    """The trace, and how its requests get their experts: as asked, else as it names them, else by draws."""
    asked = parse_assignment(plan.assignment) if plan.assignment else None
    column = asked.column if asked else None
    if not plan.trace.startswith(PREFIX):
        trace = read_trace(Path(plan.trace), plan.trace_format, column)
    elif column:
        raise SimulationError("a synthetic trace has no columns", hint="use --assign zipf:1.0")
    else:
        trace = synthetic_trace(plan.trace, plan.seed)
    return trace, asked or (Assignment("column", "expert") if trace.labelled else Assignment("zipf"))


def _experts(
    plan: StudyPlan, registry: Registry | None, trace: Trace, assignment: Assignment, progress: Progress
) -> tuple[ExpertId, ...]:
    """The pool, most popular first where the trace names its experts."""
    if registry:
        return tuple(expert.id for expert in registry.experts)
    if assignment.kind == "zipf":
        return default_experts(plan.experts or DEFAULT_EXPERTS)
    named = labels_of(trace)
    if plan.experts and plan.experts != len(named):
        progress(f"note: the trace names {len(named)} experts; --experts {plan.experts} is not used")
    return named


def _default_preset(registry: Registry | None) -> str:
    hosts = registry.pool.hosts if registry else ()
    return "cpu" if any(isinstance(host, VllmHost) and host.device == "cpu" for host in hosts) else "h100"


def _scenarios(
    plan: StudyPlan, clusters: list[Cluster], trace: Trace, labels: tuple[ExpertId, ...]
) -> Iterator[tuple[Cluster, Workload]]:
    recorded = build_workload(trace, labels, clusters[0])
    clusters = with_capacities(clusters, recorded, plan.slo_s, plan.load_batch)
    if not plan.loads:
        yield from ((cluster, recorded) for cluster in clusters)
    for load in plan.loads:
        scaled = recorded.scaled_to(load, clusters[0])
        yield from ((cluster, scaled) for cluster in clusters)


def _run(cluster: Cluster, workload: Workload, plan: StudyPlan, progress: Progress) -> ScenarioResult:
    rows, slots, load = [], len(cluster.hosts), workload.load(cluster)
    for name in plan.policies or tuple(POLICIES):
        progress(f"{name}: {describe(load, slots)}")
        rows.append(run_policy(name, cluster, workload, plan.slo_s, plan.replan_s))
    best = min((row.mean for row in rows if row.mean is not None and not row.rejected), default=None)
    return ScenarioResult(
        slots=slots,
        load=load,
        rows=tuple(rows),
        free=run_policy(FREE_POLICY, cluster.without_switching_costs(), workload, plan.slo_s),
        bounds=lower_bounds(workload, cluster),
        exact=solve_exact(workload, cluster, plan.exact_limit, best, plan.seed),
    )


def describe(load: float | None, hosts: int) -> str:
    """A scenario in words."""
    arrivals = "all at once" if load is None else f"load {load:.2f}"
    return f"{arrivals}, {hosts} host{'' if hosts == 1 else 's'}"
