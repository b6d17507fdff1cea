"""The command line, from its help texts."""

from __future__ import annotations

from collections.abc import Iterator

import click

from coe.cli import main

_WIDTH = 100

_HEAD = """# Command line

Made from the help texts by `python -m docs.generate`.

* Data goes to stdout, everything else to stderr.
* Exit codes: 0 done, 1 failed, 2 wrong options or a registry that cannot be used.
"""


def page() -> str:
    """The whole page. Pure."""
    return "\n".join([_HEAD, *(_section(path, command) for path, command in _commands("coe", main))])


def _commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _commands(f"{path} {name}", inner)


def _section(path: str, command: click.Command) -> str:
    context = click.Context(
        command,
        info_name=path,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        **main.context_settings,
    )
    return f"## {path}\n\n```text\n{command.get_help(context)}\n```\n"
