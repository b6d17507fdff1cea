"""How much of an expert a few answers tell: ``python -m eval.bench.probing --outcomes DIR [--pool a,b,...]``.

Each expert of the pool is left out and added back with some of its answers on the training folds, chosen
adaptively or at random; all else is known in full. Two figures for each number of answers:

- the mean absolute error of its estimated category scores against all its training answers;
- how much of what it brings comes back: (probed - without) / (full - without), where each term is the
  accuracy of routing the test folds, summed over the experts whose (full - without) excludes 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import numpy.typing as npt

from coe.profiles.joining import read_recorded
from coe.profiles.newcomer import NewcomerModel
from coe.profiles.outcomes import MODEL_WEIGHT, Recorded
from coe.profiles.probing import Design, Probing, probe
from eval.recorded.folds import Fold, cross_folds
from eval.recorded.run import listed
from eval.statistics import paired_bootstrap
from routers import estimator_class
from routers.evidence import Evidence

Floats = npt.NDArray[np.float64]
DESIGNS: tuple[Design, ...] = ("adaptive", "random")


@dataclass(frozen=True)
class Row:
    """``recovered`` over draws: mean and 95% of the draws; None where no expert's gain excludes 0."""

    design: str
    answers: int
    category_error: float
    recovered: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Gain:
    """What an expert's full profile brings to the routed accuracy, with its paired interval."""

    expert: str
    mean: float
    low: float
    high: float


class Bench:
    """Routing of the test folds with one expert known in full, not at all, or from some answers."""

    def __init__(self, data: Recorded, pool: Sequence[str], context: Sequence[str], router: str) -> None:
        self.data, self.pool, self.context, self.router = data, tuple(pool), tuple(context), router
        self.evidence = data.evidence(self.pool)
        self.folds = cross_folds(data.outcomes.questions, 5, seed=0)

    def routed(self, fold: Fold, train: Evidence) -> Floats:
        """Scores of the chosen experts on the fold's test questions."""
        made = cast(Any, estimator_class(self.router))().fit(train)
        best = made.estimate([""] * len(fold.test), self.evidence.vectors[fold.test]).argmax(axis=1)
        scores = np.nan_to_num(self.evidence.only(train.experts).scores[fold.test])
        return np.asarray(scores[np.arange(len(best)), best], dtype=np.float64)

    def full(self) -> list[Floats]:
        return [self.routed(fold, self.evidence.rows(fold.train)) for fold in self.folds]

    def without(self, expert: str) -> list[Floats]:
        others = self.evidence.only([each for each in self.pool if each != expert])
        return [self.routed(fold, others.rows(fold.train)) for fold in self.folds]

    def models(self, expert: str) -> list[NewcomerModel]:
        known = self.data.evidence([each for each in (*self.pool, *self.context) if each != expert])
        return [NewcomerModel(known.rows(fold.train)) for fold in self.folds]

    def probings(
        self, expert: str, models: Sequence[NewcomerModel], answers: int, design: Design, draw: int
    ) -> Iterator[Probing]:
        column = self.pool.index(expert)
        for fold, model in zip(self.folds, models, strict=True):
            truth = np.asarray(self.evidence.scores[fold.train, column], dtype=np.float64)
            yield probe(model, truth.__getitem__, answers, design=design, seed=draw)

    def probed(self, expert: str, probings: Sequence[Probing]) -> list[Floats]:
        return [
            self.routed(fold, self._replaced(self.evidence.rows(fold.train), expert, found))
            for fold, found in zip(self.folds, probings, strict=True)
        ]

    def _replaced(self, train: Evidence, expert: str, found: Probing) -> Evidence:
        column = self.pool.index(expert)
        scores, counts = train.scores.copy(), train.counts.copy()
        scores[:, column], counts[:, column] = found.probabilities, MODEL_WEIGHT
        scores[found.rows, column], counts[found.rows, column] = found.scores, 1.0
        return Evidence(**{**vars(train), "scores": scores, "counts": counts})

    def category_error(self, expert: str, found: Probing, fold: Fold) -> float:
        truth = self.evidence.scores[fold.train, self.pool.index(expert)]
        labels = np.asarray(found.model.known.categories, dtype=object)
        estimates = found.model.by_category(found.posterior, found.rows)
        return float(
            np.mean([abs(each.mean - np.nanmean(truth[labels == each.category])) for each in estimates])
        )


