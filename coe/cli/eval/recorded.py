"""``coe eval recorded``: routers and aggregators over recorded outcomes; no model runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click


@click.command()
@click.option("--outcomes", type=click.Path(path_type=Path), required=True, help="Folder of an outcome set.")
@click.option("--pool", help="Experts, with commas between (quote a name with a comma); default: all.")
@click.option("--routers", help="Routers to measure; default: all of them.")
@click.option("--aggregators", help="How several answers become one; default: vote,weighted_vote,learned.")
@click.option(
    "--experts-per-query",
    default="1",
    show_default=True,
    help="Numbers of experts, as 1,3,5; also top-p:P, with the largest of them (5 beside 1) as the most.",
)
@click.option("--train-split", help="Learn from this split...")
@click.option("--test-split", help="...and ask that one.")
@click.option("--folds", default=5, show_default=True, help="Without splits: folds of cross-validation.")
@click.option("--seed", default=0, show_default=True, help="Of the folds and the resampling.")
@click.option(
    "--encoder", default="minilm-int8", show_default=True, help="Sentence encoder of the questions."
)
@click.option(
    "--fits", type=click.Path(path_type=Path), help="Folder of fits that runs on the same data share."
)
@click.option("--json", "json_out", type=click.Path(path_type=Path), help="Write the figures to this file.")
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page with plots.")
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

    The line named "default" is what the service would do unasked, chosen on learning questions only.
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
