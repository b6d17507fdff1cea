"""The service's own feedback file: what clients said of answers that real traffic got.

One JSON object a line with the answer's id, its expert and a score in 0..1. Where the service was allowed
to keep the question's text, it comes along; without it the outcome counts for its category only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coe.core.errors import ConfigError
from coe.eval.importers import files_of
from coe.eval.importers.writing import Imported, OutcomeRow, QuestionRow
from coe.eval.live.tables import Row, first, read_rows

_ID = ("request", "completion_id", "request_id", "id")
_SCORE = ("score", "vote", "rating")
_WORDS = {"up": 1.0, "down": 0.0, "good": 1.0, "bad": 0.0}


def read(paths: Sequence[Path], expert: str | None) -> Imported:
    """A later vote on the same answer replaces an earlier one. Raises ConfigError."""
    latest: dict[tuple[str, str], tuple[QuestionRow, OutcomeRow]] = {}
    for path in files_of(paths, "*.jsonl", "*.jsonl.1"):
        for line, row in enumerate(read_rows(path), start=1):
            identity, name = first(row, _ID), first(row, ("expert",)) or expert
            score = _score(first(row, _SCORE))
            if identity is None or name is None or score is None:
                raise ConfigError(f"{path}:{line} is not feedback: it lacks an id, an expert or a score")
            latest[str(identity), str(name)] = _pair(row, str(identity), str(name), score)
    pairs = latest.values()
    return Imported(
        questions=tuple({question.question_id: question for question, _ in pairs}.values()),
        outcomes=tuple(outcome for _, outcome in pairs),
        notes=("clients voted on answers of the expert that was routed to: the others are unknown",),
    )


def _pair(row: Row, identity: str, expert: str, score: float) -> tuple[QuestionRow, OutcomeRow]:
    text, category = first(row, ("text", "question")), first(row, ("category",))
    question = QuestionRow(
        identity, None if text is None else str(text), None if category is None else str(category)
    )
    return question, OutcomeRow(identity, expert, score)


def _score(value: Any) -> float | None:
    """0..1; a thumb as a word, a truth value, or -1 and 1."""
    if isinstance(value, str):
        return _WORDS.get(value.lower())
    if isinstance(value, bool | int | float):
        return 0.0 if float(value) == -1 else float(value)
    return None
