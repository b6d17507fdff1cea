"""Groups of commands: found by file name, errors in one clear line, unknown names with the nearest one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from keyword import iskeyword
from typing import Any

import click

from coe.core.errors import CoeError, ConfigError
from coe.core.suggest import suggest


class Failed(click.ClickException):
    """A failure as the terminal shows it: what, and what to do about it. No traceback; exit code 1."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if not hint else f"{message}\nHint: {hint}")


class FailedConfig(Failed):
    """The registry is at fault: exit code 2, as for a wrong option."""

    exit_code = 2


@contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise FailedConfig(error.message, error.hint) from None
    except CoeError as error:
        raise Failed(error.message, error.hint) from None
    except BrokenPipeError:  # whoever read our output has enough, which click knows
        raise
    except UnicodeDecodeError as error:
        raise Failed(f"a file is not UTF-8 text: {error}") from None
    except OSError as error:
        what = error.strerror or str(error)
        raise Failed(f"{error.filename}: {what}" if error.filename is not None else what) from None


class Group(click.Group):
    """A group whose unknown commands name the choices."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f'there is no command "{args[0]}"; {suggest(args[0], self.list_commands(ctx))}')
        return super().resolve_command(ctx, args)


class CommandFolder(Group):
    """The group whose commands are the modules of ``package`` (without a leading underscore).

    A command whose name is a keyword of Python ends with an underscore as a module: ``import_.py``.
    """

    def __init__(self, *args: Any, package: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._package = package

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        folder = importlib.import_module(self._package).__path__
        modules = (module.name for module in pkgutil.iter_modules(folder))
        return sorted(name.rstrip("_") for name in modules if name[0] != "_")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = importlib.import_module(f"{self._package}.{module}").main
        command.name = cmd_name
        return command

    def invoke(self, ctx: click.Context) -> Any:
        with _readable_errors():
            return super().invoke(ctx)
