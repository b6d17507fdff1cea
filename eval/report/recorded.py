"""The page about a recorded run: rows of ``coe eval recorded`` and what stands behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coe.core.page import Page
from coe.eval.recorded.cascading import alone
from coe.eval.recorded.report import DEFAULT
from coe.eval.recorded.study import Asked, Study
from coe.eval.report import plots
from coe.eval.report.attribution import Verdict, attribute, verdict, win_matrix
from coe.eval.report.curves import Point, average_quality
from coe.eval.statistics import Calibration, calibration
from coe.outcomes.outcome_set import OutcomeSet

Floats = npt.NDArray[np.float64]
_HEAD = (
    "router", "aggregator", "k", "default", "accuracy", "low", "high", "experts", "USD/1k", "regret",
    "ece", "to best single", "seconds", "note",
)  # fmt: skip


def write_recorded_report(document: Mapping[str, Any], study: Study, path: Path) -> None:
    """One self-contained page. ``document`` is the JSON of ``coe eval recorded``."""
    meta, rows = document["meta"], [row for row in document["rows"] if row["accuracy"] is not None]
    page = Page(f"{meta['outcomes']}: {meta['questions']} questions, {len(meta['experts'])} experts")
    page.table(_HEAD, [_cells(row) for row in document["rows"]])
    page.table(["baseline", "accuracy"], _baselines(document))
    names = [f"{row['router']}/{row['aggregator']}/{row['experts_per_query']}" for row in rows]
    bounds = [(row["low"], row["high"]) for row in rows]
    page.heading("Accuracy")
    page.plot(plots.intervals(names, [row["accuracy"] for row in rows], bounds), "Accuracy, 95% Wilson.")
    _cost(page, rows, study.tested)
    _experts(page, study.tested)
    single = {row["router"] for row in rows if row["experts_per_query"] == 1}
    _routes(page, study, [name for name in (*study.plan.routers, DEFAULT) if name in single])
    page.write(path)


def _cells(row: Mapping[str, Any]) -> list[object]:
    gain = row["paired_diff"]
    shown = None if gain is None else f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
    return [
        row["router"], row["aggregator"], row["experts_per_query"], "yes" if row["default"] else "",
        row["accuracy"], row["low"], row["high"], row["mean_experts"], row["cost_usd_per_1k"], row["regret"],
        row["ece"], shown, row["seconds"], row.get("note", ""),
    ]  # fmt: skip


def _baselines(document: Mapping[str, Any]) -> list[tuple[str, object]]:
    best = document["best_single"]
    named = ("random", "category_oracle", "knn", "majority", "oracle")
    found: list[tuple[str, object]] = [(f"best single: {best['expert']}", best["accuracy"])]
    return found + [(name, document[name]["accuracy"]) for name in named]


def _cost(page: Page, rows: Sequence[Mapping[str, Any]], tested: OutcomeSet) -> None:
    """The cost-quality curve, and the area under it over the range of the single experts' costs."""
    singles = single_points(tested)
    ways = [
        Point(row["cost_usd_per_1k"], row["accuracy"], f"{row['router']} {row['experts_per_query']}")
        for row in rows
        if row["cost_usd_per_1k"] is not None
    ]
    if len(singles) < 2 or not ways:
        return
    low, high = min(p.cost for p in singles), max(p.cost for p in singles)
    page.heading("Cost and quality")
    page.plot(plots.cost_quality(ways, singles, "US dollars per 1,000 questions"),
              "What each way costs and reaches, at list prices.")  # fmt: skip
    if high > low:
        curves = {"single experts": singles, "compositions and singles": [*singles, *ways]}
        area = [(name, average_quality(points, low, high)) for name, points in curves.items()]
        page.table(["curve", f"AIQ from {low:.3f} to {high:.3f} USD per 1,000"], area)


def single_points(tested: OutcomeSet) -> list[Point]:
    """Each expert alone, where its price is known: mean cost of 1,000 questions and accuracy."""
    points = []
    for column, expert in enumerate(tested.experts):
        known = np.isfinite(tested.scores[:, column])
        costs = tested.costs[known, column]
        if known.any() and np.isfinite(costs).all():
            accuracy = float(tested.scores[known, column].mean())
            points.append(Point(float(costs.mean()) * 1000, accuracy, expert))
    return points


def _experts(page: Page, tested: OutcomeSet) -> None:
    categories = _categories(tested)
    accuracy = np.full((len(tested.experts), len(categories)), np.nan)
    for column, category in enumerate(categories):
        inside = tested.scores[_of(tested, category)]
        for row in range(len(tested.experts)):
            known = np.isfinite(inside[:, row])
            accuracy[row, column] = inside[known, row].mean() if known.any() else np.nan
    page.heading("Experts")
    page.plot(plots.heat_map(tested.experts, categories, accuracy, "accuracy"),
              "Accuracy of each expert in each category.")  # fmt: skip
    page.plot(plots.heat_map(tested.experts, tested.experts, win_matrix(tested.scores), "row beats column"),
              "Share of questions that the row's expert has right and the column's wrong.")  # fmt: skip


def _routes(page: Page, study: Study, routers: Sequence[str]) -> None:
    """Confusion of routes, calibration and attribution of the routers that ask one expert."""
    asked = {name: study.default(1) if name == DEFAULT else alone(study, name) for name in routers}
    page.heading("Routes")
    page.table(
        ["router", "right", "routing missed", "no expert knew", "aggregation lost it", "unknown"],
        [attribution_row(name, one, study.tested) for name, one in asked.items()],
    )
    if DEFAULT in asked:
        page.plot(_confusion(asked[DEFAULT], study.tested),
                  "Share of each category's questions that the default sends to each expert.")  # fmt: skip
    page.heading("Calibration")
    page.plot(plots.reliability({name: _reliable(one, study.tested) for name, one in asked.items()}),
              "Probability of a right answer that the router gave, against accuracy.")  # fmt: skip


def attribution_row(name: str, asked: Asked, tested: OutcomeSet) -> list[object]:
    """Counts of verdicts over the questions."""
    verdicts: list[Verdict] = []
    for row, final in enumerate(asked.scores):
        known = {e: float(s) for e, s in zip(tested.experts, tested.scores[row], strict=True) if s == s}
        chosen = [tested.experts[column] for column in asked.experts[row] if column >= 0]
        verdicts.append(verdict(float(final), known, chosen, len(tested.experts)))
    found = attribute(verdicts)
    return [name, found.right, found.routing, found.nobody, found.aggregation, found.unknown]


def _confusion(asked: Asked, tested: OutcomeSet) -> bytes:
    categories = _categories(tested)
    shares = np.zeros((len(tested.experts), len(categories)))
    for column, category in enumerate(categories):
        chosen = asked.experts[_of(tested, category), 0]
        shares[:, column] = np.bincount(chosen[chosen >= 0], minlength=len(tested.experts)) / len(chosen)
    return plots.heat_map(tested.experts, categories, shares, "share of routes")


def _reliable(asked: Asked, tested: OutcomeSet) -> Calibration:
    everyone, first = np.arange(len(asked.experts)), asked.experts[:, 0]
    return calibration(asked.probabilities[everyone, first], tested.scores[everyone, first])


def _categories(tested: OutcomeSet) -> list[str]:
    return sorted({question.category for question in tested.questions})


def _of(tested: OutcomeSet, category: str) -> npt.NDArray[np.bool_]:
    return np.asarray([question.category == category for question in tested.questions])
