"""``coe eval extraction``: strict against lenient extraction on recorded outputs."""

from __future__ import annotations

from dataclasses import asdict, astuple
from pathlib import Path

import click

from coe.cli._options import PATH, json_file_option, write_json


@click.command()
@click.option("--outcomes", type=PATH, required=True,
              help="Outcome set with outputs.parquet (question_id, expert, output).")  # fmt: skip
@json_file_option
def main(outcomes: Path, json_out: Path | None) -> None:
    """Compare two ways to read recorded multiple-choice outputs: ours and that of MMLU-Pro's authors."""
    from coe.eval.live.lenient import agreements
    from coe.eval.report.tables import markdown

    found = agreements(outcomes)
    head = ("expert", "outputs", "unparsed, strict", "unparsed, lenient", "disagree", "accuracy, strict",
            "accuracy, lenient", "only lenient right", "only strict right")  # fmt: skip
    click.echo(markdown(head, [astuple(one) for one in found]))
    write_json(json_out, [asdict(one) for one in found])
