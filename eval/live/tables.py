"""Rows from parquet, JSONL, JSON and CSV files, and where a task's files are."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coe.core.errors import ConfigError
from coe.core.files import readable
from coe.eval.live.task import Task

Row = Mapping[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Every row of a table, by the suffix of its name. Raises ConfigError with file and line."""
    with readable(path):
        if path.suffix == ".parquet":
            return _parquet(path)
        text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return csv_rows(text)
    return _json_rows(path, text)


def csv_rows(text: str) -> list[Row]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def _parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return rows


def _json_rows(path: Path, text: str) -> list[Row]:
    """A JSON list, or an object a line."""
    if text.lstrip().startswith("["):
        rows = _parsed(path, text, None)
        return _objects(path, rows)
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    return _objects(path, [_parsed(path, line, number) for number, line in lines])


def _parsed(path: Path, text: str, line: int | None) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        place = f"{path}:{line}" if line else str(path)
        raise ConfigError(f"{place} is not JSON: {error}", hint="Write one JSON object a line.") from None


def _objects(path: Path, rows: Any) -> list[Row]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ConfigError(f"{path}: entry {number} is not a JSON object")
    return list(rows)


def first(row: Row, columns: Sequence[str]) -> Any:
    """The first of ``columns`` that the row has a value for; None without one."""
    return next((row[name] for name in columns if row.get(name) is not None), None)


def locate(task: Task, data: str | None) -> Path:
    """The file or folder that ``--data`` names; ``hub`` and ``hub:ORG/NAME`` are fetched or found in the
    hub's cache. Raises ConfigError that says how to get the data."""
    how = task.data.how_to_get
    if data is None:
        raise ConfigError(f'the task "{task.name}" needs its data: give --data PATH', hint=how)
    if data == "hub" or data.startswith("hub:"):
        return _from_hub(data.partition(":")[2] or task.data.hub, task)
    path = Path(data).expanduser()
    if not path.exists():
        raise ConfigError(f"there is nothing at {path}", hint=how)
    return path


def _from_hub(name: str | None, task: Task) -> Path:
    from huggingface_hub import snapshot_download

    if name is None:
        raise ConfigError(f'the task "{task.name}" names no data set of the hub', hint=task.data.how_to_get)
    try:
        wanted = [*task.data.files, *task.data.exemplar_files]
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=wanted))
    except Exception as error:  # the hub's client raises many kinds: network, access, cache
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{name} cannot be had from the hub: {reason}", hint=task.data.how_to_get) from None


def find_files(place: Path, patterns: Sequence[str], task: Task) -> list[Path]:
    """The files of the first pattern that matches in a folder; a file stands for itself."""
    if place.is_file():
        return [place]
    for pattern in patterns:
        if found := sorted(place.glob(pattern)):
            return found
    raise ConfigError(
        f"{place} has none of {', '.join(patterns)}, which the task {task.name} reads",
        hint=task.data.how_to_get,
    )
