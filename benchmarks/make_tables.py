"""``python -m benchmarks.make_tables``: the documentation's tables from recorded data."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from coe.cli._group import Failed


@dataclass(frozen=True)
class _Made:
    name: str
    text: str
    seconds: float
    failed: bool


@click.command()
@click.option("--data", type=click.Path(path_type=Path), envvar="COE_DATA", required=True,
              help="Folder with outcomes/NAME, retrieval and traces. [env: COE_DATA]")  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("var/tables"), show_default=True,
              help="Folder for NAME.md, NAME.json and NAME/; former ones are replaced.")  # fmt: skip
@click.option("--only", multiple=True, help="Only this table; may be given several times.")
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="cores",
              help="Commands at a time, each on its share of the cores.")  # fmt: skip
@click.option("--list", "listed", is_flag=True, help="Print the tables, where they stand and their commands.")
def main(data: Path, out: Path, only: tuple[str, ...], jobs: int, listed: bool) -> None:
    """Reproduce every table of the documentation that comes from recorded data, with its time."""
    from benchmarks.reproduce import TABLES
    from coe.core.suggest import suggest

    names = [table.name for table in TABLES]
    for name in only:
        if name not in names:
            raise Failed(f'there is no table "{name}"; {suggest(name, names)}')
    commands = {t.name: t.command(data, out) for t in TABLES if not only or t.name in only}
    if listed:
        pages = {table.name: table.page for table in TABLES}
        for name, command in commands.items():
            click.echo(f"{name}\t{pages[name]}\tpython -m {shlex.join(command)}")
        return
    out.mkdir(parents=True, exist_ok=True)
    for name in commands:  # Some commands go on from what stands there, which other code may have made.
        shutil.rmtree(out / name, ignore_errors=True)
    started = time.monotonic()
    _all(commands, out, jobs)
    click.echo(f"all: {time.monotonic() - started:.0f} s", err=True)


def _all(commands: dict[str, list[str]], out: Path, jobs: int) -> None:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        made = pool.map(lambda name: _make(name, commands[name], threads), commands)
        for one in made:
            if one.failed:
                pool.shutdown(cancel_futures=True)
                raise Failed(f"the table {one.name} could not be made", "The reason stands above.")
            (out / f"{one.name}.md").write_text(one.text, encoding="utf-8")
            click.echo(f"\n## {one.name}\n\n{one.text}")
            click.echo(f"{one.name}: {one.seconds:.0f} s", err=True)


def _make(name: str, command: Sequence[str], threads: int) -> _Made:
    began = time.monotonic()
    # A process each: what one command holds in memory does not weigh on the next.
    done = subprocess.run(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    return _Made(name, done.stdout, time.monotonic() - began, done.returncode != 0)


if __name__ == "__main__":
    main()
