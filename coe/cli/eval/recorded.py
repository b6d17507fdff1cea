"""``coe eval recorded``: routers and aggregators over recorded outcomes; no model runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from coe.cli._options import PATH


@click.command()
@click.option("--outcomes", type=PATH, required=True, help="Folder of an outcome set.")
@click.option("--pool", help="Experts, separated by commas (quote a name that has one). [default: all]")
@click.option("--routers", help="Routers to measure. [default: all]")
@click.option("--aggregators", help="Aggregators of several answers. [default: vote,weighted_vote,learned]")
@click.option(
    "--experts-per-query",
    default="1",
    help="Numbers of experts, such as 1,3,5; also top-p:P, of at most the largest of them (1: 5).",
)
@click.option("--train-split", help="Learn from this split.")
@click.option("--test-split", help="Measure on this split.")
@click.option("--folds", default=5, help="Without splits: folds of cross-validation.")
@click.option("--seed", default=0, help="Seed of the folds and of the resampling.")
@click.option("--encoder", default="minilm-int8", help="Sentence encoder of the questions.")
@click.option("--fits", type=PATH, help="Folder of fitted models, shared by runs on the same data.")
@click.option("--json", "json_out", type=PATH, help="Write the figures to this file.")
@click.option("--report", type=PATH, help="Write an HTML page with plots.")
def main(
    outcomes: Path,
    pool: str | None,
    routers: str | None,
    aggregators: str | None,
    experts_per_query: str,
    train_split: str | None,
    test_split: str | None,
    folds: int,
    seed: int,
    encoder: str,
    fits: Path | None,
    json_out: Path | None,
    report: Path | None,
) -> None:
    """Measure routers on recorded outcomes: who would have been asked, and was the answer right?

    The line "default" is what the service does without options. It is chosen on learning questions only.
    """
    from coe.cli._options import counts
    from coe.eval.recorded.report import all_rows, figures, table
    from coe.eval.recorded.run import Settings, listed, open_study

    usual = Settings(outcomes)
    fixed, masses = counts(experts_per_query, "--experts-per-query")
    started = time.perf_counter()
    study = open_study(
        Settings(
            outcomes=outcomes,
            pool=listed(pool or ""),
            routers=listed(routers) if routers else usual.routers,
            aggregators=listed(aggregators) if aggregators else usual.aggregators,
            experts_per_query=fixed,
            top_p=masses,
            train_split=train_split,
            test_split=test_split,
            folds=folds,
            seed=seed,
            encoder=encoder,
            fits=fits,
        )
    )
    rows = list(all_rows(study))
    document = figures(study, rows, time.perf_counter() - started)
    click.echo(table(document))
    if json_out:
        json_out.write_text(json.dumps(document, indent=1))
    if report:
        from coe.eval.report.recorded import write_recorded_report

        write_recorded_report(document, study, report)
