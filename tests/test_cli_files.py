"""Every command with every option that names a file: what is none gets one clear line, no traceback."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from coe.cli import main
from tests.test_cli import FILE, coe, no_traceback

pytestmark = pytest.mark.slow  # most commands import much

BAD = ("folder", "garbage", "list", "folder/missing", "garbage/beneath", "loop", "x" * 300)
ELSEWHERE = {"deploy", "status", "undeploy"}
"""These ask a Ray cluster."""


def commands(group: click.Group, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in sorted(set(group.list_commands(context)) - ELSEWHERE):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, *words, name)
        elif command is not None:
            yield (*words, name), command


def value(option: click.Option) -> str:
    return str(option.type.choices[0]) if isinstance(option.type, click.Choice) else "1"


def calls() -> Iterator[tuple[str, ...]]:
    """One for each argument and each option that names a file, the others as they should be."""
    kinds = itertools.cycle(BAD)
    for words, command in commands(main):
        arguments = [each for each in command.params if isinstance(each, click.Argument)]
        paths = [each for each in command.params if isinstance(each.type, click.Path)]
        for one in dict.fromkeys([*arguments, *paths]):
            kind = next(kinds)
            given = [kind if each is one else "sums" for each in arguments]
            needed = [each for each in command.params if isinstance(each, click.Option) and each.required]
            options = [word for each in needed if each is not one for word in (each.opts[0], value(each))]
            bad = [one.opts[0], kind] if isinstance(one, click.Option) else []
            yield (*words, *given, *options, *bad)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "experts.yaml").write_text(FILE, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "garbage").write_bytes(b'\xff\xfe\x00garbage\n{"\xff')
    (tmp_path / "list").write_text('[1, null, "x"]\n')
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_command_shows_a_traceback_for_a_file_that_is_none(folder: Path) -> None:
    tried = list(calls())
    assert len(tried) > 50
    bad = {}
    for words in tried:
        result = CliRunner().invoke(main, list(words), input="")
        if not no_traceback(result):
            bad[words] = repr(result.exception)
    assert bad == {}


@pytest.mark.parametrize("model", ["loop", "~nobody-of-this-name/model", "x" * 300, "hf:" + "x" * 300 + "/y"])
@pytest.mark.parametrize("words", [("check",), ("experts", "add", "new", "--on", "slot", "--model")])
def test_a_model_that_no_path_can_be_is_named(folder: Path, model: str, words: tuple[str, ...]) -> None:
    if words == ("check",):
        (folder / "experts.yaml").write_text(FILE.replace("models/sums", model), encoding="utf-8")
        model_words: tuple[str, ...] = ()
    else:
        model_words = (model,)
    result = coe(*words, *model_words)
    assert no_traceback(result)
    if not model.startswith("hf:"):
        assert result.exit_code in (1, 2)
