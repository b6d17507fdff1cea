"""The scheduling targets on recorded arrivals: every policy, its ablations and the zero-switch-cost run.

    python -m benchmarks.scheduling --quick                 # about a minute: one seed, one mix
    python -m benchmarks.scheduling --json scheduling.json  # docs/measurements/scheduling-results.md

While tuning use other seeds than the reported ones: ``--seeds 100,101``. ``--policies``, ``--mixes``,
``--trace`` and ``--loads`` limit the rows; ``--add`` puts rows of an earlier ``--json`` of the same seeds
beside them (of policies that have not changed since), ``--traces`` names a folder with the Azure 2023 and
Mooncake traces (default: traces/ under COE_DATA).
Everything runs in virtual time; what a decision costs on this machine :mod:`.scheduling_probes` measures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from coe.core.types import ExpertId
from coe.registry.scheduling_settings import Mechanisms
from coe.simulate.baselines import POLICIES
from coe.simulate.cluster import Cluster, slots_cluster
from coe.simulate.hardware import find_preset
from coe.simulate.metrics import Row
from coe.simulate.runs import run_policy, sustained_rate, with_capacities
from coe.simulate.synthetic import zipf_labels
from coe.simulate.trace import Trace, read_trace
from coe.simulate.workload import Workload, build_workload, default_experts

SLO_S, SLOTS, PRESET = 20.0, 2, "h100"
LOADS = (0.3, 0.6, 0.9, 1.2)
SEEDS = (0, 1, 2, 3, 4)
FREE = "coe, free switching"
SUSTAINED = ("coe", "fcfs-lru", "collating-fifo")
UNUSED_HERE = frozenset({"groups", "reroute", "promise"})
"""Mechanisms that these traces do not exercise: one expert a request, nobody impatient."""
MIXES = ("zipf", "mmlu-pro")
"""What the targets are about."""
ROOMY, HOT = "zipf, room for 3 and disk", "zipf 2.0 of 8"
"""Settings for the ablations: hosts that hold 3 experts, with RAM for 8 of the 16 and disk below (what
displacing and reading ahead are for); and few experts, one of them with 2 of 3 requests, which never runs out
of work (what closing admission is for). On one trace, at .9."""
ROOM, ROOMY_RAM_GB = 3.0, 110.0

MMLU_PRO = {
    "math": 1351,
    "physics": 1299,
    "chemistry": 1132,
    "law": 1101,
    "engineering": 969,
    "other": 924,
    "economics": 844,
    "health": 818,
    "psychology": 798,
    "business": 789,
    "biology": 717,
    "philosophy": 499,
    "computer-science": 410,
    "history": 381,
}
"""Questions of each category in MMLU-Pro's test split (its dataset card): one expert for each."""


@dataclass(frozen=True)
class Source:
    """A trace and how many of its requests one run takes: enough for minutes at the machine's capacity."""

    name: str
    file: str
    requests: int


SOURCES = (
    Source("azure-code", "AzureLLMInferenceTrace_code.csv", 2_000),
    Source("azure-conv", "AzureLLMInferenceTrace_conv.csv", 1_500),
    Source("mooncake", "conversation_trace.jsonl", 1_000),
)
SAMPLE = Source("azure-conv-sample", "azure_conv_sample.csv", 400)


@dataclass(frozen=True)
class Setting:
    """Requests with experts, and the machine with the capacity that load 1 refers to."""

    trace: str
    mix: str
    seed: int
    cluster: Cluster
    workload: Workload


@dataclass
class Results:
    """``rows[trace, mix, seed]``; ``sustained``: loads that keep 90% of the requests within the SLO."""

    rows: dict[tuple[str, str, int], list[Row]] = field(default_factory=dict)
    sustained: dict[tuple[str, str, int], dict[str, float]] = field(default_factory=dict)

    def values(self, trace: str, mix: str, policy: str, load: float, figure: str) -> list[float]:
        """One value a seed, in order of seeds."""
        return [
            float(getattr(row, figure) or 0.0)
            for (at, of, _), rows in sorted(self.rows.items())
            for row in rows
            if (at, of, row.policy) == (trace, mix, policy) and abs((row.load or 0.0) - load) < 1e-6
        ]

    @property
    def settings(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys((trace, mix) for trace, mix, _ in self.rows))

    @property
    def targeted(self) -> list[tuple[str, str]]:
        return [(trace, mix) for trace, mix in self.settings if mix in MIXES]

    def add(self, earlier: Any) -> None:
        """Rows of an earlier run, as :func:`benchmarks.scheduling_report.as_json` wrote them, of settings and
        policies that are missing here."""
        for key, rows in self.rows.items():
            there = {(row.policy, row.load) for row in rows}
            for read in earlier["rows"]:
                found = {k: v for k, v in read.items() if k not in ("trace", "mix", "seed")}
                same = (read["trace"], read["mix"], read["seed"]) == key
                if same and (found["policy"], found["load"]) not in there:
                    rows.append(Row(**found))
            for read in earlier["sustained"]:
                if (read["trace"], read["mix"], read["seed"]) == key:
                    loads = {k: v for k, v in read.items() if k not in ("trace", "mix", "seed")}
                    self.sustained[key] = {**loads, **self.sustained[key]}


def ablations() -> tuple[str, ...]:
    return tuple(f"coe[-{name}]" for name in Mechanisms.model_fields if name not in UNUSED_HERE)


def settings(
    folder: Path, sources: Sequence[Source], mixes: Sequence[str], seeds: Sequence[int]
) -> Iterator[Setting]:
    for source in sources:
        trace = read_trace(folder / source.file)
        for mix in mixes:
            if mix not in MIXES and source not in (SOURCES[1], SAMPLE):
                continue
            for seed in seeds:
                yield _setting(trace, source, mix, seed)


