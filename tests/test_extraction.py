"""Answers out of texts, strictly: every pattern that must count, and the noise that must not."""

from __future__ import annotations

import pytest

from coe.core.extraction import (
    Extracted,
    choice,
    extract,
    form_of,
    json_value,
    number,
    options_in,
    short_text,
)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("D.", "D"),
        ("B) Paris", "B"),
        ("The answer is (G).", "G"),
        ("Let me think.\nThe answer is **E**", "E"),
        ("Answer: A", "A"),
        ("The final answer is: C, because water boils.", "C"),
        (r"So we get $\boxed{\text{F}}$.", "F"),
        ("The answer is A. Wait, that is wrong. The answer is D.", "D"),
        ("It cannot be A.\n\nH", "H"),
        ("The correct option is J", "J"),
    ],
)
def test_a_choice_is_taken_where_it_is_declared_or_alone(text: str, letter: str) -> None:
    assert choice(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        "I think it is hard.",
        "A dog is an animal.",
        "The answer is A large dog.",
        "| A | B |",
        "Either (A) or (B)",
        "",
        "The answer is unknown",
        "Z",
        "b",
    ],
)
def test_noise_is_no_choice(text: str) -> None:
    assert choice(text) is None


def test_a_choice_outside_the_options_is_none() -> None:
    assert choice("The answer is E", "ABCD") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("35", "35"),
        ("$1,234.50", "2469/2"),
        ("0.5", "1/2"),
        ("1/2", "1/2"),
        ("The answer is 42 apples.", "42"),
        ("We had 3, then 4.\n#### 7", "7"),
        ("12 + 30 = 42", "42"),
        (r"Hence \boxed{-3}", "-3"),
        ("It costs 17 dollars", "17"),
        ("1e3", "1000"),
    ],
)
def test_a_number_is_taken_and_made_canonical(text: str, value: str) -> None:
    assert number(text) == value


@pytest.mark.parametrize("text", ["between 3 and 4", "no idea", "", "1/0"])
def test_no_single_number_is_none(text: str) -> None:
    assert number(text) is None


def test_json_is_equal_whatever_the_order_of_keys_and_the_fence() -> None:
    plain = json_value('{"b": 1.0, "a": [true, null]}')
    assert plain == json_value('```json\n{"a": [true, null], "b": 1}\n```') == '{"a":[true,null],"b":1}'
    assert json_value("{'a': 1}") is None
    assert json_value('{"a": NaN}') is None


def test_short_texts_are_equal_whatever_case_spacing_and_final_stop() -> None:
    assert short_text(" 20  November. ") == short_text("20 november")
    assert short_text("4000 m") == short_text("4000m")
    assert short_text("one line\nanother line") is None
    assert short_text("word " * 30) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"name": "Maria"}', Extracted("json", '{"name":"Maria"}')),
        ("35", Extracted("number", "35")),
        ("I add them. The answer is 35.", Extracted("number", "35")),
        ("T T T F", Extracted("text", "t t t f")),
        ("a long explanation " * 10, None),
        ("", None),
    ],
)
def test_without_a_form_the_text_says_what_it_is(text: str, found: Extracted | None) -> None:
    assert extract(text) == found


def test_the_form_comes_from_the_question() -> None:
    question = "What is it?\nA) one\nB) two\n(C) three"
    assert options_in(question) == "ABC"
    assert form_of(question) == "choice"
    assert form_of("What is 2+2?") is None
    assert form_of(question, {"type": "json_object"}) == "json"
    assert extract("The answer is B.", form_of(question)) == Extracted("choice", "B")
