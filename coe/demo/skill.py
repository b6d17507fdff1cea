"""What a demonstration skill is: phrasings that make questions, and a check that marks answers.

Questions are made, never collected, so every answer can be checked by a programme.
Training and test share no phrasing: a specialist is measured on wordings it never saw.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "test"]
Fields = Mapping[str, object]
Draw = Callable[[random.Random], Fields]
"""Draws the values of one question. ``answer`` is the canonical answer; the others fill the phrasing."""


@dataclass(frozen=True)
class Question:
    """One question with its canonical answer; ``evidence`` is what the check needs beyond it."""

    id: str
    skill: str
    phrasing: str
    text: str
    answer: str
    ambiguous: bool = False
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Phrasing:
    """A wording with ``{placeholders}``. ``ambiguous``: its vocabulary suggests another skill."""

    text: str
    draw: Draw
    ambiguous: bool = False


Check = Callable[[Question, str], bool]


def same_text(question: Question, output: str) -> bool:
    """Exact match of the first line, blind to surrounding space, a final full stop and letter case."""
    return _plain(output) == _plain(question.answer)


def _plain(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0].strip().rstrip(".").strip().casefold() if lines else ""


@dataclass(frozen=True)
class Skill:
    """A named ability: card (one sentence for routers and people), phrasings per split, check."""

    name: str
    card: str
    train: tuple[Phrasing, ...]
    test: tuple[Phrasing, ...]
    check: Check = same_text
    max_tokens: int = 24

    def questions(self, split: Split, seed: int) -> Iterator[Question]:
        """An endless, seeded stream of questions, phrasings in turn so that each is used equally."""
        phrasings = self.train if split == "train" else self.test
        rng = random.Random(f"{self.name}/{split}/{seed}")
        number = 0
        while True:
            order = list(range(len(phrasings)))
            rng.shuffle(order)
            for index in order:
                yield self._make(split, seed, number, index, phrasings[index], rng)
                number += 1

    def _make(
        self, split: Split, seed: int, number: int, index: int, phrasing: Phrasing, rng: random.Random
    ) -> Question:
        fields = dict(phrasing.draw(rng))
        answer = str(fields.pop("answer"))
        evidence = fields.pop("evidence", {})
        assert isinstance(evidence, Mapping)
        return Question(
            id=f"{self.name}-{split}-{seed}-{number}",
            skill=self.name,
            phrasing=f"{self.name}/{split}/{index}",
            text=phrasing.text.format_map(fields),
            answer=answer,
            ambiguous=phrasing.ambiguous,
            evidence=evidence,
        )
