"""``coe eval import``: outcome sets from results that exist."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("import")
@click.argument("kind")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the outcome set."
)
@click.option("--expert", help="The expert's name, where the files do not say it.")
@click.option(
    "--prices", type=click.Path(path_type=Path), help="experts.yaml, or a CSV as in an outcome set."
)
def main(kind: str, paths: tuple[Path, ...], out: Path, expert: str | None, prices: Path | None) -> None:
    """Make an outcome set of KIND from files or folders.

    KIND is lm-eval (samples_*.jsonl), mmlu-pro (the authors' model_outputs_*), csv
    (question_id,expert,score,...), feedback (the service's feedback file) or run (folders of `coe eval
    run`). `coe eval recorded --outcomes DIR` and `coe experts profile --from DIR` read the result.
    """
    from coe.eval.importers import importer
    from coe.eval.importers.writing import write_outcome_set
    from coe.eval.live.prices import read_prices

    imported = importer(kind)(paths, expert)
    write_outcome_set(out, imported, read_prices(prices))
    experts = sorted({row.expert for row in imported.outcomes})
    for note in imported.notes:
        click.echo(note, err=True)
    click.echo(
        f"{out}: {len(imported.questions)} questions, {len(experts)} experts, "
        f"{len(imported.outcomes)} outcomes"
    )
