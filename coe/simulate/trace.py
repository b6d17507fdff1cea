"""Request traces: Azure CSV, Mooncake JSONL and plain CSV, recognised by their content."""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal, get_args

from coe.simulate.errors import TraceError

TraceFormat = Literal["azure", "mooncake", "csv"]
Record = Mapping[str, object]
"""What one line holds, by name; names of CSV columns in lower case."""


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
        raw = path.read_bytes()
        lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {error}", hint="give the path of a trace file") from None
    found = trace_format or detect_format(lines, path)
    if found not in FORMATS:
        raise TraceError(f"no trace format {found!r}", hint=f"choose from {', '.join(FORMATS)}")
    columns = FORMATS[found]
    records = _objects(lines, path) if found == "mooncake" else _cells(lines, path, columns, column)
    rows = [_row(record, f"{path}:{line}", line, columns, column) for line, record in records]
    if not rows:
        raise TraceError(f"{path}: no requests in it", hint="a trace has one request per line")
    return Trace(path.name, found, from_zero(rows), labelled=rows[0].label is not None)


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


def _cells(
    lines: Sequence[str], path: Path, columns: _Columns, column: str | None
) -> Iterator[tuple[int, Record]]:
    """Line and cells of each row of a CSV file; columns that a row lacks are empty."""
    reader = csv.reader(lines)
    filled = (cells for cells in reader if any(cell.strip() for cell in cells))
    first = next(filled, [])
    headless = bool(columns.in_order and first and _is_number(first[0]))
    header = columns.in_order if headless else tuple(name.strip().lower() for name in first)
    needed = [columns.t] if columns.optional else [columns.t, columns.input_tokens, columns.output_tokens]
    for name in [*needed, *([column] if column else [])]:
        if name.strip().lower() not in header:
            raise TraceError(
                f"{path}:1: no column {name!r}",
                hint=f"its columns are {', '.join(header) or 'none'}; --assign zipf:1.0 needs no experts",
            )
    for cells in chain([first] if headless else [], filled):
        yield reader.line_num, dict(zip_longest(header, cells[: len(header)], fillvalue=""))


def _objects(lines: Sequence[str], path: Path) -> Iterator[tuple[int, Record]]:
    """Line and value of each line of a JSONL file."""
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except ValueError:
            raise TraceError(f"{path}:{line}: not JSON", hint="a Mooncake trace is JSONL") from None
        if not isinstance(record, dict):
            raise TraceError(f"{path}:{line}: not a JSON object", hint="a Mooncake trace is JSONL")
        yield line, record


def _row(record: Record, where: str, line: int, columns: _Columns, column: str | None) -> TraceRow:
    def value(name: str) -> object:
        return record.get(name, record.get(name.lower()))

    def number(name: str) -> float | None:
        given = value(name)
        blank = given is None or (isinstance(given, str) and not given.strip())
        return None if columns.optional and blank else _number(given, name, where)

    return TraceRow(
        t=columns.moment(value(columns.t), columns.t, where),
        line=line,
        input_tokens=number(columns.input_tokens),
        output_tokens=number(columns.output_tokens),
        service_s=number(columns.service_s) if columns.service_s else None,
        label=_label(record, where, columns, column),
    )


def _label(record: Record, where: str, columns: _Columns, column: str | None) -> str | None:
    name = column or columns.expert
    if name is None or (column is None and name not in record):
        return None
    name = name if name in record else name.strip().lower()
    label = str(record[name]).strip() if record.get(name) is not None else ""
    if not label:
        what = f"column {name!r} is empty" if name in record else f"no {name!r}"
        raise TraceError(f"{where}: {what}", hint="every request needs an expert")
    return label


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(value: object, name: str, where: str, negative: bool = False) -> float:
    """A finite number, not below 0 unless ``negative``."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (number < 0 and not negative) or isinstance(value, bool):
        raise TraceError(
            f"{where}: {name} is {value!r}",
            hint="it must be a number" if negative else "it must be a number, 0 or more",
        )
    return number


def _date(value: object, name: str, where: str) -> float:
    try:
        return datetime.fromisoformat(str(value).strip()).timestamp()
    except ValueError:
        raise TraceError(
            f"{where}: {name} is {value!r}", hint="write it as 2023-11-16 18:17:03.9799600"
        ) from None


@dataclass(frozen=True)
class _Columns:
    """What holds what in a format; in CSV files in any case of letters. ``moment`` reads ``t``."""

    t: str
    moment: Callable[[object, str, str], float]
    input_tokens: str
    output_tokens: str
    service_s: str | None = None
    expert: str | None = None
    """labels unless another column is named"""
    optional: bool = False
    """all but ``t`` may be missing"""
    in_order: tuple[str, ...] = ()
    """of a file without a header"""


FORMATS: Mapping[TraceFormat, _Columns] = {
    "azure": _Columns("TIMESTAMP", _date, "ContextTokens", "GeneratedTokens"),
    "mooncake": _Columns(
        "timestamp", lambda *given: _number(*given) / 1000.0, "input_length", "output_length"
    ),
    "csv": _Columns(
        "t",
        partial(_number, negative=True),
        "input_tokens",
        "output_tokens",
        "service_seconds",
        expert="expert",
        optional=True,
        in_order=("t", "expert", "input_tokens", "output_tokens", "service_seconds"),
    ),
}
