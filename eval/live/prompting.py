"""From a question to the messages that are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coe.core.errors import ConfigError
from coe.eval.live.questions import LETTERS, Exemplar, Item
from coe.eval.live.task import Task

Message = Mapping[str, str]


def messages(task: Task, item: Item, exemplars: Mapping[str, Sequence[Exemplar]]) -> list[Message]:
    """System text, exemplars as turns, the question as the last user message.

    The last user message is what routers see; a category's name stands before it at most, in the system
    text and the choice of exemplars of the benchmarks that show it to every model.
    """
    shown: list[Message] = []
    if task.prompt.system:
        shown.append({"role": "system", "content": task.prompt.system.format_map(_fields(item))})
    for exemplar in _shots(task, item, exemplars):
        answer = task.prompt.exemplar_answer.format_map({"cot": exemplar.chain, "gold": exemplar.item.gold})
        shown.append({"role": "user", "content": user_text(task, exemplar.item)})
        shown.append({"role": "assistant", "content": answer})
    return [*shown, {"role": "user", "content": user_text(task, item)}]


def user_text(task: Task, item: Item) -> str:
    """The question as the user asks it."""
    return task.prompt.user.format_map(_fields(item))


def _fields(item: Item) -> Mapping[str, str]:
    lines = (f"{letter}. {option}" for letter, option in zip(LETTERS, item.options, strict=False))
    return {"question": item.question, "options": "\n".join(lines), "category": item.category}


def _shots(task: Task, item: Item, exemplars: Mapping[str, Sequence[Exemplar]]) -> Sequence[Exemplar]:
    if not task.prompt.shots:
        return ()
    if item.category not in exemplars:
        raise ConfigError(f'{task.name} has no exemplars of the category "{item.category}"')
    return exemplars[item.category]
