"""Conversations by rule from the demonstration's skills, and how many of them are sent to the right expert.

Nothing is asked of an expert: each conversation goes to ``POST /v1/route``. The wordings and the questions of
the two parts are disjoint; what reads conversations was tuned on ``design``, and ``test`` is reported.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from coe.core.errors import ExpertUnavailable
from coe.demo.questions import distinct_questions
from coe.demo.skill import Question
from coe.demo.skills import all_skills
from coe.eval.demo import conversation_wordings as w
from coe.eval.demo.asking import Job, Row, answered
from coe.eval.demo.conversation_wordings import Part, Texts
from coe.eval.demo.demo import Asking
from coe.eval.statistics import share
from coe.outcomes.statistics import Share

SEED = 41
GENERAL = "general"
"""Expected where no specialist is."""
_FILLER_CHARS = (1_500, 4_000, 12_000)
Message = Mapping[str, str]
Maker = Callable[["_Making"], Iterator["Conversation"]]


@dataclass(frozen=True)
class Conversation:
    """Messages, and which skills' experts are right to answer the last one."""

    kind: str
    right: tuple[str, ...]
    messages: tuple[Message, ...]


def conversations(part: Part, repeats: int = 3) -> list[Conversation]:
    """All of ``part``, the same for everyone. ``repeats``: of each wording, with other values."""
    made = _Making(part, repeats)
    return [each for kind in KINDS.values() for each in kind(made)]


