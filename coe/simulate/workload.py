"""Requests ready to be simulated: arrival, expert, and work in seconds alone in a batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from coe.core.suggest import suggest
from coe.core.types import ExpertId
from coe.simulate.cluster import Cluster
from coe.simulate.errors import SimulationError, TraceError
from coe.simulate.synthetic import parse_zipf, zipf_labels
from coe.simulate.trace import Trace, TraceRow

DEFAULT_INPUT_TOKENS, DEFAULT_OUTPUT_TOKENS = 512.0, 128.0
"""Of rows that give neither tokens nor service_seconds."""


@dataclass(frozen=True)
class Assignment:
    """How requests get their experts: ``zipf:S`` draws them, ``column:NAME`` takes them from the trace."""

    kind: str
    column: str | None = None
    exponent: float = 1.0


def parse_assignment(text: str) -> Assignment:
    kind, _, rest = text.partition(":")
    if kind == "zipf":
        return Assignment(kind, exponent=parse_zipf(text))
    if kind == "column" and rest.strip():
        return Assignment(kind, column=rest.strip())
    raise SimulationError(f"--assign {text}: not understood", hint="write zipf:1.0 or column:expert")


def default_experts(count: int) -> tuple[ExpertId, ...]:
    """Names in order of popularity."""
    width = len(str(count - 1))
    return tuple(f"expert-{i:0{width}d}" for i in range(count))


def labels_of(trace: Trace) -> tuple[ExpertId, ...]:
    """The experts that a trace names, most requests first, then by name."""
    counts: dict[str, int] = {}
    for row in trace.rows:
        label = row.label or ""
        counts[label] = counts.get(label, 0) + 1
    return tuple(sorted(counts, key=lambda label: (-counts[label], label)))


def assign(
    trace: Trace, assignment: Assignment, experts: Sequence[ExpertId], seed: int
) -> tuple[ExpertId, ...]:
    """One expert for each row. Raises :class:`TraceError` for a name that is not among ``experts``."""
    if assignment.kind == "zipf":
        return tuple(zipf_labels(experts, len(trace.rows), assignment.exponent, seed))
    return tuple(_known(row, trace, set(experts), experts) for row in trace.rows)


def _known(row: TraceRow, trace: Trace, known: Collection[str], experts: Sequence[ExpertId]) -> ExpertId:
    label = row.label or ""
    if label not in known:
        raise TraceError(f"{trace.name}:{row.line}: no expert {label!r}", hint=suggest(label, experts[:20]))
    return label


@dataclass(frozen=True)
class Workload:
    """``arrivals`` ascending from 0; ``work[r]``: seconds that request r runs alone in its batch."""

    arrivals: tuple[float, ...]
    experts: tuple[ExpertId, ...]
    work: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.arrivals)

    @property
    def span_s(self) -> float:
        return self.arrivals[-1]

    @property
    def total_work(self) -> float:
        return sum(self.work)

    def first(self, count: int) -> Workload:
        return Workload(self.arrivals[:count], self.experts[:count], self.work[:count])

    def at_rate(self, work_per_s: float) -> Workload:
        """The same requests with arrival times stretched so that they bring so much work per second."""
        factor = self.total_work / (work_per_s * self.span_s)
        return replace(self, arrivals=tuple(t * factor for t in self.arrivals))

    def load(self, cluster: Cluster) -> float | None:
        """Work over what the cluster does at load 1, without switching, between first and last arrival.
        None when all arrive at once."""
        return self.total_work / (cluster.nominal_capacity * self.span_s) if self.span_s else None

    def scaled_to(self, load: float, cluster: Cluster) -> Workload:
        """The same requests with arrival times stretched so that the load is ``load``."""
        recorded = self.load(cluster)
        if recorded is None:
            raise SimulationError(
                "all requests of the trace arrive at the same moment: its load cannot be scaled",
                hint="leave --load out",
            )
        if not self.total_work:
            raise SimulationError(
                "the requests of the trace take no time: its load cannot be scaled",
                hint="leave --load out, or give service_seconds or tokens above 0",
            )
        return self.at_rate(load * cluster.nominal_capacity)


def build_workload(trace: Trace, experts: Sequence[ExpertId], cluster: Cluster) -> Workload:
    """Work from ``service_seconds`` where the trace has it, else from tokens by preset and model size."""
    work = tuple(_work(row, expert, cluster) for row, expert in zip(trace.rows, experts, strict=True))
    return Workload(tuple(row.t for row in trace.rows), tuple(experts), work)


def _work(row: TraceRow, expert: ExpertId, cluster: Cluster) -> float:
    if row.service_s is not None:
        return row.service_s
    tokens_in, tokens_out = row.input_tokens, row.output_tokens
    if tokens_in is None and tokens_out is None:
        tokens_in, tokens_out = DEFAULT_INPUT_TOKENS, DEFAULT_OUTPUT_TOKENS
    return cluster.preset.service_s(cluster.experts[expert].size, tokens_in or 0.0, tokens_out or 0.0)