def _setting(trace: Trace, source: Source, mix: str, seed: int) -> Setting:
    """A seed draws the experts and takes its own stretch of the trace."""
    spare = max(0, len(trace.rows) - source.requests)
    start = spare * (seed % 5) // 4
    rows = trace.rows[start : start + source.requests]
    experts = tuple(MMLU_PRO) if mix == "mmlu-pro" else default_experts(8 if mix == HOT else 16)
    cluster = _roomy(experts) if mix == ROOMY else slots_cluster(experts, SLOTS, find_preset(PRESET))
    part = Trace(trace.name, trace.format, rows)
    recorded = build_workload(part, _drawn(experts, len(rows), mix, seed), cluster)
    origin = recorded.arrivals[0]
    workload = Workload(tuple(t - origin for t in recorded.arrivals), recorded.experts, recorded.work)
    [measured] = with_capacities([cluster], workload, SLO_S, None)
    return Setting(source.name, mix, seed, measured, workload)


def _roomy(experts: Sequence[ExpertId]) -> Cluster:
    cluster = slots_cluster(experts, SLOTS, replace(find_preset(PRESET), ram_gb=ROOMY_RAM_GB))
    hosts = tuple(replace(host, capacity=ROOM) for host in cluster.plan.hosts)
    return replace(cluster, plan=replace(cluster.plan, hosts=hosts))


def _drawn(experts: Sequence[ExpertId], count: int, mix: str, seed: int) -> Sequence[ExpertId]:
    if mix != "mmlu-pro":
        return zipf_labels(experts, count, 2.0 if mix == HOT else 1.0, seed)
    import numpy as np

    weights = np.array([MMLU_PRO[expert] for expert in experts], dtype=float)
    drawn = np.random.default_rng([seed, 3]).choice(len(experts), size=count, p=weights / weights.sum())
    return [experts[i] for i in drawn]


def run_setting(setting: Setting, loads: Sequence[float], policies: Sequence[str]) -> Iterator[Row]:
    """All policies at all loads; the ablations, and the settings made for them, at .9 only."""
    for load in loads if setting.mix in MIXES else (0.9,):
        paced = setting.workload.scaled_to(load, setting.cluster)
        for policy in policies:
            if "[" not in policy or load == 0.9:
                yield run_policy(policy, setting.cluster, paced, SLO_S)
        if "coe" not in policies:
            continue
        free = run_policy("coe", setting.cluster.without_switching_costs(), paced, SLO_S)
        yield Row(**{**asdict(free), "policy": FREE})


def sustained_loads(setting: Setting, policies: Sequence[str]) -> dict[str, float]:
    capacity = setting.cluster.nominal_capacity
    return {
        policy: sustained_rate(policy, setting.cluster, setting.workload, SLO_S, precision=0.1) / capacity
        for policy in policies
    }


def main(words: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(words)
    folder, sources = trace_folder(args.traces)
    seeds = tuple(int(s) for s in args.seeds.split(",")) if args.seeds else SEEDS[: 1 if args.quick else None]
    mixes = args.mixes.split(";") if args.mixes else MIXES[:1] if args.quick else (*MIXES, ROOMY, HOT)
    sources = [source for source in sources if args.trace in (None, source.name)]
    loads = args.loads or ((0.3, 0.9) if args.quick else LOADS)
    from coe.scheduler.policies import split_policies

    policies = split_policies(args.policies) if args.policies else (*POLICIES, *ablations())
    results = Results()
    for setting in settings(folder, sources, mixes, seeds):
        print(f"{setting.trace}, {setting.mix}, seed {setting.seed}", file=sys.stderr, flush=True)
        key = (setting.trace, setting.mix, setting.seed)
        results.rows[key] = list(run_setting(setting, loads, policies))
        searched = args.loads is None and setting.mix in MIXES
        sustained = [p for p in SUSTAINED if p in policies and searched]
        results.sustained[key] = sustained_loads(setting, sustained)
    for earlier in args.add:
        results.add(json.loads(earlier.read_text(encoding="utf-8")))
    shown = dict.fromkeys(row.policy for rows in results.rows.values() for row in rows)
    from benchmarks.scheduling_report import as_json, report, verdicts

    found = [] if args.loads else list(verdicts(results))
    print(report(results, loads, tuple(policy for policy in shown if policy != FREE), found))
    if args.json:
        args.json.write_text(json.dumps(as_json(results, seeds, found), indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scheduling", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="one seed, one mix, two loads")
    parser.add_argument("--seeds", help="numbers between commas")
    parser.add_argument("--policies", help="names between commas; default: all, and the ablations of coe")
    parser.add_argument("--trace", help="only this one, for example azure-code")
    parser.add_argument("--loads", type=_numbers, help="numbers between commas: rows only, no targets")
    parser.add_argument("--mixes", help=f"names between semicolons, of {'; '.join((*MIXES, ROOMY, HOT))}")
    parser.add_argument("--add", type=Path, action="append", default=[], help="an earlier --json")
    parser.add_argument("--traces", type=Path, help="folder with the traces; default: COE_DATA/traces")
    parser.add_argument("--json", type=Path, help="file for all rows")
    return parser


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def trace_folder(folder: Path | None) -> tuple[Path, Sequence[Source]]:
    """The recorded traces where they are, else the sample that is in the repository."""
    data = os.environ.get("COE_DATA")
    found = folder or (Path(data) / "traces" if data else None)
    if found and all((found / source.file).is_file() for source in SOURCES):
        return found, SOURCES
    print("note: no recorded traces (set COE_DATA or --traces); the shipped sample is used", file=sys.stderr)
    return Path(__file__).parents[1] / "tests" / "data", (SAMPLE,)


if __name__ == "__main__":
    raise SystemExit(main())
