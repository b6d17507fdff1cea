"""What a log line may contain: a record is one line whatever it quotes, and no expert repeats a question."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace

import pytest

from coe.core.errors import EngineError, ExpertRefused
from coe.observe.logs import JsonLines, TextLines, loggable
from coe.testing.conformance_aggregator import request

FORGED = "2026-01-01 00:00:00,000 ERROR coe.access.doorman: FORGED"
BREAKS = [
    "\n",
    "\r",
    "\r\n",
    "\x0b",
    "\x0c",
    "\x1b[2K\x1b[1G",
    "\x85",
    "\u2028",
    "\u2029",
    "\x00",
    "\u202e",
    "\ud800",
]


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("coe.x", logging.WARNING, "", 0, "%s gave no answer", (message,), None)


@pytest.mark.parametrize("sign", BREAKS)
@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()], ids=["text", "json"])
def test_no_words_of_others_begin_a_line(formatter: logging.Formatter, sign: str) -> None:
    line = formatter.format(record(f"bad{sign}{FORGED}"))
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert "FORGED" in line


@pytest.mark.parametrize("sign", BREAKS)
def test_a_traceback_s_lines_stand_behind_a_bar(sign: str) -> None:
    one = record("x")
    try:
        raise ValueError(f"bad{sign}{FORGED}")
    except ValueError:
        one.exc_info = sys.exc_info()
    first, *further = TextLines().format(one).splitlines()
    assert first.endswith("WARNING coe.x: x gave no answer")
    assert further
    assert all(line.startswith("  | ") and line.isprintable() for line in further)
    assert FORGED in json.loads(JsonLines().format(one))["error"]


@pytest.mark.parametrize("form", [TextLines(), JsonLines()])
def test_other_scripts_stay_readable_or_parse(form: logging.Formatter) -> None:
    line = form.format(record("Größe 東京"))
    assert "Größe 東京" in (line if isinstance(form, TextLines) else json.loads(line)["message"])


QUESTION = "My social security number is 123-45-6789 and my doctor is Ann Miller; am I ill?"


@pytest.mark.parametrize(
    "said",
    [
        f"cannot parse: {QUESTION}",
        QUESTION,
        "invalid: 'my doctor is Ann Miller; am I'",
        "x" * 70 + QUESTION,
        f"{{'error': 'input was {QUESTION!r}'}}",
    ],
)
@pytest.mark.parametrize("kind", [EngineError, lambda said: ExpertRefused(400, said, code="bad")])
def test_what_an_expert_quotes_of_the_question_is_not_logged(kind: type[EngineError], said: str) -> None:
    shown = loggable(replace(request(), text=QUESTION), kind(said))
    assert len(shown) < 120
    for private in ("6789", "Miller", "doctor", "security"):
        assert private not in shown


def test_secrets_by_form_are_not_logged_and_the_reason_is() -> None:
    shown = loggable(
        request(), EngineError("no room for ann@example.org, 123-45-6789, sk-abcdefghijklmnop1234")
    )
    assert shown == "engine_failed: no room for [email], [number], [key]"


def test_a_private_request_s_error_is_its_code() -> None:
    assert loggable(replace(request(), private=True), EngineError("out of memory")) == "engine_failed"


def test_a_long_reason_and_a_long_question_are_bounded() -> None:
    assert len(loggable(replace(request(), text="a b " * 1_000_000), EngineError("z" * 10_000_000))) < 120
