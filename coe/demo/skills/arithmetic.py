"""Integer arithmetic: addition, subtraction, small products, exact quotients. Answer: the number."""

from __future__ import annotations

import random

from coe.demo.skill import Fields, Phrasing, Skill


def _sum(rng: random.Random) -> Fields:
    a, b = rng.randint(2, 99), rng.randint(2, 99)
    return {"a": a, "b": b, "answer": a + b}


def _difference(rng: random.Random) -> Fields:
    small, result = rng.randint(2, 60), rng.randint(1, 60)
    return {"a": small + result, "b": small, "answer": result}


def _product(rng: random.Random) -> Fields:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return {"a": a, "b": b, "answer": a * b}


def _quotient(rng: random.Random) -> Fields:
    b, result = rng.randint(2, 12), rng.randint(2, 12)
    return {"a": b * result, "b": b, "answer": result}


_SUMS = (
    "What is {a} + {b}?",
    "{a} + {b} =",
    "Add {a} and {b}.",
    "What is {a} plus {b}?",
    "Compute {a} + {b}.",
    "Find the sum of {a} and {b}.",
    "Calculate {a} plus {b}.",
    "How much is {a} and {b} together?",
    "Tom has {a} coins and gets {b} more. How many coins now?",
    "A bus carries {a} people, then {b} get on. How many people are on it?",
    "Increase {a} by {b}.",
    "In March we sold {a} cakes and in April {b}. How many cakes in all?",
)
_DIFFERENCES = (
    "What is {a} - {b}?",
    "{a} - {b} =",
    "Subtract {b} from {a}.",
    "What is {a} minus {b}?",
    "Compute {a} - {b}.",
    "Find the difference between {a} and {b}.",
    "Calculate {a} minus {b}.",
    "Take {b} away from {a}.",
    "Ann had {a} stamps and lost {b}. How many stamps are left?",
    "Decrease {a} by {b}.",
    "A list holds {a} words and {b} are deleted. How many words remain?",
)
_PRODUCTS = (
    "What is {a} x {b}?",
    "{a} * {b} =",
    "Multiply {a} by {b}.",
    "What is {a} times {b}?",
    "Compute {a} * {b}.",
    "Find the product of {a} and {b}.",
    "Calculate {a} times {b}.",
    "There are {a} bags with {b} apples each. How many apples?",
    "A shelf has {a} rows of {b} books. How many books?",
)
_QUOTIENTS = (
    "What is {a} / {b}?",
    "{a} / {b} =",
    "Divide {a} by {b}.",
    "What is {a} divided by {b}?",
    "Compute {a} / {b}.",
    "Share {a} sweets among {b} children. How many sweets each?",
    "Calculate {a} over {b}.",
    "Split {a} into {b} equal parts. How big is one part?",
)
_TEST_PLAIN = (
    ("Work out {a} + {b}.", _sum),
    ("Give me the total of {a} and {b}.", _sum),
    ("Work out {a} - {b}.", _difference),
    ("What remains when {b} is taken from {a}?", _difference),
    ("Work out {a} x {b}.", _product),
    ("How many eggs are in {a} boxes of {b}?", _product),
    ("How many times does {b} go into {a}?", _quotient),
)
_TEST_AMBIGUOUS = (
    ("A table has {a} rows and we insert {b} more. How many rows does it have?", _sum),
    ("It rained on {a} days of the year and snowed on {b} other days. How many wet days were there?", _sum),
    ("From a set of {a} letters, {b} are removed. How many letters stay?", _difference),
)

SKILL = Skill(
    name="arithmetic",
    card="Integer arithmetic: adds, subtracts, multiplies and divides whole numbers, in words or symbols.",
    train=tuple(
        Phrasing(text, draw)
        for texts, draw in (
            (_SUMS, _sum),
            (_DIFFERENCES, _difference),
            (_PRODUCTS, _product),
            (_QUOTIENTS, _quotient),
        )
        for text in texts
    ),
    test=tuple(Phrasing(text, draw) for text, draw in _TEST_PLAIN)
    + tuple(Phrasing(text, draw, ambiguous=True) for text, draw in _TEST_AMBIGUOUS),
    max_tokens=8,
)
