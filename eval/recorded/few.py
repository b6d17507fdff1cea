"""Few labels, the usual case: what routing and voting are worth after some hundred questions.

    python -m coe.eval.recorded.few DATA --pools pool-a,pool-b,pool-c

The protocol is Symbolic-MoE's: about 350 validation questions, equally many of each category, and 2,048 of
the other questions asked; drawn anew by seed. Beside its labels a router knows what the set's other models
did on the questions that are not asked, as the profiles that come with CoE tell a service.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from coe.eval.recorded.default import Choice
from coe.eval.recorded.folds import Fold, wording
from coe.eval.recorded.run import listed
from coe.eval.recorded.sets import PARTS, certain
from coe.eval.recorded.study import Plan, Study
from coe.outcomes.outcome_set import OutcomeSet, Question, read_outcomes
from coe.outcomes.vectors import question_vectors
from coe.routers.encoders.encoder import open_encoder

WAYS = {
    "transfer, 1": Choice("transfer"),
    "category, 1": Choice("category"),
    "best singles vote, 3": Choice("static", "vote", 3),
    "transfer votes, 3": Choice("transfer", "vote", 3),
    "transfer votes, 5": Choice("transfer", "vote", 5),
}
DEFAULTS = (1, 3, 5)
_TESTED = 2048


@dataclass(frozen=True)
class Gain:
    """Points over the best single model found from the same labels: mean over draws, its 95% interval, and
    the least of a draw."""

    way: str
    mean: float
    low: float
    high: float
    worst: float


def drawn(questions: Sequence[Question], labels: int, tested: int, seed: int) -> Fold:
    """About ``labels`` questions, equally many of each category, and ``tested`` others; no wording is in
    both."""
    order = np.random.default_rng(seed).permutation(len(questions))
    by_category: dict[str, list[int]] = defaultdict(list)
    for row in order:
        by_category[questions[row].category].append(int(row))
    share = max(1, labels // len(by_category))
    learned = [row for rows in by_category.values() for row in rows[:share]]
    known = {wording(questions[row]) for row in learned}
    rest = [int(row) for row in order if wording(questions[row]) not in known]
    return Fold(np.sort(np.asarray(learned)), np.sort(np.asarray(rest[:tested])))


def gains(
    pool: OutcomeSet,
    others: OutcomeSet,
    encoder: str,
    labels: int,
    seeds: Sequence[int],
    tested: int = _TESTED,
) -> list[Gain]:
    """Blocking: seconds a draw, and minutes where the questions were never encoded."""
    opened = open_encoder(encoder, Path())
    vectors, found = question_vectors(pool, opened), defaultdict[str, list[float]](list)
    for seed in seeds:
        fold = drawn(pool.questions, labels, tested, seed)
        study = Study(pool, vectors, Plan((fold,), (), (), (1,), seed, opened.identity), reference=others)
        base = study.asked("static", "first", 1).scores
        for way, scores in _scores(study):
            found[way].append(float((scores - base).mean()))
    return [_gain(way, values) for way, values in found.items()]


def _scores(study: Study) -> Iterator[tuple[str, np.ndarray]]:
    for name, way in WAYS.items():
        if way.count == 1 or study.outcomes.answers is not None:
            yield name, study.asked(way.router, way.aggregator, way.count).scores
    for count in DEFAULTS:
        if count == 1 or study.outcomes.answers is not None:
            yield f"default, {count}", study.default(count).scores


def _gain(way: str, values: Sequence[float]) -> Gain:
    points = 100 * np.asarray(values)
    half = 1.96 * float(points.std(ddof=1)) / np.sqrt(len(points)) if len(points) > 1 else float("nan")
    mean = float(points.mean())
    return Gain(way, mean, mean - half, mean + half, float(points.min()))


def of_set(data: Path, name: str) -> tuple[OutcomeSet, OutcomeSet]:
    """The pool, and the set's other models of certain identity that answered everything."""
    part = PARTS[name]
    whole = read_outcomes(data / "outcomes" / part.folder)
    pool = whole.pool(part.pool or certain(whole.experts))
    others = [e for j, e in enumerate(whole.experts) if np.isfinite(whole.scores[:, j]).all()]
    return pool, whole.pool([e for e in certain(others) if e not in pool.experts])


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--pools", default="pool-a,pool-b,pool-c", help="Pools of MMLU-Pro's recorded models.")
@click.option("--labels", default="50,100,350,1000", help="How many questions are learned from.")
@click.option("--draws", default=20)
@click.option("--first-seed", default=0)
@click.option("--encoder", default="minilm-int8")
def main(data: Path, pools: str, labels: str, draws: int, first_seed: int, encoder: str) -> None:
    """Print a table for each pool: points over the best single model found from the same labels."""
    for name in listed(pools):
        pool, others = of_set(data, name)
        for count in map(int, listed(labels)):
            rows = gains(pool, others, encoder, count, range(first_seed, first_seed + draws))
            cells = (
                f"{r.way} {r.mean:+.1f} [{r.low:+.1f}, {r.high:+.1f}] worst {r.worst:+.1f}" for r in rows
            )
            click.echo(f"{name}, {count} labels, {draws} draws: " + "; ".join(cells))


if __name__ == "__main__":
    main()
