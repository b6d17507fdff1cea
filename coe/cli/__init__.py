"""The ``coe`` command line.

Every module of this package without a leading underscore is a command: its file name is the command's
name, and it exports the click command as ``main``. A new command is a new file. Modules import what is
heavy inside their functions, so that ``coe --help`` is quick. Data goes to stdout, all else to stderr.
"""

from __future__ import annotations

import click

from coe import __version__
from coe.cli._group import CommandFolder

__all__ = ["main"]


_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=CommandFolder, package=__name__, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="coe")
def main() -> None:
    """Composition of Experts: one OpenAI-compatible endpoint in front of many expert LLMs."""
