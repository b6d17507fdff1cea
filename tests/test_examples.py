"""The skills of the demonstration and their questions."""

from __future__ import annotations

import itertools
import re

import pytest

from coe.demo.questions import distinct_questions, held_out_questions
from coe.demo.router_examples import GENERAL, router_examples
from coe.demo.skill import Skill
from coe.demo.skills import all_skills, skill_named

SKILLS = all_skills()
each_skill = pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9{}]+", " ", text.casefold()).strip()


@each_skill
def test_training_and_test_share_no_phrasing(skill: Skill) -> None:
    train = {_plain(phrasing.text) for phrasing in skill.train}
    assert not train & {_plain(phrasing.text) for phrasing in skill.test}


@each_skill
def test_the_canonical_answer_is_marked_right(skill: Skill) -> None:
    for split in ("train", "test"):
        for question in itertools.islice(skill.questions(split, 3), 60):
            assert skill.check(question, question.answer), question


@each_skill
def test_another_question_s_answer_is_marked_wrong_unless_it_is_the_same(skill: Skill) -> None:
    questions = distinct_questions(skill, "test", 40, seed=4)
    wrong = [
        not skill.check(asked, other.answer)
        for asked, other in itertools.pairwise(questions)
        if asked.answer != other.answer
    ]
    assert sum(wrong) > 0.8 * len(wrong)


@each_skill
def test_every_skill_has_two_hundred_distinct_held_out_questions(skill: Skill) -> None:
    questions = distinct_questions(skill, "test", 200, seed=2026)
    assert len({question.text for question in questions}) == 200


def test_a_fifth_of_the_mixed_test_set_is_ambiguous_by_vocabulary() -> None:
    questions = held_out_questions(100)
    assert sum(question.ambiguous for question in questions) >= len(questions) / 5


def test_router_examples_share_no_text_with_the_held_out_questions() -> None:
    held_out = {question.text for question in held_out_questions(200)}
    examples = router_examples()
    assert not held_out & {text for text, _ in examples}
    assert {category for _, category in examples} == {skill.name for skill in SKILLS} | {"general"}
    assert len(GENERAL) >= 30


def test_an_unknown_skill_is_refused_with_the_choices() -> None:
    with pytest.raises(KeyError, match="arithmetic"):
        skill_named("cooking")
