"""``coe eval import``: outcome sets from results that exist."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from coe.cli._options import PATH


@click.command("import")
@click.argument("kind")
@click.argument("paths", nargs=-1, required=True, type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="Folder of the outcome set.")
@click.option("--expert", help="Name of the expert, where the files do not give it.")
@click.option(
    "--dev-share", type=click.FloatRange(0, 1),
    help="Of a test split: let this share be learned from; the rest stays for testing."
)  # fmt: skip
@click.option("--seed", default=0, help="With --dev-share: which questions these are.")
@click.option("--prices", type=PATH, help="Prices: experts.yaml, or a CSV file as in an outcome set.")
def main(
    kind: str,
    paths: tuple[Path, ...],
    out: Path,
    expert: str | None,
    dev_share: float | None,
    seed: int,
    prices: Path | None,
) -> None:
    """Make an outcome set from files or folders of KIND.

    \b
    lm-eval    samples_*.jsonl of lm-evaluation-harness
    mmlu-pro   model_outputs_* of MMLU-Pro's authors
    csv        question_id,expert,score,...
    feedback   the service's feedback file
    run        folders of `coe eval run`

    Questions keep the split that they come with. Profiles are never made from
    a test split: part it with --dev-share, and measure on the rest.
    `coe eval recorded --outcomes DIR` and `coe experts profile --from DIR` read the result.
    """
    from coe.eval.importers import importer
    from coe.eval.importers.writing import with_dev_share, write_outcome_set
    from coe.eval.live.prices import read_prices

    imported = importer(kind)(paths, expert)
    if dev_share is not None:
        imported = with_dev_share(imported, dev_share, seed)
    write_outcome_set(out, imported, read_prices(prices))
    experts = sorted({row.expert for row in imported.outcomes})
    splits = Counter(question.split for question in imported.questions)
    for note in imported.notes:
        click.echo(note, err=True)
    click.echo(
        f"{out}: {len(imported.questions)} questions, {len(experts)} experts, "
        f"{len(imported.outcomes)} outcomes; splits: "
        + ", ".join(f"{name or 'none'} {count}" for name, count in sorted(splits.items()))
    )
