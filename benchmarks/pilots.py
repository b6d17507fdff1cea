"""The rule of RouterRetriever, and what ``pilot`` learns of its pilots: ``python -m benchmarks.pilots``."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click
import numpy as np

from coe.eval.recorded.folds import cross_folds
from coe.eval.recorded.run import open_study
from coe.eval.recorded.sets import PARTS, settings_of
from coe.eval.recorded.study import evidence_of
from coe.eval.statistics import calibration
from coe.routers.learning.features import text_features
from coe.routers.pilot import PilotEstimator, Pooling


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--set", "name", type=click.Choice(list(PARTS)), default="pool-a", show_default=True)
@click.option("--seed", default=3, show_default=True)
@click.option("--encoder", default="static", show_default=True)
def main(data: Path, name: str, seed: int, encoder: str) -> None:
    """Accuracy in percent, and the calibration error of what is stated of the expert asked."""
    study = open_study(settings_of(PARTS[name], data, ("static",), encoder, None))
    outcomes, texts = study.outcomes, [question.text or "" for question in study.outcomes.questions]
    features = text_features(texts)
    single: list[float] = []
    rule: dict[str, list[float]] = {pooling: [] for pooling in get_args(Pooling)}
    learned: dict[str, list[tuple[float, float]]] = {pooling: [] for pooling in get_args(Pooling)}
    for fold in cross_folds(outcomes.questions, 5, seed):
        evidence = evidence_of(outcomes, study.vectors, features, fold.train, study.plan.encoder)
        scores, rows = np.nan_to_num(outcomes.scores[fold.test]), np.arange(len(fold.test))
        single += scores[:, int(np.nanmean(evidence.scores, axis=0).argmax())].tolist()
        for pooling in get_args(Pooling):
            pilots, vectors = PilotEstimator(pooling).fit(evidence), study.vectors[fold.test]
            rule[pooling] += scores[rows, pilots.similarities(vectors).argmax(axis=1)].tolist()
            stated = pilots.estimate([texts[i] for i in fold.test], vectors)
            best = stated.argmax(axis=1)
            pairs = zip(stated[rows, best].tolist(), scores[rows, best].tolist(), strict=True)
            learned[pooling] += pairs
    click.echo("| pooling | best single | the paper's rule | `pilot` | its ECE |\n|---|--:|--:|--:|--:|")
    for pooling in get_args(Pooling):
        sure, right = (list(each) for each in zip(*learned[pooling], strict=True))
        cells = [single, rule[pooling], right]
        numbers = " | ".join(f"{100 * float(np.mean(each)):.1f}" for each in cells)
        click.echo(f"| {pooling} | {numbers} | {calibration(sure, right).error:.3f} |")


if __name__ == "__main__":
    main()
