"""``python -m coe.demo prepare``: make the CPU pool."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click


@click.group(help=__doc__)
def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("models"))
def prepare(folder: Path) -> None:
    """Unpack the base and merge the shipped adapters into checkpoints under FOLDER. No training."""
    from coe.demo.prepare import prepare_pool

    names = prepare_pool(folder, progress=lambda name: click.echo(f"expert {name}", err=True))
    click.echo(f"{len(names)} specialists and the base are in {folder}", err=True)


if __name__ == "__main__":
    main()
