"""Which questions are learned from and which are asked: by recorded splits, or in folds.

Questions with the same wording never stand on both sides, whatever their ids say.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coe.core.errors import ConfigError
from coe.core.suggest import suggest
from coe.outcomes.outcome_set import Indices, Question
from coe.outcomes.text_key import normalised


@dataclass(frozen=True)
class Fold:
    """Rows to learn from and rows to ask; they share no wording."""

    train: Indices
    test: Indices


def wording(question: Question) -> str:
    """What two copies of a question have in common; the id where there is no text."""
    return normalised(question.stem or "") or f"\0{question.id}"


def split_folds(questions: Sequence[Question], train: str, test: str) -> list[Fold]:
    """One fold: learn from split ``train``, ask split ``test``. Copies of asked questions are not learned.

    Raises ConfigError when a split has no questions.
    """
    for split in (train, test):
        if all(question.split != split for question in questions):
            known = sorted({question.split for question in questions})
            raise ConfigError(f'no question is of the split "{split}"; {suggest(split, known)}')
    asked = [i for i, question in enumerate(questions) if question.split == test]
    wordings = {wording(questions[i]) for i in asked}
    learned = [
        i for i, question in enumerate(questions)
        if question.split == train and wording(question) not in wordings
    ]  # fmt: skip
    if not learned:
        raise ConfigError(f'every question of the split "{train}" stands in "{test}" too: nothing to learn')
    return [Fold(np.asarray(learned, dtype=np.intp), np.asarray(asked, dtype=np.intp))]


def cross_folds(questions: Sequence[Question], count: int, seed: int) -> list[Fold]:
    """``count`` folds of about equal size; every question is asked once."""
    groups: dict[str, list[int]] = {}
    for i, question in enumerate(questions):
        groups.setdefault(wording(question), []).append(i)
    if len(groups) < count:
        raise ConfigError(f"{len(groups)} different questions cannot make {count} folds")
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    parts: list[list[int]] = [[] for _ in range(count)]
    for group in sorted(order, key=len, reverse=True):  # the large ones first, each into the smallest part
        min(parts, key=len).extend(group)
    everything = set(range(len(questions)))
    return [Fold(_indices(everything.difference(part)), _indices(part)) for part in parts]


def thinned(folds: Sequence[Fold], share: float, seed: int) -> list[Fold]:
    """The same questions asked after learning from a random ``share`` of the learning questions."""
    draws = random.Random(seed)
    return [
        Fold(_indices(draws.sample(fold.train.tolist(), max(1, round(share * len(fold.train))))), fold.test)
        for fold in folds
    ]


def _indices(rows: set[int] | list[int]) -> Indices:
    return np.asarray(sorted(rows), dtype=np.intp)
