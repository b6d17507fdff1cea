"""Request traces: Azure CSV, Mooncake JSONL and plain CSV, recognised by their content."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from coe.simulate.errors import TraceError

TraceFormat = Literal["azure", "mooncake", "csv"]
Columns = Mapping[str, str]
"""The cells of one row by column name in lower case."""

PLAIN_COLUMNS = ("t", "expert", "input_tokens", "output_tokens", "service_seconds")


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request. ``t`` in seconds from the first request; ``service_s`` is its run time alone in a batch.

    ``label`` is the value of the column that names experts, where one was asked for.
    """

    t: float
    line: int
    input_tokens: float | None = None
    output_tokens: float | None = None
    service_s: float | None = None
    label: str | None = None


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival, the first at 0. ``labelled``: every row has a label."""

    name: str
    format: str
    rows: tuple[TraceRow, ...]
    labelled: bool = False

    @property
    def span_s(self) -> float:
        return self.rows[-1].t


def read_trace(path: Path, trace_format: TraceFormat | None = None, column: str | None = None) -> Trace:
    """Read a trace; ``column`` names the column (or JSON key) whose values become labels.

    In the csv format that is ``expert`` by default, where it exists. Raises :class:`TraceError`.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {error}", hint="give the path of a trace file") from None
    found = trace_format or detect_format(lines, path)
    if found not in READERS:
        raise TraceError(f"no trace format {found!r}", hint=f"choose from {', '.join(READERS)}")
    rows = list(READERS[found](lines, path, column))
    if not rows:
        raise TraceError(f"{path}: no requests in it", hint="a trace has one request per line")
    labelled = rows[0].label is not None
    return Trace(path.name, found, from_zero(rows), labelled)


def from_zero(rows: Iterable[TraceRow]) -> tuple[TraceRow, ...]:
    """In order of arrival (equal times keep the file's order), the first at 0."""
    ordered = sorted(rows, key=lambda row: row.t)
    start = ordered[0].t
    return tuple(replace(row, t=row.t - start) for row in ordered)


def detect_format(lines: Sequence[str], path: Path) -> TraceFormat:
    """By the first line that is not empty."""
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("{"):
        return "mooncake"
    names = {name.strip().strip('"').lower() for name in first.split(",")}
    if {"timestamp", "contexttokens"} <= names:
        return "azure"
    if "t" in names or _is_number(first.split(",")[0]):
        return "csv"
    raise TraceError(
        f"{path}:1: not a known trace format: {first[:80]!r}",
        hint=f"give --format ({', '.join(get_args(TraceFormat))}); csv has the columns t,expert"
        "[,input_tokens,output_tokens,service_seconds]",
    )


def _read_azure(lines: Sequence[str], path: Path, column: str | None) -> Iterator[TraceRow]:
    table = _Table(lines, path, required=("timestamp", "contexttokens", "generatedtokens"), column=column)
    for line, cells in table.rows():
        yield TraceRow(
            t=_timestamp(cells["timestamp"], path, line),
            line=line,
            input_tokens=_number(cells["contexttokens"], "ContextTokens", path, line),
            output_tokens=_number(cells["generatedtokens"], "GeneratedTokens", path, line),
            label=table.label(cells, line),
        )


def _read_plain(lines: Sequence[str], path: Path, column: str | None) -> Iterator[TraceRow]:
    table = _Table(lines, path, required=("t",), column=column, default_column="expert", names=PLAIN_COLUMNS)
    for line, cells in table.rows():
        optional = {name: _optional(cells.get(name), name, path, line) for name in PLAIN_COLUMNS[2:]}
        yield TraceRow(
            t=_number(cells["t"], "t", path, line, negative=True),
            line=line,
            input_tokens=optional["input_tokens"],
            output_tokens=optional["output_tokens"],
            service_s=optional["service_seconds"],
            label=table.label(cells, line),
        )


def _read_mooncake(lines: Sequence[str], path: Path, column: str | None) -> Iterator[TraceRow]:
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except ValueError:
            raise TraceError(f"{path}:{line}: not JSON", hint="a Mooncake trace is JSONL") from None
        if not isinstance(record, dict):
            raise TraceError(f"{path}:{line}: not a JSON object", hint="a Mooncake trace is JSONL")
        label = record.get(column) if column else None
        if column and label in (None, ""):
            raise TraceError(
                f"{path}:{line}: no {column!r}", hint="--assign column:NAME needs it in every line"
            )
        yield TraceRow(
            t=_number(record.get("timestamp"), "timestamp", path, line) / 1000.0,
            line=line,
            input_tokens=_number(record.get("input_length"), "input_length", path, line),
            output_tokens=_number(record.get("output_length"), "output_length", path, line),
            label=None if label is None else str(label),
        )


READERS: Mapping[str, Callable[[Sequence[str], Path, str | None], Iterator[TraceRow]]] = {
    "azure": _read_azure,
    "mooncake": _read_mooncake,
    "csv": _read_plain,
}


class _Table:
    """A CSV file with a header (or, given ``names``, perhaps without one)."""

    def __init__(
        self,
        lines: Sequence[str],
        path: Path,
        required: Sequence[str],
        column: str | None,
        default_column: str | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self._path = path
        self._reader = csv.reader(lines)
        self._pending: list[list[str]] = []
        first = next((cells for cells in self._reader if any(c.strip() for c in cells)), [])
        if names and first and _is_number(first[0]):
            self._names = list(names)
            self._pending = [first]
        else:
            self._names = [name.strip().lower() for name in first]
        self._column = self._pick(column, default_column)
        for name in required:
            if name not in self._names:
                raise TraceError(
                    f"{path}:1: no column {name!r}",
                    hint=f"its columns are {', '.join(self._names) or 'none'}",
                )

    def rows(self) -> Iterator[tuple[int, Columns]]:
        for cells in self._pending:
            yield self._reader.line_num, self._named(cells)
        for cells in self._reader:
            if any(c.strip() for c in cells):
                yield self._reader.line_num, self._named(cells)

    def label(self, cells: Columns, line: int) -> str | None:
        if self._column is None:
            return None
        label = cells.get(self._column, "").strip()
        if not label:
            raise TraceError(
                f"{self._path}:{line}: column {self._column!r} is empty", hint="every request needs an expert"
            )
        return label

    def _pick(self, column: str | None, default: str | None) -> str | None:
        if column is None:
            return default if default in self._names else None
        if column.strip().lower() not in self._names:
            raise TraceError(
                f"{self._path}:1: no column {column!r}",
                hint=f"its columns are {', '.join(self._names)}; without one, use --assign zipf:1.0",
            )
        return column.strip().lower()

    def _named(self, cells: Sequence[str]) -> Columns:
        return dict(zip(self._names, cells, strict=False))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(value: object, name: str, path: Path, line: int, negative: bool = False) -> float:
    """A finite number, not below 0 unless ``negative``."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (number < 0 and not negative) or isinstance(value, bool):
        raise TraceError(
            f"{path}:{line}: {name} is {value!r}",
            hint="it must be a number" if negative else "it must be a number, 0 or more",
        )
    return number


def _optional(value: str | None, name: str, path: Path, line: int) -> float | None:
    return None if value is None or not value.strip() else _number(value, name, path, line)


def _timestamp(text: str, path: Path, line: int) -> float:
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except ValueError:
        raise TraceError(
            f"{path}:{line}: TIMESTAMP is {text!r}", hint="write it as 2023-11-16 18:17:03.9799600"
        ) from None
