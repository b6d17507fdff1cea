"""Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from coe.core.page import cell
from coe.eval.live.records import Summary


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; None becomes a dash."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(_line(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _line(value: object) -> str:
    return cell(value).replace("|", "\\|").replace("\n", " ")


def summary_table(summaries: Sequence[Summary]) -> str:
    """Live runs side by side: a row a figure, a column a run."""
    head = ["figure", *(f"{one.task} v{one.version}, {one.model}" for one in summaries)]
    return markdown(head, summary_rows(summaries))


def summary_rows(summaries: Sequence[Summary]) -> list[list[object]]:
    return [[name, *(read(one) for one in summaries)] for name, read in _FIGURES.items()]


def _with_interval(one: Summary) -> str:
    return f"{one.accuracy:.3f} [{one.low:.3f}, {one.high:.3f}]"


_FIGURES: Mapping[str, Callable[[Summary], object]] = {
    "mode": lambda one: one.mode,
    "questions": lambda one: one.questions,
    "accuracy [95% Wilson]": _with_interval,
    "unparsed share": lambda one: one.unparsed,
    "failed": lambda one: one.failed,
    "asked again after a crash": lambda one: one.asked_again,
    "experts a question": lambda one: one.mean_experts,
    "prompt tokens": lambda one: one.prompt_tokens,
    "completion tokens": lambda one: one.completion_tokens,
    "cost, US dollars": lambda one: None if one.cost_usd is None else f"{one.cost_usd:.6f}",
    "latency p50, ms": lambda one: one.p50_latency_ms,
    "latency p99, ms": lambda one: one.p99_latency_ms,
    "seconds, all sessions": lambda one: one.seconds,
    "sessions": lambda one: one.sessions,
    "swaps": lambda one: None if one.swaps is None else int(one.swaps),
    "waiting for weights, ms": lambda one: one.swap_ms,
}
