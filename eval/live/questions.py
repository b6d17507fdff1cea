"""The questions of a task, read from its data and brought into one form."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coe.core.errors import ConfigError
from coe.eval.live.archive import read_member
from coe.eval.live.tables import Row, csv_rows, find_files, first, locate, read_rows
from coe.eval.live.task import Data, Task
from coe.outcomes.splits import HELD_OUT

if TYPE_CHECKING:
    from coe.demo.skill import Question as DemoQuestion

LETTERS = string.ascii_uppercase
_GPQA_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


@dataclass(frozen=True)
class Item:
    """One question. ``gold`` is the letter of the right option, or the answer; ``demo`` what the check of a
    demo skill needs."""

    id: str
    question: str
    gold: str
    options: tuple[str, ...] = ()
    category: str = ""
    split: str = field(default="", repr=False)
    """that of the data set; not part of what is asked"""
    demo: DemoQuestion | None = None


@dataclass(frozen=True)
class Exemplar:
    """A solved question that may be shown before a question of its category."""

    item: Item
    chain: str


@dataclass(frozen=True)
class Source:
    """Where the data is and how much of it is asked. ``limit`` draws at random by ``seed``."""

    data: str | None = None
    password: str | None = None
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Questions:
    items: tuple[Item, ...]
    exemplars: Mapping[str, tuple[Exemplar, ...]]
    """by category"""


def read_questions(task: Task, source: Source) -> Questions:
    """What the task asks, in the data's own order. Raises ConfigError.

    The same seed draws the same questions and shuffles options the same way, whatever the limit.
    """
    items = _items(task, source)
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ConfigError(f"the data of {task.name} has the id {item.id} twice")
        seen.add(item.id)
    if not items:
        raise ConfigError(f"the data of {task.name} has no questions", hint=task.data.how_to_get)
    return Questions(_limited(items, source), _exemplars(task, source))


def _limited(items: Sequence[Item], source: Source) -> tuple[Item, ...]:
    if source.limit is None or source.limit >= len(items):
        return tuple(items)
    order = list(range(len(items)))
    random.Random(f"limit/{source.seed}").shuffle(order)
    return tuple(items[index] for index in sorted(order[: source.limit]))


def _items(task: Task, source: Source) -> list[Item]:
    if task.data.kind == "demo":
        return _demo_items()
    if task.data.kind == "beir":
        raise ConfigError(f"{task.name} is a retrieval task: it has no questions to ask a chat model")
    place = locate(task, source.data)
    if task.data.kind == "gpqa":
        return [_gpqa_item(task, row, source.seed) for row in _gpqa_rows(task, place, source.password)]
    rows = [row for path in find_files(place, task.data.files, task) for row in read_rows(path)]
    return [_item(task, row, index, source.seed) for index, row in enumerate(rows)]


def _item(task: Task, row: Row, index: int, seed: int) -> Item:
    data = task.data
    question, gold = first(row, data.question), first(row, data.gold)
    if question is None or gold is None:
        missing, columns = ("question", data.question) if question is None else ("answer", data.gold)
        raise ConfigError(
            f"question {index + 1} of {task.name} has no {missing} in a column {' or '.join(columns)}",
            hint=f"It has {', '.join(row)}.",
        )
    identity = first(row, data.id)
    identity = str(index) if identity is None else str(identity)
    options = _options(data, row)
    right = _gold(data, gold, options, f"{task.name}: question {identity}")
    if data.shuffle_options and options:
        options, right = shuffled(options, LETTERS.index(right), f"{seed}/{identity}")
    return Item(
        identity,
        str(question).strip(),
        right,
        options,
        str(first(row, data.category) or ""),
        _split(data, row),
    )


def _split(data: Data, row: Row) -> str:
    return str(row.get("split") or data.split)


def _options(data: Data, row: Row) -> tuple[str, ...]:
    if len(data.options) > 1:
        return tuple(str(row[name]) for name in data.options if row.get(name) is not None)
    listed: Any = row.get(data.options[0]) if data.options else None
    return tuple(str(option) for option in listed) if isinstance(listed, list) else ()


def _gold(data: Data, gold: Any, options: Sequence[str], where: str) -> str:
    """The letter for a question with options, else the answer's text."""
    if data.gold_form == "after_hashes":
        return str(gold).rpartition("####")[2].strip()
    if data.gold_form == "index":
        try:
            return LETTERS[int(gold)]
        except (ValueError, IndexError):
            raise ConfigError(f"{where}: {gold!r} is not the number of an option, from 0") from None
    text = str(gold).strip()
    if data.gold_form == "letter" and text not in LETTERS[: max(len(options), 2)]:
        raise ConfigError(f"{where}: the answer {text!r} is not the letter of an option")
    return text


def shuffled(options: Sequence[str], right: int, seed: str) -> tuple[tuple[str, ...], str]:
    """The options in a random order fixed by ``seed``, and the letter of the right one there."""
    order = list(range(len(options)))
    random.Random(seed).shuffle(order)
    return tuple(options[index] for index in order), LETTERS[order.index(right)]


def _gpqa_rows(task: Task, place: Path, password: str | None) -> Sequence[Row]:
    name = f"gpqa_{task.data.split}.csv"
    archive = place / "dataset.zip" if place.is_dir() and (place / "dataset.zip").exists() else place
    if archive.suffix == ".zip":
        return csv_rows(read_member(archive, name, password).decode("utf-8-sig"))
    return [row for path in find_files(place, task.data.files, task) for row in read_rows(path)]


def _gpqa_item(task: Task, row: Row, seed: int) -> Item:
    try:
        identity = str(row["Record ID"])
        options = tuple(str(row[name]).strip() for name in _GPQA_OPTIONS)
        question, category = str(row["Question"]).strip(), str(row["High-level domain"])
    except KeyError as missing:
        raise ConfigError(f"this is not a GPQA table: the column {missing} is missing") from None
    options, right = shuffled(options, 0, f"{seed}/{identity}")
    return Item(identity, question, right, options, category, task.data.split)


def _demo_items() -> list[Item]:
    from coe.demo.questions import held_out_questions

    return [
        Item(question.id, question.text, question.answer, (), question.skill, HELD_OUT, question)
        for question in held_out_questions()
    ]


def _exemplars(task: Task, source: Source) -> Mapping[str, tuple[Exemplar, ...]]:
    if not task.prompt.shots:
        return {}
    place = locate(task, source.data)
    folder = place.parent if place.is_file() else place
    found: dict[str, list[Exemplar]] = {}
    for path in find_files(folder, task.data.exemplar_files, task):
        for index, row in enumerate(read_rows(path)):
            item = _item(task, row, index, source.seed)
            chain = str(row.get("cot_content") or "").removeprefix("A: ").strip()
            found.setdefault(item.category, []).append(Exemplar(item, chain))
    return {category: tuple(some[: task.prompt.shots]) for category, some in found.items()}
