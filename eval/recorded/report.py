"""Recorded runs as rows: the JSON that `coe eval recorded` writes, and the table that it prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval.recorded.combining import Vote, combined_scores
from eval.recorded.methods import BASELINES
from eval.recorded.outcomes import Floats
from eval.recorded.ranking import available_top
from eval.recorded.study import Asked, Study
from eval.recorded.tradeoff import KEPT_SHARE, tradeoff
from eval.statistics import calibration, paired_bootstrap, wilson

DEFAULT = "default"
NOT_MEASURABLE = "not measurable: the set records no answers to combine"
_DRAWS = 5000


@dataclass(frozen=True)
class Difference:
    """Accuracy minus that of the best single expert on the same questions; 95% paired bootstrap."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One way to answer. Numbers are None where they cannot be known."""

    router: str
    aggregator: str
    experts_per_query: int
    default: bool
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    mean_experts: float | None = None
    cost_usd_per_1k: float | None = None
    regret: float | None = None
    """accuracy of the oracle minus accuracy"""
    ece: float | None = None
    """calibration error of the first expert's probability"""
    paired_diff: Difference | None = None
    seconds: float | None = None
    note: str = ""


def all_rows(study: Study) -> Iterator[Row]:
    """Routers one by one, then what the service would do unasked, for each number of experts."""
    plan, base = study.plan, study.asked("static", "first", 1)
    for count in plan.experts_per_query:
        for router in plan.routers:
            for aggregator in ("first",) if count == 1 else plan.aggregators:
                row = Row(router, aggregator, count, default=False)
                if count > 1 and aggregator != "first" and study.outcomes.answers is None:
                    yield _noted(row, NOT_MEASURABLE)
                else:
                    yield measured(row, study.asked(router, aggregator, count), base, study)
        yield _default_row(study, count, base)


def _default_row(study: Study, count: int, base: Asked) -> Row:
    choices = study.default_choices(count)
    names = sorted({f"{choice.router}/{choice.aggregator}/{choice.count}" for choice in choices})
    aggregators = {choice.aggregator for choice in choices}
    aggregator = aggregators.pop() if len(aggregators) == 1 else "chosen"
    row = Row(DEFAULT, aggregator, count, default=True, note="chosen: " + ", ".join(names))
    return measured(row, study.default(count), base, study)


def measured(row: Row, asked: Asked, base: Asked, study: Study) -> Row:
    """``row`` with its numbers."""
    accuracy = float(asked.scores.mean())
    low, high = wilson(accuracy, len(asked.scores))
    gain = paired_bootstrap(asked.scores, base.scores, draws=_DRAWS, seed=study.plan.seed)
    return Row(
        **_identity(row),
        accuracy=accuracy,
        low=low,
        high=high,
        mean_experts=float((asked.experts >= 0).sum(axis=1).mean()),
        cost_usd_per_1k=_cost_per_1k(asked, study),
        regret=float(study.oracle().mean()) - accuracy,
        ece=None if row.router in BASELINES and row.router != "static" else _calibration_error(asked, study),
        paired_diff=Difference(gain.mean, gain.low, gain.high),
        seconds=round(asked.seconds, 3),
        note=row.note,
    )


def _identity(row: Row) -> dict[str, Any]:
    return {
        "router": row.router,
        "aggregator": row.aggregator,
        "experts_per_query": row.experts_per_query,
        "default": row.default,
    }


def _noted(row: Row, note: str) -> Row:
    return Row(**_identity(row), note=note)


def _cost_per_1k(asked: Asked, study: Study) -> float | None:
    """US dollars of 1,000 questions; None as soon as one price is not known."""
    costs = np.take_along_axis(study.tested.costs, np.maximum(asked.experts, 0), axis=1)
    total = np.where(asked.experts >= 0, costs, 0.0).sum(axis=1).mean() * 1000
    return float(total) if np.isfinite(total) else None


def _calibration_error(asked: Asked, study: Study) -> float:
    first = asked.experts[:, 0]
    everyone = np.arange(len(first))
    return calibration(asked.probabilities[everyone, first], study.tested.scores[everyone, first]).error


def figures(study: Study, rows: Sequence[Row], seconds: float) -> dict[str, Any]:
    """The JSON document."""
    outcomes, plan = study.outcomes, study.plan
    return {
        "rows": [asdict(row) for row in rows],
        "best_single": {
            "expert": study.best_single,
            "accuracy": float(study.asked("static", "first", 1).scores.mean()),
        },
        "random": {"accuracy": float(np.nanmean(study.tested.scores, axis=1).mean())},
        "category_oracle": {"accuracy": float(study.category_oracle().mean())},
        "oracle": {"accuracy": float(study.oracle().mean())},
        "knn": {"accuracy": float(study.asked("knn", "first", 1).scores.mean())},
        "majority": {"accuracy": _majority(study)},
        "cost_quality": [
            asdict(tradeoff(study, router)) for router in plan.routers if router not in BASELINES
        ],
        "meta": {
            "outcomes": outcomes.name,
            "experts": list(outcomes.experts),
            "questions": len(study.rows),
            "questions_without_text": sum(question.text is None for question in study.tested.questions),
            "folds": len(plan.folds),
            "seed": plan.seed,
            "encoder": plan.encoder,
            "seconds": round(seconds, 1),
        },
    }


def _majority(study: Study) -> float | None:
    """Accuracy of the plain vote of the whole pool; ties go to the better single expert."""
    if study.outcomes.answers is None:
        return None
    strength = study.asked("static", "first", 1).probabilities
    everyone: Floats = combined_scores(
        Vote(),
        study.tested,
        available_top(strength, study.tested.scores, len(study.outcomes.experts)),
        strength,
    )
    return float(everyone.mean())


def table(document: dict[str, Any]) -> str:
    """For people: the reference lines, then one line a row. Markdown."""
    single = document["best_single"]
    lines = [f"best single {single['expert']} {_percent(single['accuracy'])}"]
    for name in ("random", "majority", "knn", "category_oracle", "oracle"):
        lines.append(f"{name.replace('_', ' ')} {_percent(document[name]['accuracy'])}")
    head = "| router | aggregator | k | accuracy | to best single | experts | $ per 1k | ECE | s |"
    rows = [_line(row) for row in document["rows"]]
    curves = [_curve_line(curve) for curve in document["cost_quality"]]
    return "\n".join(
        ["; ".join(lines), "", head, "|---|---|---|---|---|---|---|---|---|", *rows, "", *curves]
    )


def _curve_line(curve: dict[str, Any]) -> str:
    reached = "not reached" if curve["share"] is None else f"at {100 * curve['share']:.0f}% of its cost"
    goal = f"{100 * KEPT_SHARE:.0f}% of the best single expert's accuracy"
    return f"{curve['router']}: {goal} {reached} ({curve['unit']})"


def _line(row: dict[str, Any]) -> str:
    if row["accuracy"] is None:
        cells = [row["note"], *[""] * 5]
    else:
        gain = row["paired_diff"]
        cells = [
            f"{_percent(row['accuracy'])} [{_percent(row['low'])}, {_percent(row['high'])}]",
            f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]",
            f"{row['mean_experts']:.1f}",
            "" if row["cost_usd_per_1k"] is None else f"{row['cost_usd_per_1k']:.3f}",
            "" if row["ece"] is None else f"{row['ece']:.3f}",
            f"{row['seconds']:.1f}",
        ]
    name = f"**{row['router']}**" if row["default"] else row["router"]
    return f"| {name} | {row['aggregator']} | {row['experts_per_query']} | " + " | ".join(cells) + " |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
