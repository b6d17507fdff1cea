"""A CSV with an outcome a line: question_id, expert, score; where known question, category, options (a JSON
list), gold, answer, prompt_tokens, output_tokens, cost_usd, split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from coe.core.errors import ConfigError
from coe.eval.importers import files_of
from coe.eval.importers.writing import Imported, OutcomeRow, QuestionRow, unique
from coe.eval.live.tables import Row, read_rows


def read(paths: Sequence[Path], expert: str | None) -> Imported:
    """Without a column question_id the question's text names it. Blank cells are unknown."""
    questions: list[QuestionRow] = []
    outcomes: list[OutcomeRow] = []
    for path in files_of(paths, "*.csv"):
        for line, row in enumerate(read_rows(path), start=2):
            where = f"{path}:{line}"
            identity, name = (
                _text(row, "question_id") or _text(row, "question"),
                expert or _text(row, "expert"),
            )
            score = _number(row, "score", where)
            if identity is None or name is None or score is None:
                raise ConfigError(
                    f"{where} lacks question_id, expert or score",
                    hint="The first line names the columns: question_id,expert,score,...",
                )
            questions.append(_question(row, identity, where))
            outcomes.append(
                OutcomeRow(
                    identity, name, score, _text(row, "answer"), None,
                    _whole(row, "output_tokens", where), _number(row, "cost_usd", where),
                )
            )  # fmt: skip
    return Imported(unique(questions), tuple(outcomes))


def _question(row: Row, identity: str, where: str) -> QuestionRow:
    return QuestionRow(
        question_id=identity,
        question=_text(row, "question"),
        category=_text(row, "category"),
        options=_options(row, where),
        gold=_text(row, "gold"),
        prompt_tokens=_whole(row, "prompt_tokens", where),
        split=_text(row, "split") or "dev",
    )


def _options(row: Row, where: str) -> tuple[str, ...] | None:
    text = _text(row, "options")
    if text is None:
        return None
    try:
        return tuple(str(option) for option in json.loads(text))
    except (ValueError, TypeError):
        raise ConfigError(f'{where}: options must be a JSON list, such as ["yes", "no"]') from None


def _text(row: Row, name: str) -> str | None:
    value = row.get(name)
    return value.strip() if isinstance(value, str) and value.strip() else None


def _number(row: Row, name: str, where: str) -> float | None:
    text = _text(row, name)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise ConfigError(f'{where}: {name} is not a number: "{text}"') from None


def _whole(row: Row, name: str, where: str) -> int | None:
    number = _number(row, name, where)
    return None if number is None else int(number)
