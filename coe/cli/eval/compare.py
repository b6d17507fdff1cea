"""``coe eval compare``: two live runs, paired."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from coe.cli._options import PATH, json_file_option, write_json


@click.command()
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@json_file_option
def main(a: Path, b: Path, json_out: Path | None) -> None:
    """Compare the runs in folders A and B question by question: difference, interval, swaps, time."""
    from coe.eval.live.compare import compare, comparison_lines
    from coe.eval.report.tables import summary_table

    found = compare(a, b)
    click.echo(summary_table([found.a, found.b]))
    click.echo("\n" + "\n".join(comparison_lines(found)))
    write_json(json_out, asdict(found))
