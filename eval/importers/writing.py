"""The folder of an outcome set, written. Its reader is :mod:`coe.outcomes.outcome_set`."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from coe.core.errors import ConfigError
from coe.eval.live.prices import Prices
from coe.outcomes.splits import HELD_OUT, is_held_out
from coe.outcomes.text_key import text_key


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
    """that of the data set that it comes from: a held-out one is never learned from"""


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


def with_dev_share(imported: Imported, share: float, seed: int = 0) -> Imported:
    """The questions of test splits in two: about ``share`` of them become ``dev``, to learn from, and the
    rest stay ``test``, by a hash of the text, so that a question is on the same side in every set. What was
    held out by its makers stays so."""

    def row(question: QuestionRow) -> QuestionRow:
        if not is_held_out(question.split) or question.split == HELD_OUT:
            return question
        key = f"{seed}/{text_key(question.question or question.question_id)}"
        place = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 16**8
        return replace(question, split="dev" if place < share else "test")

    return replace(imported, questions=tuple(row(question) for question in imported.questions))


def unique(questions: Sequence[QuestionRow]) -> tuple[QuestionRow, ...]:
    """Each question once: the first row of an id."""
    first: dict[str, QuestionRow] = {}
    for row in questions:
        first.setdefault(row.question_id, row)
    return tuple(first.values())
