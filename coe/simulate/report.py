"""A study for people and programmes: JSON rows, a table, an HTML page and its plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coe.core.page import Page, png_of
from coe.simulate.bounds import LowerBounds
from coe.simulate.exact import Exact
from coe.simulate.metrics import Row
from coe.simulate.study import ScenarioResult, Study, describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENOUGH_GOODPUT = 0.9

MEANING = {
    "lb1": "mean latency: every request alone at full speed, plus the first load of each expert",
    "lb2": "hosts needed at least: work at full batches and one load of each expert, per second",
    "lb3": "mean latency: one machine as fast as all hosts, shortest remaining work first",
    "lb4": "longest wait: place-time that keeping or reloading experts needs if no request waits longer",
    "exact": "least mean latency, knowing the future (small instances; null where not proved)",
}


def as_json(study: Study) -> dict[str, Any]:
    """``bounds`` are those of the first scenario; ``scenarios`` has them for each load and host count."""
    scenarios = [_scenario_json(scenario) for scenario in study.scenarios]
    return {
        "rows": [asdict(row) for row in study.rows],
        "bounds": scenarios[0]["bounds"],
        "scenarios": scenarios,
        "meta": {
            "trace": study.trace.name,
            "format": study.trace.format,
            "requests": len(study.trace.rows),
            "experts": study.experts,
            "assign": study.assignment,
            "preset": study.preset,
            "slo_s": study.plan.slo_s,
            "seed": study.plan.seed,
            "max_batch": study.plan.max_batch,
            "load_batch": study.plan.load_batch,
            "bounds": MEANING,
        },
    }


def _scenario_json(scenario: ScenarioResult) -> dict[str, Any]:
    return {
        "slots": scenario.slots,
        "load": scenario.load,
        "bounds": {**asdict(scenario.bounds), "exact": scenario.exact.mean},
        "exact": asdict(scenario.exact),
        "free_switching": asdict(scenario.free),
    }


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[Row], str]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


COLUMNS: Sequence[_Column] = (
    _Column("policy", lambda row: row.policy),
    _Column("goodput", lambda row: f"{row.goodput:.3f}"),
    _Column("mean s", lambda row: _seconds(row.mean)),
    _Column("p50 s", lambda row: _seconds(row.p50)),
    _Column("p99 s", lambda row: _seconds(row.p99)),
    _Column("max wait s", lambda row: _seconds(row.max_wait)),
    _Column("swaps/1k", lambda row: f"{row.swaps_per_1k:.1f}"),
    _Column("switching", lambda row: f"{row.switching_share:.1%}"),
    _Column("memory GB", lambda row: f"{row.memory_gb:.1f}"),
    _Column("rejected", lambda row: str(row.rejected)),
    _Column("us/decision", lambda row: f"{row.decision_us:.0f}"),
)


def as_text(study: Study) -> str:
    """One table for each load and number of hosts, each with its bounds, then how many hosts suffice."""
    blocks = [_block(scenario) for scenario in study.scenarios]
    enough = list(_enough(study))
    return "\n\n".join(blocks + (["\n".join(enough)] if enough else []))


def _block(scenario: ScenarioResult) -> str:
    lines = [describe(scenario.load, scenario.slots), *_aligned([c.title for c in COLUMNS], _cells(scenario))]
    return "\n".join([*lines, *_bound_lines(scenario.bounds, scenario.exact)])


def _cells(scenario: ScenarioResult) -> list[list[str]]:
    rows = [[column.cell(row) for column in COLUMNS] for row in scenario.rows]
    free = [column.cell(scenario.free) for column in COLUMNS]
    return [*rows, [f"{free[0]}, free switching", *free[1:]]]


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(cells[i]) for cells in (header, *rows)) for i in range(len(header))]
    for cells in (header, *rows):
        first, *others = (cell for cell in cells)
        padded = [other.rjust(width) for other, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *padded])


def _bound_lines(bounds: LowerBounds, exact: Exact) -> list[str]:
    return [
        f"bounds: mean >= {bounds.lb1:.2f} s (lb1), >= {bounds.lb3:.2f} s (lb3); "
        f"max wait >= {bounds.lb4:.2f} s (lb4); hosts >= {bounds.lb2:.2f} (lb2)",
        f"exact optimum of the mean: {_exact(exact)}",
    ]


def _exact(exact: Exact) -> str:
    if exact.mean is not None:
        return f"{exact.mean:.2f} s"
    if exact.bound is None:
        return f"- ({exact.status})"
    best = "" if exact.best is None else f", best found {exact.best:.2f} s"
    return f">= {exact.bound:.2f} s ({exact.status}{best})"


def _enough(study: Study) -> Iterator[str]:
    """With several numbers of hosts: the least that reaches the goodput."""
    counts = sorted({scenario.slots for scenario in study.scenarios})
    if len(counts) < 2:
        return
    yield f"hosts needed for a goodput of {ENOUGH_GOODPUT:g} (of {', '.join(map(str, counts))})"
    blocks = len(study.scenarios) // len(counts)
    for block in range(blocks):
        scenarios = study.scenarios[block * len(counts) : (block + 1) * len(counts)]
        for index, first in enumerate(scenarios[0].rows):
            reached = [s.slots for s in scenarios if s.rows[index].goodput >= ENOUGH_GOODPUT]
            answer = str(min(reached)) if reached else "more"
            yield f"  {first.policy} ({describe(first.load, first.slots)}): {answer}"


PLOTS: Mapping[str, Callable[[Row], float | None]] = {
    "goodput": lambda row: row.goodput,
    "mean latency (s)": lambda row: row.mean,
    "p99 latency (s)": lambda row: row.p99,
    "longest wait (s)": lambda row: row.max_wait,
    "swaps per 1,000 requests": lambda row: row.swaps_per_1k,
    "share of time switching": lambda row: row.switching_share,
}


def plot_png(study: Study) -> bytes:
    """Six panels: lines over load or hosts where there are several, else bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    for index, (title, value) in enumerate(PLOTS.items()):
        axes = figure.add_subplot(2, 3, index + 1)
        axes.set_title(title)
        (_bars if len(study.scenarios) == 1 else _lines)(axes, study, value)
        axes.grid(True, alpha=0.3)
    if len(study.scenarios) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return png_of(figure)


