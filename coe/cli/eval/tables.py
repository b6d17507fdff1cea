"""``coe eval tables``: the documentation's tables from recorded data."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click

from coe.cli._group import Failed


@click.command()
@click.option("--data", type=click.Path(path_type=Path), envvar="COE_DATA", required=True,
              help="Folder with outcomes/NAME. [env: COE_DATA]")  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("var/tables"), show_default=True,
              help="Folder for NAME.md, NAME.json and NAME.html.")  # fmt: skip
@click.option("--only", multiple=True, help="Only this table; may be given several times.")
def main(data: Path, out: Path, only: tuple[str, ...]) -> None:
    """Make every table of the documentation anew, one command after the other, with its time."""
    from coe.suggest import suggest
    from eval.reproduce import TABLES

    names = [table.name for table in TABLES]
    for name in only:
        if name not in names:
            raise Failed(f'there is no table "{name}"; {suggest(name, names)}')
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for table in TABLES:
        if not only or table.name in only:
            _make(table.name, table.command(data, out), out)
    click.echo(f"all: {time.monotonic() - started:.0f} s", err=True)


def _make(name: str, command: list[str], out: Path) -> None:
    began = time.monotonic()
    # A process each: what one command holds in memory does not weigh on the next.
    done = subprocess.run([sys.executable, "-m", "eval", *command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failed(f"the table {name} could not be made", "The reason stands above.")
    (out / f"{name}.md").write_text(done.stdout, encoding="utf-8")
    click.echo(f"\n## {name}\n\n{done.stdout}")
    click.echo(f"{name}: {time.monotonic() - began:.0f} s", err=True)
