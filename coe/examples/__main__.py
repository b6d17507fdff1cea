"""``python -m coe.examples prepare|train|compress|score``: make, or remake, the CPU pool."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from coe.examples.skills import all_skills, skill_named


@click.group(help=__doc__)
def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("models"))
def prepare(folder: Path) -> None:
    """Unpack the base and merge the shipped adapters into checkpoints under FOLDER. No training."""
    from coe.examples.prepare import prepare_pool

    names = prepare_pool(folder, progress=lambda name: click.echo(f"expert {name}", err=True))
    click.echo(f"{len(names)} specialists and the base are in {folder}", err=True)


@main.command()
@click.argument("skills", nargs=-1)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("var/training"), show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default=Path("models/base"), show_default=True)
@click.option("--threads", default=1, show_default=True, help="One each for two runs beats two for one.")
@click.option("--steps", type=int, default=None, help="Instead of the recipe's number of steps.")
def train(skills: tuple[str, ...], folder: Path, base: Path, threads: int, steps: int | None) -> None:
    """Fine-tune SKILLS (default: all) from the base. Resumes where an earlier run stopped."""
    import torch

    from coe.examples.base import unpack_base
    from coe.examples.train import recipe_for, train_specialist

    torch.set_num_threads(threads)
    for name in skills or [skill.name for skill in all_skills()]:
        train_specialist(skill_named(name), unpack_base(base), folder / name, recipe_for(name, steps))


@main.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("var/training"), show_default=True)
def compress(folder: Path) -> None:
    """Pack the trained adapters of FOLDER into the files that the repository ships."""
    from coe.examples import packed
    from coe.examples.prepare import SHIPPED

    SHIPPED.mkdir(exist_ok=True)
    for source in sorted(folder.glob("*/adapter_model.safetensors")):
        target = SHIPPED / f"{source.parent.name}.safetensors"
        size = packed.compress(packed.read_peft(source.parent), target)
        click.echo(f"{target.stem}: {source.stat().st_size:,} -> {size:,} bytes")


if __name__ == "__main__":
    main()
