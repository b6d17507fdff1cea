"""``coe eval recorded``: routers and aggregators over recorded outcomes; no model runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from coe.cli._options import PATH, json_file_option, write_json


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
@json_file_option
@click.option("--report", type=PATH, help="Write an HTML page with plots.")
def main(experts_per_query: str, json_out: Path | None, report: Path | None, **options: Any) -> None:
    """Measure routers on recorded outcomes: who would have been asked, and was the answer right?

    The line "default" is what the service does without options. It is chosen on learning questions only.
    """
    from coe.cli._options import counts
    from coe.eval.recorded.report import all_rows, figures, table
    from coe.eval.recorded.run import Settings, listed, open_study

    fixed, masses = counts(experts_per_query, "--experts-per-query")
    started = time.perf_counter()
    for name in ("pool", "routers", "aggregators"):
        names = listed(options.pop(name) or "")
        options |= {name: names} if names else {}
    study = open_study(Settings(**options, experts_per_query=fixed, top_p=masses))
    rows = list(all_rows(study))
    document = figures(study, rows, time.perf_counter() - started)
    click.echo(table(document))
    write_json(json_out, document)
    if report:
        from coe.eval.report.recorded import write_recorded_report

        write_recorded_report(document, study, report)
