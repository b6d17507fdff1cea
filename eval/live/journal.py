"""The journal of a live run: what was asked and what came back, on disk before anything else happens.

One JSON object a line, each with a ``kind``:

    run       what is asked of whom; first line, written once
    session   the run was started or resumed
    routed    the ranking of a question (batch mode)
    asked     a call is about to be sent; written before it is sent
    answered  its answer, parsed and marked
    failed    the service refused it for good
    meter     the service's swap counter

A call that was answered is never sent again. One that was only asked when the process died is sent again
by the next session, because its answer never arrived; the results say how many such calls there were.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from coe.core.errors import ConfigError

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Answered:
    """An answered call. ``output`` is None for withheld tasks; ``answer`` None where none could be parsed.

    ``expert`` is who answered as far as the service said; ``at`` seconds since the epoch.
    """

    call: str
    expert: str
    output: str | None
    output_hash: str
    answer: str | None
    score: float
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    latency_ms: float
    finish_reason: str | None
    receipt: Mapping[str, Any] | None
    at: float


@dataclass(frozen=True)
class Meter:
    """The service's count of swaps since it started, ``at`` a time of session ``session``."""

    session: int
    swaps: float
    at: float


class History:
    """What stands in a journal."""

    def __init__(self) -> None:
        self.answers: dict[str, Answered] = {}
        self.failures: dict[str, str] = {}
        self.routes: dict[str, Mapping[str, float]] = {}
        self.asked: Counter[str] = Counter()
        self.meters: list[Meter] = []
        self.sessions: list[tuple[float, float]] = []
        """start and last sign of life of each, in seconds since the epoch"""
        self.header: Entry | None = None
        """what the run asks; None before the first session"""

    def note(self, entry: Entry) -> None:
        """Take in one line."""
        kind, at = entry["kind"], entry.get("at")
        if kind == "run":
            self.header = {name: value for name, value in entry.items() if name != "kind"}
        elif kind == "session":
            self.sessions.append((entry["at"], entry["at"]))
        elif kind == "routed":
            self.routes[entry["question"]] = entry["ranking"]
        elif kind == "asked":
            self.asked[entry["call"]] += 1
        elif kind == "answered":
            answered = Answered(**{name: value for name, value in entry.items() if name != "kind"})
            self.answers[answered.call] = answered
            self.failures.pop(answered.call, None)
        elif kind == "failed":
            self.failures[entry["call"]] = entry["error"]
        elif kind == "meter":
            self.meters.append(Meter(entry["session"], entry["swaps"], entry["at"]))
        if at is not None and self.sessions:
            self.sessions[-1] = (self.sessions[-1][0], max(self.sessions[-1][1], at))


class Journal(History):
    """The file itself, append-only. One owner; every write is on disk when it returns.

    A last line that a crash cut short is dropped, so that its call counts as not answered. Raises
    ConfigError when another process holds the journal, or a line is damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("ab")
        _lock(self._file, path)
        _cut_torn_line(path)
        for entry in _entries(path):
            self.note(entry)

    def begin(self, header: Entry, at: float) -> None:
        """Open a session. Raises ConfigError when the folder holds a run that asked something else."""
        if self.header is None:
            self._write({"kind": "run", **header})
        else:
            different = [name for name in header if self.header.get(name) != header[name]]
            if different:
                raise ConfigError(
                    f"{self._path.parent} holds another run: "
                    + "; ".join(f"{n} is {self.header.get(n)!r}, now {header[n]!r}" for n in different),
                    hint="Give another folder with --out, or the options of the first run.",
                )
        self._write({"kind": "session", "at": at})

    def route(self, question: str, ranking: Mapping[str, float]) -> None:
        self._write({"kind": "routed", "question": question, "ranking": dict(ranking)})

    def intend(self, call: str, at: float) -> None:
        """Say that ``call`` is about to be sent."""
        self._write({"kind": "asked", "call": call, "at": at})

    def keep(self, answered: Answered) -> None:
        self._write({"kind": "answered", **asdict(answered)})

    def fail(self, call: str, error: str, at: float) -> None:
        self._write({"kind": "failed", "call": call, "error": error, "at": at})

    def measure(self, swaps: float, at: float) -> None:
        self._write({"kind": "meter", "session": len(self.sessions), "swaps": swaps, "at": at})

    def close(self) -> None:
        self._file.close()

    def _write(self, entry: Entry) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.note(entry)


def _lock(file: IO[bytes], path: Path) -> None:
    """Held until the process ends, however it ends: two runs in one folder would ask everything twice."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(
            f"another process is running in {path.parent}", hint="Wait for it, or give another --out."
        ) from None


def read_journal(path: Path) -> History:
    """What a run's journal says, also while the run goes on. Raises ConfigError."""
    history = History()
    for entry in _entries(path):
        history.note(entry)
    return history


def _cut_torn_line(path: Path) -> None:
    raw = path.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        with path.open("r+b") as file:
            file.truncate(whole)


def _entries(path: Path) -> Iterator[Entry]:
    """The whole lines of a journal; none of a file that is not there."""
    raw = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(raw[: raw.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            raise ConfigError(
                f"{path}:{number} is damaged", hint="Delete that line: its call is asked again."
            ) from None
        yield entry
