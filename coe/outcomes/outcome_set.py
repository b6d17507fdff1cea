"""Outcome sets: which expert answered which question rightly, read from a folder of parquet files.

questions.parquet   question_id; where known question, options, category (or group, subject), split, gold,
                    prompt_tokens
outcomes.parquet    question_id, expert, score (0..1); where known answer, output_tokens, cost_usd
experts.csv         expert; where known input_usd_per_mtok, output_usd_per_mtok, parameters_b, active_b

Other columns are left alone. An expert may lack questions, a question may lack text.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from coe.core.errors import ConfigError
from coe.core.extraction import options_in
from coe.core.files import readable
from coe.core.suggest import suggest
from coe.core.types import ExpertId

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Answers = npt.NDArray[np.object_]
"""Shape (questions, experts): the parsed answer, None where there is none."""

NO_CATEGORY = "uncategorised"
_LABELS = ("category", "group", "subject")


@dataclass(frozen=True)
class Question:
    """``text`` is what a client would send: the question, then its options, one a line behind a letter.

    None where it is not known. ``stem`` is the question without options: it groups folds. ``category`` is
    a label for fitting and for reports, which routers never get at test time.
    """

    id: str
    stem: str | None = None
    options: tuple[str, ...] = ()
    category: str = NO_CATEGORY
    split: str = ""
    gold: str | None = None

    @property
    def text(self) -> str | None:
        return None if self.stem is None else with_options(self.stem, self.options)

    @cached_property
    def letters(self) -> str:
        """Of the options that a reader of the text finds in it."""
        return ascii_uppercase[: len(self.options)] if self.text is None else options_in(self.text)


@dataclass(frozen=True)
class OutcomeSet:
    """n questions x m experts. Unknown numbers are NaN."""

    name: str
    questions: tuple[Question, ...]
    experts: tuple[ExpertId, ...]
    scores: Floats
    """(n, m) in 0..1; NaN where the expert was not asked"""
    answers: Answers | None
    """None where the set records no answers"""
    costs: Floats
    """(n, m) US dollars of one answer"""
    active_b: Floats
    """(m,) billions of parameters used a token"""
    parameters_b: Floats
    """(m,) billions of parameters"""
    tokens: Floats | None = None
    """(n, m) tokens of each answer, NaN where unknown; None where the set records none"""

    def __len__(self) -> int:
        return len(self.questions)

    def rows(self, chosen: Indices) -> Self:
        """The part with these questions."""
        return self._part(chosen, np.arange(len(self.experts)))

    def pool(self, experts: Sequence[ExpertId]) -> Self:
        """The part about these experts, with the questions that at least one of them answered.

        Raises ConfigError for an expert that the set does not have, or one named twice.
        """
        for expert in experts:
            if expert not in self.experts:
                raise ConfigError(f'{self.name} has no expert "{expert}"; {suggest(expert, self.experts)}')
        if len(set(experts)) != len(experts):
            raise ConfigError("the pool names an expert twice")
        columns = [self.experts.index(expert) for expert in experts]
        answered = np.isfinite(self.scores[:, columns]).any(axis=1)
        return self._part(np.flatnonzero(answered), np.asarray(columns, dtype=np.intp))

    def _part(self, rows: Indices, columns: Indices) -> Self:
        both = np.ix_(rows, columns)
        return replace(
            self,
            questions=tuple(self.questions[i] for i in rows),
            experts=tuple(self.experts[j] for j in columns),
            scores=self.scores[both],
            answers=None if self.answers is None else self.answers[both],
            costs=self.costs[both],
            tokens=None if self.tokens is None else self.tokens[both],
            active_b=self.active_b[columns],
            parameters_b=self.parameters_b[columns],
        )


def with_options(stem: str, options: Sequence[str]) -> str:
    """The question as a client sends it."""
    lines = (f"{_letter(number)}. {option}" for number, option in enumerate(options))
    return "\n".join([stem, *lines])


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def read_outcomes(folder: Path) -> OutcomeSet:
    """Read an outcome set. Raises ConfigError naming the file and what it lacks."""
    questions = _questions(_columns(folder / "questions.parquet", ("question_id",)))
    table = _columns(folder / "outcomes.parquet", ("question_id", "expert", "score"))
    known = _experts_csv(folder / "experts.csv")
    experts = tuple(sorted({str(expert) for expert in table["expert"]}))
    place = _Places(table, [question.id for question, _ in questions], experts)
    scores = place.numbers("score")
    if np.nanmin(scores, initial=0.0) < 0 or np.nanmax(scores, initial=0.0) > 1:
        raise ConfigError(f"{folder / 'outcomes.parquet'}: scores must be between 0 and 1")
    tokens = np.asarray([tokens for _, tokens in questions])

    def facts(name: str) -> Floats:
        return np.asarray([known.get(expert, {}).get(name, np.nan) for expert in experts])

    return OutcomeSet(
        name=folder.resolve().name,
        questions=tuple(question for question, _ in questions),
        experts=experts,
        scores=scores,
        answers=place.texts("answer") if "answer" in table else None,
        costs=_costs(place, tokens, facts("input_usd_per_mtok"), facts("output_usd_per_mtok")),
        active_b=facts("active_b"),
        parameters_b=facts("parameters_b"),
        tokens=place.numbers("output_tokens") if "output_tokens" in table else None,
    ).pool(experts)


def _columns(path: Path, needed: Sequence[str]) -> dict[str, list[Any]]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        columns: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}",
            hint="An outcome set is a folder with questions.parquet, outcomes.parquet and experts.csv.",
        ) from None
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ConfigError(f"{path} lacks the column {missing[0]}; it has {', '.join(columns)}")
    if not columns[needed[0]]:
        raise ConfigError(f"{path} is empty")
    return columns


def _questions(columns: Mapping[str, list[Any]]) -> list[tuple[Question, float]]:
    """Each question once (the first time it stands there), and its prompt tokens."""
    count = len(columns["question_id"])
    read = {name: columns.get(name) or [None] * count for name in ("question", "options", "split", "gold")}
    tokens = columns.get("prompt_tokens") or [None] * count
    found: dict[str, tuple[Question, float]] = {}
    for i, identity in enumerate(columns["question_id"]):
        question = Question(
            id=str(identity),
            stem=_text(read["question"][i]),
            options=tuple(str(option) for option in read["options"][i] or ()),
            category=_category(columns, i),
            split=_text(read["split"][i]) or "",
            gold=_text(read["gold"][i]),
        )
        found.setdefault(question.id, (question, _number(tokens[i])))
    return list(found.values())


def _category(columns: Mapping[str, list[Any]], row: int) -> str:
    labels = (_text(columns[name][row]) for name in _LABELS if name in columns)
    return next((label for label in labels if label), NO_CATEGORY)


class _Places:
    """Puts columns of the long table into (questions, experts); questions unknown elsewhere are left out."""

    def __init__(
        self, table: Mapping[str, list[Any]], questions: Sequence[str], experts: Sequence[ExpertId]
    ) -> None:
        rows = {identity: i for i, identity in enumerate(questions)}
        columns = {expert: j for j, expert in enumerate(experts)}
        at = [rows.get(str(identity), -1) for identity in table["question_id"]]
        self._known = np.flatnonzero(np.asarray(at) >= 0)
        self._rows = np.asarray(at, dtype=np.intp)[self._known]
        self._columns = np.asarray([columns[str(e)] for e in table["expert"]], dtype=np.intp)[self._known]
        self._table, self._shape = table, (len(questions), len(experts))

    def numbers(self, name: str) -> Floats:
        """NaN where the table has none."""
        placed = np.full(self._shape, np.nan)
        if name in self._table:
            values = np.asarray([_number(value) for value in self._table[name]])
            placed[self._rows, self._columns] = values[self._known]
        return placed

    def texts(self, name: str) -> Answers:
        placed = np.full(self._shape, None, dtype=object)
        values = np.asarray([_text(value) for value in self._table[name]], dtype=object)
        placed[self._rows, self._columns] = values[self._known]
        return placed


def _costs(place: _Places, prompt_tokens: Floats, usd_in: Floats, usd_out: Floats) -> Floats:
    """Dollars: as recorded, else tokens x list price a million; NaN where neither is known."""
    by_tokens = prompt_tokens[:, None] * (usd_in / 1e6) + place.numbers("output_tokens") * (usd_out / 1e6)
    recorded = place.numbers("cost_usd")
    costs: Floats = np.where(np.isfinite(recorded), recorded, by_tokens)
    return costs


def _experts_csv(path: Path) -> dict[str, dict[str, float]]:
    """Expert -> its numbers; blank ones left out. A missing file means that nothing is known."""
    if not path.exists():
        return {}
    with readable(path), path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and "expert" not in rows[0]:
        raise ConfigError(f"{path} lacks the column expert")
    return {
        row["expert"]: {name: number for name, text in row.items() if math.isfinite(number := _number(text))}
        for row in rows
    }


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _text(value: object) -> str | None:
    """None for null, NaN and blank texts."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value) if str(value).strip() else None
