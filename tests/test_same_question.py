"""The response cache never answers another question: pairs that differ in one thing that counts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from coe.access.same_question import same_question
from coe.registry.service_settings import CacheSettings

NOUNS = ("dog", "man", "Anna", "Paul", "bank", "student")
NUMBERS = ("5", "50", "5.0", "-5", "5,000", "five", "5!", "5e3")
UNITS = ("miles", "kilometres", "feet", "inches", "kg", "lb", "MB", "Mb", "mb")
LANGUAGES = ("German", "Spanish", "French", "Dutch", "Polish", "polish")
LONG = "The council met in the old hall and spoke about the bridge, the school and the market. " * 20
OPPOSITES = (
    ("is", "is not"),
    ("isn't", "is"),
    ("before", "after"),
    ("and", "or"),
    ("older", "younger"),
    ("more", "less"),
    ("at least", "at most"),
    ("few", "a few"),
    ("all", "not all"),
    ("can", "cannot"),
    ("with", "without"),
    ("ascending", "descending"),
    ("the first", "the last"),
    ("us", "US"),
    ("who", "WHO"),
)
CODE = ("x + 1", "x - 1", "x += 1", "x * 1", "X + 1", "x+1 # no", "y + 1", "x  +  1", "x == 1", "x = 1")


def swapped() -> Iterator[tuple[str, str]]:
    for one, other in itertools.combinations(NOUNS, 2):
        for verb in ("bite", "pay", "see"):
            yield f"Does the {one} {verb} the {other}?", f"Does the {other} {verb} the {one}?"
    for one, other in itertools.combinations(UNITS, 2):
        yield f"Convert 5 {one} to {other}.", f"Convert 5 {other} to {one}."
    yield "Is a true and b false, or c?", "Is a false and b true, or c?"


def changed() -> Iterator[tuple[str, str]]:
    for one, other in itertools.combinations(NUMBERS, 2):
        yield f"What is {one} plus 12?", f"What is {other} plus 12?"
        yield f"What is 12 plus {one}?", f"What is 12 plus {other}?"
    for one, other in OPPOSITES:
        yield f"List those who {one} there on Monday.", f"List those who {other} there on Monday."
        yield f"Which of them was {one} him?", f"Which of them was {other} him?"
        yield LONG + f"Which were {one} them?", LONG + f"Which were {other} them?"
    for one, other in itertools.combinations(LANGUAGES, 2):
        yield f"{LONG}Translate the text into {one}.", f"{LONG}Translate the text into {other}."
        yield f"Explain this in {one}.", f"Explain this in {other}."
    for one, other in itertools.combinations(CODE, 2):
        yield f"What does `{one}` do?", f"What does `{other}` do?"
        yield f"Explain\n```python\n{one}\n```", f"Explain\n```python\n{other}\n```"


def worded() -> Iterator[tuple[str, str]]:
    """What is left out elsewhere is what is asked about here."""
    yield "What is the Spanish word for please?", "What is the Spanish word for?"
    yield "How do you say hello, thank you.", "How do you say hello."
    yield "Is this polite: give me tea, please", "Is this polite: give me tea"
    yield "Write the sentence he left.", "Write the sentence he left"
    yield "Explain 'he left?'", "Explain 'he left.'"
    yield "Polish furniture needs what?", "polish furniture needs what?"
    yield "Turkey is how large?", "turkey is how large?"
    yield "What is 5!", "What is 5"
    yield "What is 5!?", "What is 5?"
    yield "Would you list him as a friend?", "List him as a friend?"
    yield 'Count the spaces in "a  b"', 'Count the spaces in "a b"'
    yield "Sort: b  a", "Sort: b a"
    yield "IS it down?", "Is it down?"
    yield "What did he mean by thanks a lot", "What did he mean by"
    yield "What is x\u00b2 for x = 3?", "What is x2 for x = 3?"
    yield "Translate into French: I know.", "Translate into French: I know?"
    yield "Who is hello there", "Who is"


PAIRS = [*swapped(), *changed(), *worded()]


def test_no_pair_of_different_questions_is_taken_for_the_same() -> None:
    assert len(PAIRS) >= 200
    false_hits = [pair for pair in PAIRS if same_question(pair[0]) == same_question(pair[1])]
    assert not false_hits


def test_politeness_hides_no_difference() -> None:
    for one, other in PAIRS:
        assert same_question(f"Please, {one}") != same_question(f"{other} Thanks!")


@pytest.mark.parametrize(
    "text",
    [
        "what is the capital of France?",
        "What is the capital of France",
        "Please, what is the capital of France?",
        "please what is the capital of France?",
        "Hello, what is the capital of France?",
        "Good morning! What is the capital of France?",
        "What's the capital of France?",
        "What\u2019s the capital of France?",
        "What is  the capital   of France? ",
        "What is the capital of France? Thanks!",
        "What is the capital of France, please?"[:-1],
        "Hi! What is the capital of France? Thank you very much.",
        "What is the capital of France? Thanks in advance",
        "What is the capital of France.",
    ],
)
def test_a_question_put_otherwise_is_the_same(text: str) -> None:
    assert same_question(text) == same_question("What is the capital of France?")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Convert 5 miles to kilometres.", "Could you please convert 5 miles to kilometres?"),
        ("Convert 5 miles to kilometres.", "Please convert 5 miles to kilometres. Thank you."),
        ("Sort these numbers, 3 1 2", "sort these numbers, 3 1 2."),
        ("How far is Caf\u00e9 Nero?", "how far is Cafe\u0301 Nero"),
    ],
)
def test_a_request_put_otherwise_is_the_same(one: str, other: str) -> None:
    assert same_question(one) == same_question(other)


def test_a_threshold_of_likeness_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValidationError, match="rephrased: true"):
        CacheSettings.model_validate({"ttl_s": 3600, "similarity": 0.97})
