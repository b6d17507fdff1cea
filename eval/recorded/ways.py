"""Ways of combining several recorded answers, compared on one router over several seeds: in stages, with
parts left out (ablation), and with fewer questions to learn from (learning curve).

Scores are means over seeds of each question, so that intervals are those of questions (paired bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from coe.core.errors import ConfigError
from coe.eval.recorded.combining import Combiner, Vote, WeightedVote
from coe.eval.recorded.masses import ByMass
from coe.eval.recorded.methods import Fitted, expert_accuracy
from coe.eval.recorded.study import Study
from coe.eval.statistics import paired_bootstrap
from coe.outcomes.combiner_fits import InStages, Learned, available_top
from coe.outcomes.combiner_tables import Lessons
from coe.outcomes.outcome_set import Floats, OutcomeSet

SHARES = (0.02, 0.05, 0.1, 0.25, 0.5)
REFERENCE = 3
"""Adaptive ways are compared with asking always so many."""
_DRAWS = 5000


@dataclass(frozen=True)
class Way:
    """How the answers of ``count`` experts become one.

    ``share`` of the learning questions teach the combiner (the router learns from all); ``blind``: the
    combiner gets each expert's mean accuracy in place of the router's estimate.
    """

    name: str
    count: int
    make: Callable[[], Combiner]
    share: float = 1.0
    blind: bool = False


@dataclass(frozen=True)
class Told:
    """What one way came to, over all test questions of one seed."""

    scores: Floats
    experts: float
    """asked a question, on average"""


@dataclass(frozen=True)
class WayRow:
    """One line of the table; differences are means with 95% paired bootstrap intervals."""

    way: str
    accuracy: float
    mean_experts: float
    to_best_single: tuple[float, float, float]
    to_reference: tuple[float, float, float] | None
    """to ``learned`` with always :data:`REFERENCE` experts; None where that was not measured"""


def usual_ways(counts: Sequence[int], mean_experts: float) -> list[Way]:
    """Votes, the learned combiner, and the same in stages, for these numbers of experts."""
    ways: list[Way] = []
    for count in counts:
        ways += [
            Way(f"vote, {count}", count, Vote),
            Way(f"weighted vote, {count}", count, WeightedVote),
            Way(f"learned, {count}", count, Learned),
            Way(f"adaptive, at most {count}", count, lambda: InStages(mean_experts)),
            Way(f"top-p, at most {count}", count, lambda: ByMass(mean_experts)),
        ]
    return ways


def ablation(count: int) -> list[Way]:
    """The learned combiner of ``count`` experts with parts left out, and taught by fewer questions."""
    whole = f"learned, {count}"
    parts = [
        Way(f"{whole}, without lengths", count, lambda: Learned(lengths=False)),
        Way(f"{whole}, without dependence", count, lambda: Learned(dependence=False)),
        Way(f"{whole}, without the router's estimates", count, Learned, blind=True),
    ]
    fewer = [Way(f"{whole}, {share:.0%} of the questions", count, Learned, share=share) for share in SHARES]
    return [*parts, *fewer]


def compared(studies: Sequence[Study], router: str, ways: Sequence[Way]) -> list[WayRow]:
    """A row for the best single expert, one for the vote of all, then one for each way."""
    if any(study.outcomes.answers is None for study in studies):
        raise ConfigError("the set records no answers to combine")
    base = _mean([_single(study) for study in studies])
    found = {way.name: _mean([told(study, router, way) for study in studies]) for way in ways}
    reference = found.get(f"learned, {REFERENCE}")
    everybody = _mean([_majority(study) for study in studies])
    named = {"best single": base, "vote of all": everybody, **found}
    return [_row(name, each, base, reference) for name, each in named.items()]


def told(study: Study, router: str, way: Way) -> Told:
    """``way`` over the test questions of every fold, taught on the others."""
    scores, experts = np.zeros(len(study.outcomes)), np.zeros(len(study.outcomes))
    for number, fold in enumerate(study.plan.folds):
        seen, lessons = study.fitted(router, number)[0], study.lessons(router, number, way.count)
        part = study.part(number)
        asked = available_top(seen.test, part.scores, way.count)
        if way.blind:
            seen = _blind(lessons.outcomes, seen)
            lessons = Lessons(lessons.outcomes, seen.held_out, lessons.asked)
        if way.share < 1.0:
            lessons = _thinned(lessons, way.share, study.plan.seed)
        made = way.make().fit(lessons)
        if isinstance(made, InStages | ByMass):
            asked = made.asked_of(part, asked, seen.test)
        scores[fold.test] = made.scores(part, asked, seen.test)
        experts[fold.test] = (asked >= 0).sum(axis=1)
    return Told(scores[study.rows], float(experts[study.rows].mean()))


def _blind(learned: OutcomeSet, estimates: Fitted) -> Fitted:
    accuracy = np.clip(expert_accuracy(learned.scores), 0.0, 1.0)
    return Fitted(
        np.tile(accuracy, (len(estimates.test), 1)), np.tile(accuracy, (len(estimates.held_out), 1))
    )


def _thinned(lessons: Lessons, share: float, seed: int) -> Lessons:
    count = len(lessons.outcomes)
    kept = np.sort(np.random.default_rng(seed).permutation(count)[: max(2, round(share * count))])
    return Lessons(lessons.outcomes.rows(kept), lessons.probabilities[kept], lessons.asked[kept])


def _single(study: Study) -> Told:
    return Told(study.asked("static", "first", 1).scores, 1.0)


def _majority(study: Study) -> Told:
    strength, count = study.asked("static", "first", 1).probabilities, len(study.outcomes.experts)
    everyone = available_top(strength, study.tested.scores, count)
    scores = Vote().scores(study.tested, everyone, strength)
    return Told(scores, float((everyone >= 0).sum(axis=1).mean()))


def _mean(seeds: Sequence[Told]) -> Told:
    scores: Floats = np.mean([each.scores for each in seeds], axis=0)
    return Told(scores, float(np.mean([each.experts for each in seeds])))


def _row(name: str, each: Told, base: Told, reference: Told | None) -> WayRow:
    return WayRow(
        way=name,
        accuracy=float(each.scores.mean()),
        mean_experts=each.experts,
        to_best_single=_difference(each, base),
        to_reference=None if reference is None else _difference(each, reference),
    )


def _difference(one: Told, other: Told) -> tuple[float, float, float]:
    found = paired_bootstrap(one.scores, other.scores, draws=_DRAWS)
    return found.mean, found.low, found.high


def figures(rows: Sequence[WayRow], meta: dict[str, Any]) -> dict[str, Any]:
    """The JSON document."""
    return {"rows": [asdict(row) for row in rows], "meta": meta}


def table(rows: Sequence[WayRow]) -> str:
    """Markdown; percent, differences in points with 95% intervals."""
    lines = [
        f"| way | experts | accuracy | to best single | to learned with {REFERENCE} |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row.way, f"{row.mean_experts:.2f}", f"{100 * row.accuracy:.1f}", _points(row.to_best_single)]
        lines.append("| " + " | ".join([*cells, _points(row.to_reference)]) + " |")
    return "\n".join(lines)


def _points(difference: tuple[float, float, float] | None) -> str:
    if difference is None:
        return ""
    mean, low, high = (100 * value for value in difference)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
