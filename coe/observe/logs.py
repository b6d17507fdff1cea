"""Logs on stderr, as text or as one JSON object a line, each with the request that it belongs to.

A record stays one line, and nobody's words look like a record of their own: control characters, line breaks
and what turns the direction of writing are escaped, and the further lines of a traceback are indented.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from coe.core.errors import CoeError
from coe.core.types import Request
from coe.observe.capture import redactor

LogFormat = Literal["text", "json"]

REQUEST: ContextVar[str | None] = ContextVar("request", default=None)
"""The id of the request that is being answered; every task has its own."""

_SHOWN_CHARS = 80
_READ_CHARS, _PROMPT_CHARS = 400, 20_000
_QUOTE = 12
"""So many characters in a row that the question has too are a quotation of it."""

_UNSAFE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
_redacted = redactor(("email", "key", "number"))


def escaped(text: str) -> str:
    """One line, in which every character stands for itself."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def loggable(request: Request, error: CoeError) -> str:
    """What a log may say of an error: its code and, where the request is not private, the beginning of its
    words without what has the form of a secret and without what they quote of the question."""
    if request.private:
        return error.code
    said = _redacted(_unquoted(error.message[:_READ_CHARS], request.text))
    return f"{error.code}: {said[:_SHOWN_CHARS]}"


def _unquoted(said: str, question: str) -> str:
    size = max(4, min(_QUOTE, len(question.strip())))
    question = question[:_PROMPT_CHARS] + "\n" + question[-_PROMPT_CHARS:]
    quoted = [said[i : i + size] in question for i in range(len(said) - size + 1)]
    kept = [any(quoted[max(0, i - size + 1) : i + 1]) for i in range(len(said))]
    marked = "".join("\0" if hidden else sign for sign, hidden in zip(said, kept, strict=True))
    return re.sub("\0+", "[question]", marked)


class TextLines(logging.Formatter):
    """``TIME LEVEL LOGGER: MESSAGE``; a traceback follows, each of its lines behind a bar."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.message, record.asctime = record.getMessage(), self.formatTime(record)
        lines = [self.formatMessage(record)]
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        return "\n  | ".join(map(escaped, lines))


class JsonLines(logging.Formatter):
    """``time`` (UTC), ``level``, ``logger``, ``message``, and where known ``request_id`` and ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request := REQUEST.get()) is not None:
            entry["request_id"] = request
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def set_up_logs(form: LogFormat) -> None:
    """For the whole process; once, before anything is logged."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
