"""Recorded runs as rows: the JSON that `coe eval recorded` writes, and the table that it prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from coe.eval.recorded.cascading import alone, curve
from coe.eval.recorded.default import ADAPTIVE, LEARNING
from coe.eval.recorded.methods import BASELINES, CASCADE
from coe.eval.recorded.references import ONE_SAMPLE, everybody, names, single_within
from coe.eval.recorded.study import Asked, Study
from coe.eval.recorded.tradeoff import KEPT_SHARE
from coe.eval.statistics import calibration, paired_bootstrap
from coe.outcomes.statistics import wilson

DEFAULT = "default"
SINGLE = "best single"
TOP_P = "top-p"
USUAL_LIMIT = 5
"""Of top-p in a run that asks one expert otherwise."""
NOT_MEASURABLE = "not measurable: the set records no answers to combine"
_DRAWS = 5000
FIXED = 3
"""Adaptive runs are compared with always asking so many, where the run has that."""
_UNCALIBRATED = ("random", "oracle", CASCADE)
"""Rows whose first expert's probability is not that of the answer being right."""


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
    top_p: float | None = None
    """how many are asked is chosen by top-p with a null expert, at most ``experts_per_query``"""
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
    to_fixed: Difference | None = None
    """adaptive: accuracy minus that of the default with always as many experts as the note says"""
    seconds: float | None = None
    note: str = ""


def all_rows(study: Study) -> Iterator[Row]:
    """Routers one by one, then what the service would do unasked, for each number of experts."""
    plan, base = study.plan, study.asked("static", "first", 1)
    for count in plan.experts_per_query:
        for router in plan.routers:
            if count == 1:
                yield measured(Row(router, "first", 1, default=False), alone(study, router), base, study)
                continue
            for aggregator in () if router == CASCADE else plan.aggregators:
                row = Row(router, aggregator, count, default=False)
                if aggregator != "first" and study.outcomes.answers is None:
                    yield _noted(row, NOT_MEASURABLE)
                else:
                    yield measured(row, study.asked(router, aggregator, count), base, study)
        default = _default_row(study, count, base)
        yield default
        if count > 1:
            yield from _reference_rows(study, count, default, base)
    limit = max(plan.experts_per_query)
    if plan.top_p and limit == 1:
        limit = min(USUAL_LIMIT, len(study.outcomes.experts))
    if limit > 1 and study.outcomes.answers is not None:
        yield _adaptive_row(study, limit, base)
        for p in plan.top_p:
            row = Row(TOP_P, "chosen", limit, default=False, top_p=p, note=f"top-p {p:g}, at most {limit}")
            yield measured(row, study.by_top_p(p, limit), base, study)
        yield measured(
            Row("everybody", "vote", len(study.outcomes.experts), default=False),
            everybody(study),
            base,
            study,
        )


def _reference_rows(study: Study, count: int, default: Row, base: Asked) -> Iterator[Row]:
    """One expert for no more money than the default with ``count`` experts, and samples of one."""
    if default.cost_usd_per_1k is not None:
        asked = single_within(study, default.cost_usd_per_1k / 1000)
        note = f"costs no more than the default with {count}: {', '.join(names(study, asked))}"
        yield measured(Row(SINGLE, "first", 1, default=False, note=note), asked, base, study)
    yield Row(SINGLE, "self_consistency", count, default=False, note=ONE_SAMPLE)


def _adaptive_row(study: Study, limit: int, base: Asked) -> Row:
    """The default where the answers decide how many are asked, beside always asking so many."""
    asked = study.adaptive(limit)
    found = measured(Row(ADAPTIVE, LEARNING, limit, default=False), asked, base, study)
    always = FIXED if FIXED in study.plan.experts_per_query else limit
    loss = paired_bootstrap(asked.scores, study.default(always).scores, draws=_DRAWS, seed=study.plan.seed)
    note = f"difference to the default with always {always} experts"
    return replace(found, to_fixed=Difference(loss.mean, loss.low, loss.high), note=note)


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
        ece=None if row.router in _UNCALIBRATED else _calibration_error(asked, study),
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
        "top_p": row.top_p,
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
        "majority": {"accuracy": None if outcomes.answers is None else float(everybody(study).scores.mean())},
        "cost_quality": [asdict(curve(study, router)) for router in plan.routers if router not in BASELINES],
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


def table(document: dict[str, Any]) -> str:
    """For people: the reference lines, then one line a row. Markdown."""
    single = document["best_single"]
    lines = [f"best single {single['expert']} {_percent(single['accuracy'])}"]
    for name in ("random", "majority", "knn", "category_oracle", "oracle"):
        lines.append(f"{name.replace('_', ' ')} {_percent(document[name]['accuracy'])}")
    head = "| router | aggregator | k | accuracy | to best single | experts | $ per 1k | ECE | s |"
    rows = [_line(row) for row in document["rows"]]
    adaptive = [_adaptive_line(row) for row in document["rows"] if row["to_fixed"]]
    curves = [_curve_line(curve) for curve in document["cost_quality"]]
    return "\n".join(
        ["; ".join(lines), "", head, "|---|---|---|---|---|---|---|---|---|", *rows, "", *adaptive, *curves]
    )


def _adaptive_line(row: dict[str, Any]) -> str:
    loss = row["to_fixed"]
    return f"{row['router']}: {_points(loss)} {row['note']}, with {row['mean_experts']:.2f} on average"


def _points(difference: dict[str, float]) -> str:
    mean, low, high = (100 * difference[name] for name in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _curve_line(curve: dict[str, Any]) -> str:
    reached = "not reached" if curve["share"] is None else f"at {100 * curve['share']:.0f}% of its cost"
    goal = f"{100 * KEPT_SHARE:.0f}% of the best single expert's accuracy"
    return f"{curve['router']}: {goal} {reached} ({curve['unit']})"


def _line(row: dict[str, Any]) -> str:
    if row["accuracy"] is None:
        cells = [row["note"], *[""] * 5]
    else:
        cells = [
            f"{_percent(row['accuracy'])} [{_percent(row['low'])}, {_percent(row['high'])}]",
            _points(row["paired_diff"]),
            f"{row['mean_experts']:.2f}",
            "" if row["cost_usd_per_1k"] is None else f"{row['cost_usd_per_1k']:.3f}",
            "" if row["ece"] is None else f"{row['ece']:.3f}",
            f"{row['seconds']:.1f}",
        ]
    name = f"**{row['router']}**" if row["default"] else row["router"]
    most = row["experts_per_query"]
    count = most if row["top_p"] is None else f"{row['top_p']:g}, at most {most}"
    return f"| {name} | {row['aggregator']} | {count} | " + " | ".join(cells) + " |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
