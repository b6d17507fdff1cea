"""Folders of ``coe eval run``: every expert's own answers become outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coe.core.errors import ConfigError
from coe.eval.importers.writing import Imported, OutcomeRow, QuestionRow, unique
from coe.eval.live.records import read_records
from coe.outcomes.splits import TEST


def read(paths: Sequence[Path], expert: str | None) -> Imported:
    """Runs of the same task with different experts go into one set. Withheld texts stay withheld."""
    questions: list[QuestionRow] = []
    outcomes: dict[tuple[str, str], OutcomeRow] = {}
    for folder in paths:
        for record in read_records(folder):
            if "experts" not in record:
                raise ConfigError(f"{folder} has no run of questions", hint="Retrieval runs have none.")
            questions.append(_question(record))
            for row in _outcomes(record, expert):
                outcomes.setdefault((row.question_id, row.expert), row)
    return Imported(unique(questions), tuple(outcomes.values()))


def _question(record: dict[str, Any]) -> QuestionRow:
    return QuestionRow(
        record["id"],
        record["question"],
        record["category"] or None,
        gold=record["gold"],
        split=record.get("split") or TEST,
    )


def _outcomes(record: dict[str, Any], expert: str | None) -> list[OutcomeRow]:
    alone = len(record["experts"]) == 1
    return [
        OutcomeRow(
            question_id=record["id"],
            expert=expert or name,
            score=score,
            answer=answer,
            parsed=answer is not None,
            output_tokens=record["completion_tokens"] if alone else None,
            cost_usd=record["cost_usd"] if alone else None,
        )
        for name, answer, score in zip(record["experts"], record["answers"], record["scores"], strict=True)
    ]
