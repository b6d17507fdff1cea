"""``coe eval aggregation``: ways of asking several experts, measured through the API."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

import click

from coe.cli._client import service_client
from coe.cli._options import PATH, json_file_option, url_option, write_json
from coe.cli._progress import collected


@click.command()
@url_option
@click.option("--per-skill", default=18, help="Held-out questions of each skill.")
@click.option("--pairs", default=40, help="Questions that need two skills.")
@click.option("--concurrency", default=16, help="Questions asked at once.")
@click.option("--best-single", help="Also ask this expert alone. Choose it on other questions than these.")
@click.option("--arms", "wanted", help="Only these ways of asking, separated by commas.")
@click.option("--record", type=PATH, help="JSONL file of answers; a second run continues from it.")
@json_file_option
def main(
    url: str | None,
    ca: Path | None,
    per_skill: int,
    pairs: int,
    concurrency: int,
    best_single: str | None,
    wanted: str | None,
    record: Path | None,
    json_out: Path | None,
) -> None:
    """Compare one routed expert with votes, syntheses and samples at the same number of completions.

    The questions are fixed: held-out ones of the demonstration, and some that need two skills.
    """
    from coe.eval.demo.aggregation import arms, ask_all, lines, table, tasks

    asked = [arm for arm in arms(best_single) if wanted is None or arm.name in wanted.split(",")]
    questions, service = tasks(per_skill, pairs), service_client(url, ca)
    answers = ask_all(service.url.rstrip("/"), asked, questions, record, concurrency, service.trust)
    rows = asyncio.run(
        collected(answers, len(asked) * len(questions), lambda row: str(row["arm"]), service.url)
    )
    found = lines(rows, [arm.name for arm in asked])
    click.echo(f"{len(questions)} questions; 95% intervals, differences paired by question\n\n{table(found)}")
    write_json(json_out, [asdict(line) for line in found])
