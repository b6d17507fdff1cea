"""Result files of MMLU-Pro's authors: ``model_outputs_NAME_5shots.json``, also within a zip archive."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coe.core import extraction
from coe.core.errors import ConfigError
from coe.eval.importers import files_of
from coe.eval.importers.writing import Imported, OutcomeRow, QuestionRow, unique
from coe.eval.live.questions import LETTERS
from coe.outcomes.splits import TEST

_NAME = re.compile(r"model_outputs_(?P<model>.+?)(?:_\d+shots?)?(?:_.*)?$")


def read(paths: Sequence[Path], expert: str | None) -> Imported:
    """Answers are extracted anew, strictly; where a file has no outputs its own ``pred`` is taken."""
    questions: list[QuestionRow] = []
    outcomes: list[OutcomeRow] = []
    lenient = 0
    for path in files_of(paths, "model_outputs_*.json", "model_outputs_*.zip"):
        name = expert or _model(path)
        for row in _rows(path):
            try:
                questions.append(_question(row))
                outcomes.append(_outcome(row, name))
            except (KeyError, TypeError) as missing:
                raise ConfigError(f"{path} is not a result file of MMLU-Pro: {missing} is missing") from None
            lenient += not _output(row)
    notes = (f"{lenient} answers without a text: the authors' own extraction was taken",) if lenient else ()
    return Imported(unique(questions), tuple(outcomes), notes)


def _model(path: Path) -> str:
    found = _NAME.match(path.stem.removesuffix(".json"))
    return found["model"] if found else path.stem


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                inner = next(name for name in archive.namelist() if name.endswith(".json"))
                text = archive.read(inner).decode()
        else:
            text = path.read_text(encoding="utf-8")
        rows = json.loads(text)
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if isinstance(rows, dict):  # early files have one list a category
        rows = [row for part in rows.values() for row in part]
    return list(rows)


def _output(row: dict[str, Any]) -> str:
    output = row.get("model_outputs") or row.get("model_output") or row.get("generated_text") or ""
    return output if isinstance(output, str) else "\n".join(map(str, output))


def _question(row: dict[str, Any]) -> QuestionRow:
    options = tuple(str(option) for option in row["options"])
    category = str(row.get("category") or "")
    return QuestionRow(
        str(row["question_id"]),
        str(row["question"]),
        category,
        options,
        str(row["answer"]),
        split=str(row.get("split") or TEST),
    )


def _outcome(row: dict[str, Any], expert: str) -> OutcomeRow:
    output = _output(row)
    answer = extraction.choice(output, LETTERS[: len(row["options"])]) if output else row.get("pred")
    right = answer is not None and answer == str(row["answer"])
    return OutcomeRow(str(row["question_id"]), expert, float(right), answer, answer is not None)