def _bars(axes: Axes, study: Study, value: Callable[[Row], float | None]) -> None:
    rows = [*study.scenarios[0].rows][::-1]
    axes.barh([row.policy for row in rows], [value(row) or 0.0 for row in rows])


def _lines(axes: Axes, study: Study, value: Callable[[Row], float | None]) -> None:
    by_hosts = len({scenario.slots for scenario in study.scenarios}) > 1
    axes.set_xlabel("hosts" if by_hosts else "load")
    for index, first in enumerate(study.scenarios[0].rows):
        points = [
            (float(scenario.slots if by_hosts else scenario.load or 0.0), value(scenario.rows[index]))
            for scenario in study.scenarios
        ]
        known = sorted((x, y) for x, y in points if y is not None)
        axes.plot([x for x, _ in known], [y for _, y in known], marker="o", label=first.policy)


def write_report(study: Study, path: Path) -> Path:
    """The page at ``path`` (nothing in it is loaded from elsewhere), and its plots as a PNG beside it."""
    png, picture = plot_png(study), path.with_suffix(".png")
    page = Page(f"coe simulate: {study.trace.name}")
    page.text(
        f"{study.trace.name} ({study.trace.format}): {len(study.trace.rows)} requests, "
        f"{study.experts} experts by {study.assignment}, hardware {study.preset}, "
        f"SLO {study.plan.slo_s:g} s, seed {study.plan.seed}"
    )
    page.plot(png, "Goodput, latency, waiting and swaps of each policy.")
    for scenario in study.scenarios:
        page.heading(describe(scenario.load, scenario.slots))
        page.table([column.title for column in COLUMNS], _cells(scenario))
        for line in _bound_lines(scenario.bounds, scenario.exact):
            page.text(line)
    for line in _enough(study):
        page.text(line)
    page.heading("Bounds")
    page.table(["bound", "what it bounds"], MEANING.items())
    page.write(path)
    picture.write_bytes(png)
    return picture