def gains(full: Sequence[Floats], without: dict[str, list[Floats]]) -> list[Gain]:
    whole = np.concatenate(full)
    found = []
    for expert, parts in without.items():
        difference = paired_bootstrap(whole, np.concatenate(parts), seed=0)
        found.append(Gain(expert, difference.mean, difference.low, difference.high))
    return found


def study(bench: Bench, budgets: Sequence[int], draws: int) -> dict[str, Any]:
    """The table, as JSON."""
    full = bench.full()
    without = {expert: bench.without(expert) for expert in bench.pool}
    brought = gains(full, without)
    helping = [gain.expert for gain in brought if gain.low > 0]
    models = {expert: bench.models(expert) for expert in bench.pool}
    base = sum(float(np.concatenate(full).mean() - np.concatenate(without[e]).mean()) for e in helping)
    rows = []
    for design in DESIGNS:
        for answers in budgets:
            errors, ratios = [], []
            for draw in range(draws):
                regained = 0.0
                for expert in bench.pool:
                    found = list(bench.probings(expert, models[expert], answers, design, draw))
                    errors += [
                        bench.category_error(expert, each, fold)
                        for each, fold in zip(found, bench.folds, strict=True)
                    ]
                    if expert in helping:
                        probed = np.concatenate(bench.probed(expert, found)).mean()
                        regained += float(probed - np.concatenate(without[expert]).mean())
                ratios.append(regained / base if helping else np.nan)
            rows.append(_row(design, answers, errors, ratios))
            click.echo(_line(rows[-1]), err=True)
    return {"rows": [asdict(row) for row in rows], "gains": [asdict(gain) for gain in brought]}


def _row(design: str, answers: int, errors: Sequence[float], ratios: Sequence[float]) -> Row:
    if not np.isfinite(ratios).all():
        return Row(design, answers, float(np.mean(errors)), None, None, None)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Row(design, answers, float(np.mean(errors)), float(np.mean(ratios)), float(low), float(high))


def _line(row: Row) -> str:
    recovered = (
        "no expert's gain excludes 0"
        if row.recovered is None
        else f"{row.recovered:5.2f} [{row.low:.2f}, {row.high:.2f}]"
    )
    return f"{row.design:<9} {row.answers:>4} answers  category error {row.category_error:.3f}  {recovered}"


@click.command()
@click.option("--outcomes", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--pool", help="Experts, comma-separated; all of the set by default.")
@click.option("--context", help="Further experts that are known in full, and not routed to.")
@click.option("--router", default="knn", show_default=True, help="Whose estimator routes.")
@click.option("--encoder", default="minilm", show_default=True)
@click.option("--answers", "budgets", default="25,50,100,200,400", show_default=True)
@click.option("--draws", default=20, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(
    outcomes: Path,
    pool: str | None,
    context: str | None,
    router: str,
    encoder: str,
    budgets: str,
    draws: int,
    out: Path | None,
) -> None:
    """Leave each expert out and add it back with few answers."""
    data = read_recorded(outcomes, encoder=encoder)
    chosen = listed(pool) if pool else data.outcomes.experts
    bench = Bench(data, chosen, listed(context) if context else (), router)
    found = study(bench, [int(each) for each in budgets.split(",")], draws)
    for gain in found["gains"]:
        interval = f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
        click.echo(f"{gain['expert']}: full profile brings {gain['mean']:+.4f} {interval}")
    for row in found["rows"]:
        click.echo(_line(Row(**row)))
    if out:
        out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
