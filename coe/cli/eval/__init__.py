"""``coe eval``: measure the composition against its experts. One file per subcommand."""

from __future__ import annotations

import click

from coe.cli._group import CommandFolder


@click.group(cls=CommandFolder, package=__name__)
def main() -> None:
    """Measure the composition against its experts."""
