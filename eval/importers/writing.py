"""The folder of an outcome set, written. Its reader is :mod:`coe.outcomes.outcome_set`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from coe.core.errors import ConfigError
from coe.eval.live.prices import Prices


@dataclass(frozen=True)
class QuestionRow:
    """``question`` is None where the text may not be stored."""

    question_id: str
    question: str | None
    category: str | None = None
    options: tuple[str, ...] | None = None
    gold: str | None = None
    prompt_tokens: int | None = None
    split: str = "dev"


@dataclass(frozen=True)
class OutcomeRow:
    """``score`` in 0..1; ``parsed`` is None where it is not known whether an answer could be parsed."""

    question_id: str
    expert: str
    score: float
    answer: str | None = None
    parsed: bool | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True)
class Imported:
    """``notes`` say what a reader should know of the numbers."""

    questions: tuple[QuestionRow, ...]
    outcomes: tuple[OutcomeRow, ...]
    notes: tuple[str, ...] = ()


def write_outcome_set(folder: Path, imported: Imported, prices: Prices) -> None:
    """questions.parquet, outcomes.parquet and experts.csv in ``folder``, which is made.

    Columns that nobody knows anything of are left out. Raises ConfigError when there is nothing, when an
    expert answered a question twice, or when the folder has an outcome set already.
    """
    _check(folder, imported)
    folder.mkdir(parents=True, exist_ok=True)
    _table(folder / "questions.parquet", [asdict(row) for row in imported.questions])
    _table(folder / "outcomes.parquet", [asdict(row) for row in imported.outcomes])
    experts = sorted({row.expert for row in imported.outcomes})
    with (folder / "experts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["expert", "input_usd_per_mtok", "output_usd_per_mtok", "parameters_b", "active_b"])
        for expert in experts:
            price = prices.get(expert)
            writer.writerow([expert, price.input if price else "", price.output if price else "", "", ""])


def _check(folder: Path, imported: Imported) -> None:
    if (folder / "outcomes.parquet").exists():
        raise ConfigError(f"{folder} holds an outcome set already", hint="Give another folder with -o.")
    if not imported.outcomes:
        raise ConfigError("no outcome was found in what was given")
    seen: set[tuple[str, str]] = set()
    for row in imported.outcomes:
        if (row.question_id, row.expert) in seen:
            raise ConfigError(
                f"{row.expert} has two outcomes for the question {row.question_id}",
                hint="Give one result file an expert, or name experts apart with --expert.",
            )
        seen.add((row.question_id, row.expert))
        if not 0 <= row.score <= 1:
            raise ConfigError(f"the score {row.score} of question {row.question_id} is not between 0 and 1")


def _table(path: Path, rows: Sequence[dict[str, object]]) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    known = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    kept = [{name: row[name] for name in known} for row in rows]
    if "question" not in known and path.name == "questions.parquet":
        kept = [row | {"question": None} for row in kept]
    parquet.write_table(pyarrow.Table.from_pylist(kept), path)


def unique(questions: Sequence[QuestionRow]) -> tuple[QuestionRow, ...]:
    """Each question once: the first row of an id."""
    first: dict[str, QuestionRow] = {}
    for row in questions:
        first.setdefault(row.question_id, row)
    return tuple(first.values())