class _Making:
    """Draws questions and values for one part."""

    def __init__(self, part: Part, repeats: int) -> None:
        self.part: Part = part
        self.repeats = repeats
        self.rng = random.Random(f"{SEED}/{part}")
        split, seed = ("train", 97) if part == "design" else ("test", 2027)
        self.skills = [skill.name for skill in all_skills()]
        self._questions = {
            skill.name: self._endless(distinct_questions(skill, split, 150, seed))  # type: ignore[arg-type]
            for skill in all_skills()
        }

    def question(self, skill: str) -> Question:
        return next(self._questions[skill])

    def other(self, skill: str) -> Question:
        return self.question(self.rng.choice([name for name in self.skills if name != skill]))

    def drawn(self, texts: Texts) -> Iterator[str]:
        """Each wording ``repeats`` times."""
        for text in texts[self.part] * self.repeats:
            yield self.filled(text)

    def filled(self, text: str) -> str:
        for slot, values in w.SLOTS.items():
            while f"{{{slot}}}" in text:
                text = text.replace(f"{{{slot}}}", self.rng.choice(values), 1)
        return text

    def filler(self) -> str:
        text = self.rng.choice(w.FILLERS[self.part])
        return text * (self.rng.choice(_FILLER_CHARS) // len(text))

    def _endless(self, questions: Sequence[Question]) -> Iterator[Question]:
        while True:
            plain = [question for question in questions if not question.ambiguous]
            self.rng.shuffle(plain)
            yield from plain


def _chat(*turns: str, system: str = "") -> tuple[Message, ...]:
    before = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return (*before, *({"role": roles[at % 2], "content": text} for at, text in enumerate(turns)))


def _after(question: Question, last: str) -> tuple[Message, ...]:
    return _chat(question.text, question.answer, last)


def _plain(making: _Making) -> Iterator[Conversation]:
    for skill in making.skills:
        for _ in range(4 * making.repeats):
            yield Conversation("plain", (skill,), _chat(making.question(skill).text))


def _follow_up(making: _Making) -> Iterator[Conversation]:
    for skill, texts in w.FOLLOW_UPS.items():
        for last in making.drawn(texts):
            yield Conversation("follow-up", (skill,), _after(making.question(skill), last))


def _second_follow_up(making: _Making) -> Iterator[Conversation]:
    for skill, texts in w.FOLLOW_UPS.items():
        lasts = list(making.drawn(texts))
        for last, before in zip(lasts, making.rng.sample(lasts, len(lasts)), strict=True):
            question = making.question(skill)
            messages = _chat(question.text, question.answer, before, "Done.", last)
            yield Conversation("second follow-up", (skill,), messages)


def _about(kind: str, texts: Texts, general_too: bool) -> Maker:
    def made(making: _Making) -> Iterator[Conversation]:
        for skill in making.skills:
            for last in making.drawn({making.part: texts[making.part][: making.repeats]}):
                right = (skill, GENERAL) if general_too else (skill,)
                yield Conversation(kind, right, _after(making.question(skill), last))

    return made


def _form(making: _Making) -> Iterator[Conversation]:
    for skill, texts in w.FORMS.items():
        for last in making.drawn(texts):
            yield Conversation("other form", (skill,), _after(making.other(skill), last))


def _topic(making: _Making) -> Iterator[Conversation]:
    for skill in making.skills:
        for _ in range(3 * making.repeats):
            messages = _after(making.other(skill), making.question(skill).text)
            yield Conversation("topic change", (skill,), messages)


def _two(making: _Making) -> Iterator[Conversation]:
    for skill in making.skills:
        for _ in range(making.repeats):
            other = making.other(skill)
            text = f"{making.question(skill).text} And then: {other.text}"
            yield Conversation("two tasks", (skill, other.skill), _chat(text))


def _system(making: _Making) -> Iterator[Conversation]:
    for skill, texts in w.SYSTEMS.items():
        for system, asked in texts[making.part] * making.repeats:
            messages = _chat(making.filled(asked), system=making.filled(system))
            yield Conversation("task in system prompt", (skill,), messages)


def _generic_system(making: _Making) -> Iterator[Conversation]:
    for skill in making.skills:
        for system in w.GENERIC_SYSTEMS[making.part]:
            messages = _chat(making.question(skill).text, system=system)
            yield Conversation("general system prompt", (skill,), messages)


def _in_question(kind: str, texts: Texts) -> Maker:
    def made(making: _Making) -> Iterator[Conversation]:
        for skill in making.skills:
            for text in texts[making.part] * max(1, making.repeats - 1):
                asked = making.question(skill).text
                whole = text.replace("{filler}", making.filler()).replace("{question}", asked)
                yield Conversation(kind, (skill,), _chat(whole))

    return made


def _long_elsewhere(making: _Making) -> Iterator[Conversation]:
    for asked in w.ELSEWHERE[making.part]:
        text = making.rng.choice(w.LONG[making.part])
        whole = text.replace("{filler}", making.filler()).replace("{question}", asked)
        yield Conversation("long, off topic", (GENERAL,), _chat(whole))


def _language(making: _Making) -> Iterator[Conversation]:
    for skill, texts in w.LANGUAGES.items():
        for asked in making.drawn(texts):
            yield Conversation("other languages", (skill,), _chat(asked))


def _typos(making: _Making) -> Iterator[Conversation]:
    for skill in making.skills:
        for _ in range(3 * making.repeats):
            text = misspelt(making.question(skill).text, making.rng)
            yield Conversation("typos", (skill,), _chat(text))


def _elsewhere(kind: str, texts: Texts) -> Maker:
    """Alone, and after a question for a specialist."""

    def made(making: _Making) -> Iterator[Conversation]:
        for asked in texts[making.part] * making.repeats:
            yield Conversation(kind, (GENERAL,), _chat(asked))
        if kind == "off topic":
            for asked in texts[making.part] * making.repeats:
                messages = _after(making.question(making.rng.choice(making.skills)), asked)
                yield Conversation("off topic, after a task", (GENERAL,), messages)

    return made


def _elsewhere_next(making: _Making) -> Iterator[Conversation]:
    for last in making.drawn(w.ELSEWHERE_NEXT):
        first = making.rng.choice(w.ELSEWHERE[making.part])
        yield Conversation("off topic, follow-up", (GENERAL,), _chat(first, "Well.", last))


def misspelt(text: str, rng: random.Random) -> str:
    """A third of the longer words with two letters swapped, one left out or one twice."""
    words = text.split(" ")
    for place, word in enumerate(words):
        if len(word) > 3 and word.isalpha() and rng.random() < 0.35:
            at = rng.randrange(1, len(word) - 1)
            swapped = f"{word[:at]}{word[at + 1]}{word[at]}{word[at + 2 :]}"
            words[place] = rng.choice(
                (swapped, word[:at] + word[at + 1 :], word[:at] + word[at : at + 1] + word[at:])
            )
    return " ".join(words)


KINDS: Mapping[str, Maker] = {
    "plain": _plain,
    "follow-up": _follow_up,
    "second follow-up": _second_follow_up,
    "explain": _about("explain", w.EXPLAIN, general_too=False),
    "thanks": _about("thanks", w.THANKS, general_too=True),
    "correction": _about("correction", w.CORRECTIONS, general_too=False),
    "other form": _form,
    "topic change": _topic,
    "two tasks": _two,
    "system": _system,
    "generic system": _generic_system,
    "long": _in_question("long text", w.LONG),
    "wrapped": _in_question("agent's blocks", w.WRAPPED),
    "language": _language,
    "typos": _typos,
    "small talk": _elsewhere("small talk", w.SMALL_TALK),
    "off topic": _elsewhere("off topic", w.ELSEWHERE),
    "off topic, follow-up": _elsewhere_next,
    "long, off topic": _long_elsewhere,
}


@dataclass(frozen=True)
class Sent:
    """Where a conversation was sent: an expert's id, and whether that is right."""

    conversation: Conversation
    expert: str
    right: bool


def judged(conversation: Conversation, expert: str) -> Sent:
    """A specialist's id is its skill, in the demonstration; anybody else is general."""
    skills = {skill.name for skill in all_skills()}
    return Sent(conversation, expert, (expert if expert in skills else GENERAL) in conversation.right)


async def route_all(asked: Sequence[Conversation], asking: Asking) -> AsyncIterator[Sent]:
    """Where the service sends each. Raises ExpertUnavailable with its message where it refuses one."""
    jobs = {place: _job(place, each, asking.url) for place, each in enumerate(asked)}
    rows = answered(jobs, lambda row: int(row["place"]), None, asking.concurrency)
    async for row in rows:
        yield judged(asked[row["place"]], row["expert"])


def _job(place: int, conversation: Conversation, url: str) -> Job:
    async def ask(session: aiohttp.ClientSession) -> Row:
        body = {"messages": conversation.messages}
        async with session.post(f"{url}/v1/route", json=body) as response:
            answer = await response.json()
            if response.status != 200:
                raise ExpertUnavailable(f"/v1/route answered {response.status}: {answer['error']['message']}")
        return {"place": place, "expert": answer["expert"]}

    return ask


@dataclass(frozen=True)
class Shares:
    """The right ones among all; by kind; of those that belong to a specialist, and to a general expert."""

    everything: Share
    by_kind: Mapping[str, Share]
    specialists: Share
    general: Share


def shares(sent: Sequence[Sent]) -> Shares:
    kinds = dict.fromkeys(each.conversation.kind for each in sent)
    return Shares(
        share(each.right for each in sent),
        {kind: share(each.right for each in sent if each.conversation.kind == kind) for kind in kinds},
        share(each.right for each in sent if each.conversation.right != (GENERAL,)),
        share(each.right for each in sent if each.conversation.right == (GENERAL,)),
    )


def lines(found: Shares) -> list[str]:
    """The shares, a line each, with 95% Wilson intervals."""
    named: dict[str, Any] = {
        **found.by_kind,
        "to their specialist": found.specialists,
        "to the general expert": found.general,
        "all": found.everything,
    }
    return [f"{name:24} {value}  n={value.total}" for name, value in named.items()]
