"""The page about a live run, from its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coe.core.page import Page
from coe.eval.live.journal import Meter, read_journal
from coe.eval.live.records import Summary, read_records, read_summary
from coe.eval.report import plots
from coe.eval.report.curves import Point
from coe.eval.report.tables import summary_rows
from coe.eval.statistics import calibration
from coe.outcomes.statistics import wilson

Rows = Sequence[Mapping[str, Any]]


def write_live_report(folder: Path, path: Path) -> None:
    """One self-contained page about the run in ``folder``. Raises ConfigError for a folder without one."""
    summary, records = read_summary(folder), read_records(folder)
    page = Page(f"{summary.task}: {summary.model}, {summary.mode}")
    page.table(["", "this run"], summary_rows([summary]))
    _by_category(page, records)
    _by_expert(page, records)
    _cost(page, summary, records)
    _calibration(page, records)
    _swaps(page, read_journal(folder / "journal.jsonl").meters)
    latencies = [record["latency_ms"] for record in records if record["latency_ms"] is not None]
    if latencies:
        page.heading("Latency")
        page.plot(plots.histogram(latencies, "milliseconds to the whole answer"), "Latency of the questions.")
    page.write(path)


def _by_category(page: Page, records: Rows) -> None:
    rows = []
    for category in sorted({record["category"] for record in records}):
        marks = [record["score"] for record in records if record["category"] == category]
        mean = sum(marks) / len(marks)
        low, high = wilson(mean, len(marks))
        rows.append((category or "all", len(marks), f"{mean:.3f} [{low:.3f}, {high:.3f}]"))
    page.heading("By category")
    page.table(["category", "questions", "accuracy [95% Wilson]"], rows)


def _by_expert(page: Page, records: Rows) -> None:
    """Accuracy and share of routes, category x expert."""
    asked = [
        (record["category"] or "all", expert, score)
        for record in records
        for expert, score in zip(record["experts"], record["scores"], strict=True)
    ]
    categories, experts = sorted({one[0] for one in asked}), sorted({one[1] for one in asked})
    if not asked:
        return
    right, total = np.zeros((len(experts), len(categories))), np.zeros((len(experts), len(categories)))
    for category, expert, score in asked:
        place = experts.index(expert), categories.index(category)
        right[place] += score
        total[place] += 1
    accuracy = np.divide(right, total, out=np.full_like(right, np.nan), where=total > 0)
    page.heading("Experts by category")
    page.plot(plots.heat_map(experts, categories, accuracy, "accuracy where asked"),
              "Accuracy of each expert on the questions that it was asked; white: never asked.")  # fmt: skip
    page.plot(plots.heat_map(experts, categories, total / total.sum(axis=0), "share of a category's calls"),
              "Where the questions of each category went.")  # fmt: skip


def _cost(page: Page, summary: Summary, records: Rows) -> None:
    if summary.cost_usd is None or not records:
        return
    per_thousand = summary.cost_usd / len(records) * 1000
    page.heading("Cost")
    point = Point(per_thousand, summary.accuracy, summary.mode)
    page.plot(plots.cost_quality([point], [], "US dollars per 1,000 questions"),
              f"{per_thousand:.4f} US dollars per 1,000 questions.")  # fmt: skip


def _calibration(page: Page, records: Rows) -> None:
    sure = [
        (receipts[0]["confidence"], record["score"])
        for record in records
        if (receipts := [receipt for receipt in record["receipts"] if receipt])
        and receipts[0].get("confidence") is not None
    ]
    if not sure:
        return
    found = calibration([one for one, _ in sure], [score for _, score in sure])
    page.heading("Calibration")
    page.plot(plots.reliability({"receipts": found}), "The router's confidence against accuracy.")


def _swaps(page: Page, meters: Sequence[Meter]) -> None:
    """The counter over the sessions, one after the other."""
    times, counts = swap_curve(meters)
    if not times:
        return
    page.heading("Swaps over time")
    page.plot(plots.steps(times, counts, "swaps"), f"{counts[-1]:.0f} swaps in {times[-1]:.0f} s.")


def swap_curve(meters: Sequence[Meter]) -> tuple[list[float], list[float]]:
    """Seconds and swaps since the run began, without the time between sessions."""
    times: list[float] = []
    counts: list[float] = []
    seconds = swaps = 0.0
    for session in sorted(Counter(meter.session for meter in meters)):
        own = [meter for meter in meters if meter.session == session]
        times += [seconds + meter.at - own[0].at for meter in own]
        counts += [swaps + meter.swaps - own[0].swaps for meter in own]
        seconds, swaps = times[-1], counts[-1]
    return times, counts
