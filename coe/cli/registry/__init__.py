"""``coe registry``: the accepted versions of experts.yaml. One file per subcommand."""

from __future__ import annotations

import click

from coe.cli._group import CommandFolder


@click.group(cls=CommandFolder, package=__name__)
def main() -> None:
    """List the accepted versions of experts.yaml, and return to one."""
