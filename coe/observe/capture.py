"""A record of what was asked and answered: off by default, redacted, bounded, one JSON object a line.

What a client marks as not to be stored (``Cache-Control: no-store``, or ``"store": false``) is not recorded.
Redaction finds what has a known form, not all that is personal: guard the file like the prompts.
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from coe.core.files import Behind, append_line, path_in
from coe.core.openai import first_choice, parse_event, text_of
from coe.core.types import Receipt, Request, is_data_url
from coe.registry.service_settings import CaptureSettings, Redacted

log = logging.getLogger(__name__)

MAX_PENDING = 1_000
MAX_PENDING_BYTES = 64_000_000
"""Records that wait to be written, and their bytes; while so many wait, others are dropped and counted."""
MAX_ANSWER_BYTES = 4_000_000
LEFT_OUT = frozenset({"user", "metadata", "safety_identifier"})
"""Fields of a request that say who asked."""

# None of them may take time that grows with the square of a text's length: clients could stop the service.
FORMS: Mapping[Redacted, str] = {
    "email": r"(?<![\w.%+-])[\w.%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+",
    "key": "|".join(
        (
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?",
            r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",  # a JSON web token
            r"\b(?:sk|pk|rk|coe|hf|ghp|gho|ghs|ghu|github_pat|glpat|xox[abeoprs]|AIza|npm|pypi)[-_]?[\w-]{16,}",
            r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
            r"(?i:\bbearer\s+)[\w.~+/=-]{8,}",
            r"(?i:\b(?:password|passwd|secret|api[_-]?key|token)\b\s*[:=]\s*)[^\s,;]{4,}",
            r"\b(?=[0-9a-fA-F]*[0-9])(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{32,}\b",
        )
    ),
    "number": "|".join(
        (
            r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",  # an IBAN
            r"(?<![\w.])\+?\d(?:[ ./()-]{0,2}\d){6,}(?!\w)",  # telephones, cards, accounts: seven digits
        )
    ),
}


def redactor(kinds: Iterable[Redacted], patterns: Iterable[str] = ()) -> Callable[[str], str]:
    """Replaces what has one of the forms by its kind, and what ``patterns`` find by [redacted]."""
    steps = [(re.compile(FORMS[kind]), f"[{kind}]") for kind in FORMS if kind in set(kinds)]
    steps += [(re.compile(pattern), "[redacted]") for pattern in patterns]

    def redact(text: str) -> str:
        for pattern, word in steps:
            text = pattern.sub(word, text)
        return text

    return redact


@dataclass(frozen=True)
class CapturedExchange:
    """One request and what came of it. ``answer``: the bytes that the client was sent, as far as they came;
    ``failed``: the code of the error that it was told."""

    request: Request
    holder: str
    receipt: Receipt | None
    answer: bytes
    failed: str | None = None

    @property
    def size(self) -> int:
        """Bytes, about: as they came and went."""
        return self.request.size + len(self.answer)


class Recorder:
    """Writes records behind the requests' back, in order. One event loop; ``close`` waits for the rest."""

    def __init__(self, path: Path, settings: CaptureSettings) -> None:
        self._file = BoundedFile(path, int(settings.max_mb * 1e6), settings.keep)
        self._redact = redactor(settings.redact, settings.patterns)
        # Each has one writer: the event loop counts what it takes, the writing thread what it has done with.
        self._taken, self._done = _Count(), _Count()
        self._refused = self._failed = 0
        self._writer = Behind("the record of prompts")

    @property
    def results(self) -> Mapping[str, int]:
        """How many records so far were written and dropped."""
        written = self._done.records - self._failed
        return {"written": written, "dropped": self._refused + self._failed}

    def wants(self, request: Request) -> bool:
        return not request.private and request.body.get("store") is not False

    def take(self, exchange: CapturedExchange) -> None:
        """Quick; never raises."""
        waiting = self._taken.records - self._done.records
        if waiting >= MAX_PENDING or self._taken.size - self._done.size >= MAX_PENDING_BYTES:
            self._refused += 1
            return
        self._taken.add(exchange)
        self._writer.give(partial(self._write, exchange, time.time()))

    def close(self) -> None:
        """Blocking (milliseconds a record)."""
        self._writer.close()

    def _write(self, exchange: CapturedExchange, at: float) -> None:
        try:
            self._file.append(json.dumps(entry(exchange, at, self._redact), ensure_ascii=False))
        except Exception as error:
            self._failed += 1
            log.warning("request %s could not be recorded: %s", exchange.request.id, type(error).__name__)
        finally:
            self._done.add(exchange)


@dataclass
class _Count:
    records: int = 0
    size: int = 0

    def add(self, exchange: CapturedExchange) -> None:
        self.records += 1
        self.size += exchange.size


class BoundedFile:
    """Lines in a file of at most ``max_bytes`` and in ``keep`` older ones (``.1`` is the newest). Several
    processes of one machine may write to it. Readable by its owner only. Blocking."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self._path, self._max_bytes, self._keep = path, max_bytes, keep

    def append(self, line: str) -> None:
        raw = line.encode("utf-8", "replace")
        with self._alone():
            if self._size() and self._size() + len(raw) + 1 > self._max_bytes:
                self._rotate()
            append_line(self._path, raw, 0o600)

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _rotate(self) -> None:
        for number in range(self._keep, 0, -1):
            younger = self._numbered(number - 1)
            if younger.exists():
                younger.replace(self._numbered(number))
        self._path.unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_name(self._path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def open_recorder(settings: CaptureSettings, root: Path) -> Recorder:
    return Recorder(path_in(root, settings.file), settings)


def entry(exchange: CapturedExchange, at: float, redact: Callable[[str], str]) -> dict[str, Any]:
    """A record. ``time`` in Unix seconds."""
    request, receipt = exchange.request, exchange.receipt
    body = {name: value for name, value in request.body.items() if name not in LEFT_OUT}
    return {
        "time": round(at, 3),
        "request_id": request.id,
        "key": exchange.holder,
        "endpoint": request.endpoint,
        "generation": receipt.generation if receipt else None,
        "router": receipt.router if receipt else None,
        "expert": receipt.expert if receipt else None,
        "request": _redacted(body, redact),
        "answer": redact(answer_text(exchange.answer, request.stream)),
        "error": exchange.failed,
    }


def answer_text(raw: bytes, stream: bool) -> str:
    """The text of the first choice, of a body or of a stream's events."""
    if not stream:
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            return ""
        return text_of(body) if isinstance(body, dict) else ""
    events = (parse_event(line) for line in raw.splitlines())
    return "".join(_piece(event) for event in events if event is not None)


def _piece(event: Mapping[str, Any]) -> str:
    choice = first_choice(event)
    delta = choice.get("delta")
    found = delta.get("content") if isinstance(delta, Mapping) else choice.get("text")
    return found if isinstance(found, str) and choice.get("index", 0) == 0 else ""


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return "[data]" if is_data_url(value) else redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted(inner, redact) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner, redact) for inner in value]
    return value
