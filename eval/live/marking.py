"""From an output to an answer and a mark. Strict: what cannot be parsed is wrong, never guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coe.core import extraction
from coe.eval.live.questions import LETTERS, Item
from coe.eval.live.task import Task

if TYPE_CHECKING:
    from coe.demo.skill import Question as DemoQuestion


@dataclass(frozen=True)
class Mark:
    """``answer`` is None when nothing could be extracted; then the score is 0."""

    answer: str | None
    score: float


def mark(task: Task, item: Item, output: str) -> Mark:
    """Extract and score one output. Pure."""
    if task.scorer == "demo" and item.demo is not None:
        return _by_skill(item.demo, output)
    answer = extract(task, item, output)
    return Mark(answer, 0.0 if answer is None else float(same(task, answer, item.gold)))


def extract(task: Task, item: Item, output: str) -> str | None:
    """The answer in canonical form, by the task's extractor."""
    if task.extractor == "choice":
        return extraction.choice(output, LETTERS[: len(item.options)] or LETTERS)
    if task.extractor == "number":
        return extraction.number(output)
    if task.extractor == "text":
        return extraction.declared(output) or extraction.short_text(output)
    return output.strip() or None


def same(task: Task, answer: str, gold: str) -> bool:
    if task.scorer == "number":
        return answer == extraction.number(gold)
    if task.extractor == "choice":
        return answer == gold
    return plain(answer) == plain(gold)


def plain(text: str) -> str:
    """Blind to letter case, spacing, quotes and a final full stop."""
    return extraction.short_text(text) or " ".join(text.split()).casefold()


def _by_skill(question: DemoQuestion, output: str) -> Mark:
    from coe.demo.skills import skill_named

    right = skill_named(question.skill).check(question, output)
    return Mark(output.strip() or None, float(right))
