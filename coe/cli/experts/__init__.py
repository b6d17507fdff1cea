"""``coe experts``: see the experts, add and remove them. One file per subcommand."""

from __future__ import annotations

import click

from coe.cli._group import CommandFolder


@click.group(cls=CommandFolder, package=__name__)
def main() -> None:
    """List, show, add, remove and profile experts."""
