"""Which expert aggregates best? Symbolic-MoE's synthetic test (arXiv 2503.05641): an expert reads a question
with one right and two wrong answers, and has to say which is right.

The items are made of questions that no measurement asks: of the demonstration's training phrasings, or of a
JSONL file of ``{"question", "right", "wrong": [...], "category"}``. Each item is asked once with the right
answer in each place, so that an expert which always names one place scores a third.
"""

from __future__ import annotations

import json
import re
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from coe.aggregators.prompts import greedy_body, numbered
from coe.core.errors import ConfigError
from coe.core.types import ExpertId
from coe.demo.questions import distinct_questions
from coe.demo.skill import Question, Skill
from coe.demo.skills import all_skills
from coe.eval.demo.asking import Job, Row, answered, complete
from coe.eval.statistics import share
from coe.outcomes.statistics import Share

SEED = 5_041
WRONG = 2
_MAX_CHARS = 1_500

CHOOSING = """\
Below are a question and several answers to it. Exactly one answer is right. Reply with the number of the \
right answer and nothing else."""


@dataclass(frozen=True)
class Item:
    """A question with its right answer and two wrong ones."""

    id: str
    category: str
    question: str
    right: str
    wrong: tuple[str, ...]

    def answers(self, place: int) -> list[str]:
        """All answers, the right one at ``place``."""
        listed = list(self.wrong)
        listed.insert(place, self.right)
        return listed


def demo_items(per_skill: int) -> list[Item]:
    """``per_skill`` items of each demonstration skill, from its training phrasings; wrong answers are right
    answers to other questions of the skill, which its own check rejects."""
    return [item for skill in all_skills() for item in _skill_items(skill, per_skill)]


def _skill_items(skill: Skill, count: int) -> list[Item]:
    questions = distinct_questions(skill, "train", 4 * count + 20, SEED)
    items = []
    for i, question in enumerate(questions[:count]):
        wrong = _wrong_answers(skill, question, [*questions[i + 1 :], *questions[:i]])
        items.append(Item(question.id, skill.name, question.text, question.answer, wrong))
    return items


def _wrong_answers(skill: Skill, question: Question, others: Iterable[Question]) -> tuple[str, ...]:
    found: list[str] = []
    for other in others:
        if other.answer not in found and not skill.check(question, other.answer):
            found.append(other.answer)
        if len(found) == WRONG:
            return tuple(found)
    raise ValueError(f"skill {skill.name} has too few different answers")


def read_items(path: Path) -> list[Item]:
    """Items of a JSONL file. Raises ConfigError naming the line at fault."""
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            wrong = tuple(str(answer) for answer in row["wrong"][:WRONG])
            if len(wrong) < WRONG:
                raise ValueError(f"two wrong answers are needed, it has {len(wrong)}")
            category = str(row.get("category", "all"))
            items.append(
                Item(f"{path.stem}-{number}", category, str(row["question"]), str(row["right"]), wrong)
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}:{number}: {error}",
                hint='A line is {"question": ..., "right": ..., "wrong": [..., ...], "category": ...}.',
            ) from error
    return items


async def choose_all(
    url: str,
    experts: Sequence[ExpertId],
    items: Sequence[Item],
    record: Path | None,
    concurrency: int = 16,
    trust: ssl.SSLContext | None = None,
) -> AsyncIterator[Row]:
    """A row for each expert, item and place of the right answer: ``{"expert", "item", "place", "category",
    "right", "said"}``. Rows of an earlier run with the same record come first and are not asked again."""
    wanted = {
        (expert, item.id, place): _job(url, expert, item, place)
        for expert in experts
        for item in items
        for place in range(WRONG + 1)
    }
    async for row in answered(
        wanted, lambda row: (row["expert"], row["item"], row["place"]), record, concurrency, trust
    ):
        yield row


def _job(url: str, expert: ExpertId, item: Item, place: int) -> Job:
    async def ask(session: aiohttp.ClientSession) -> Row:
        listed = numbered(item.answers(place), _MAX_CHARS)
        prompt = f"{CHOOSING}\n\nQuestion:\n{item.question}\n\n{listed}\n\nNumber of the right answer:"
        body = greedy_body(prompt, max_tokens=4)
        answer = await complete(session, url, {**body, "model": expert})
        said = answer["choices"][0]["message"]["content"] or ""
        return {
            "expert": expert,
            "item": item.id,
            "place": place,
            "category": item.category,
            "right": chosen_place(said) == place,
            "said": said,
        }

    return ask


def chosen_place(said: str) -> int | None:
    """The place, from 0, that an answer names: its first whole number; None where it names none."""
    found = re.search(r"(?<![\d.])\d+(?![\d.]*\d)", said)
    return int(found.group()) - 1 if found else None


def by_expert(rows: Iterable[Row]) -> dict[ExpertId, dict[str, Share]]:
    """Shares of right choices for each expert: by category, and over ``all``."""
    marks: dict[ExpertId, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        marks[row["expert"]][row["category"]].append(row["right"])
        marks[row["expert"]]["all"].append(row["right"])
    return {
        expert: {category: share(given) for category, given in sorted(found.items())}
        for expert, found in marks.items()
    }
