"""The mixed held-out questions of the demonstration: every skill's unseen phrasings, shuffled."""

from __future__ import annotations

import itertools
import random

from coe.demo.skill import Question, Skill, Split
from coe.demo.skills import all_skills

HELD_OUT_SEED = 2026


def distinct_questions(skill: Skill, split: Split, count: int, seed: int) -> list[Question]:
    """``count`` questions of one skill with distinct texts."""
    seen: set[str] = set()
    found: list[Question] = []
    for question in itertools.islice(skill.questions(split, seed), count * 20):
        if question.text in seen:
            continue
        seen.add(question.text)
        found.append(question)
        if len(found) == count:
            return found
    raise ValueError(f"skill {skill.name} makes only {len(found)} distinct {split} questions, {count} asked")


def held_out_questions(per_skill: int = 200) -> list[Question]:
    """The fixed test set, the same for everyone: ``per_skill`` questions of each skill, mixed."""
    questions = [
        question
        for skill in all_skills()
        for question in distinct_questions(skill, "test", per_skill, HELD_OUT_SEED)
    ]
    random.Random(HELD_OUT_SEED).shuffle(questions)
    return questions
