"""``python -m benchmarks.training train|compress|score``: train the demonstration experts anew."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from coe.demo.skills import all_skills, skill_named


@click.group(help=__doc__)
def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")


@main.command()
@click.argument("skills", nargs=-1)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("var/training"), show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default=Path("models/base"), show_default=True)
@click.option("--threads", default=1, show_default=True, help="One each for two runs beats two for one.")
@click.option("--steps", type=int, default=None, help="Instead of the recipe's number of steps.")
def train(skills: tuple[str, ...], folder: Path, base: Path, threads: int, steps: int | None) -> None:
    """Fine-tune SKILLS (default: all) from the base. Resumes where an earlier run stopped."""
    import torch

    from benchmarks.training.train import recipe_for, train_specialist
    from coe.demo.base import unpack_base

    torch.set_num_threads(threads)
    for name in skills or [skill.name for skill in all_skills()]:
        train_specialist(skill_named(name), unpack_base(base), folder / name, recipe_for(name, steps))


@main.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("var/training"), show_default=True)
def compress(folder: Path) -> None:
    """Pack the trained adapters of FOLDER into the files that the repository ships."""
    from coe.demo import packed
    from coe.demo.prepare import SHIPPED

    SHIPPED.mkdir(exist_ok=True)
    for source in sorted(folder.glob("*/adapter_model.safetensors")):
        target = SHIPPED / f"{source.parent.name}.safetensors"
        size = packed.compress(packed.read_peft(source.parent), target)
        click.echo(f"{target.stem}: {source.stat().st_size:,} -> {size:,} bytes")


@main.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("var/training"), show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default=Path("models/base"), show_default=True)
@click.option("--questions", default=100, show_default=True, help="Held-out questions of each skill.")
def score(folder: Path, base: Path, questions: int) -> None:
    """Accuracy of each adapter before (trained, float32) and after (packed, ternary) compression."""
    from benchmarks.training.score import accuracy
    from coe.demo.prepare import SHIPPED
    from coe.demo.questions import HELD_OUT_SEED, distinct_questions

    click.echo("| skill | before | after | bytes before | bytes after |\n|---|---|---|---|---|")
    for skill in all_skills():
        trained, shipped = folder / skill.name, SHIPPED / f"{skill.name}.safetensors"
        asked = distinct_questions(skill, "test", questions, HELD_OUT_SEED)
        before = accuracy(base, trained, skill, asked) if trained.exists() else None
        after = accuracy(base, shipped, skill, asked)
        size = (trained / "adapter_model.safetensors").stat().st_size if trained.exists() else None
        shown = "not trained here" if before is None else f"{before:.2f}"
        click.echo(f"| {skill.name} | {shown} | {after:.2f} | {size or '-'} | {shipped.stat().st_size} |")


if __name__ == "__main__":
    main()
