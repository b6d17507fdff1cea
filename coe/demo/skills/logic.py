"""Boolean logic: several expressions at given values, truth-table columns, lists item by item, negation.

Every answer is a row of three or four letters such as "F T F": a single yes or no would be right half
the time by luck. A space before each letter keeps it one token for a BPE model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from coe.demo.skill import Draw, Fields, Phrasing, Skill

_OPERATORS: dict[str, Callable[[bool, bool], bool]] = {
    "and": lambda p, q: p and q,
    "or": lambda p, q: p or q,
    "xor": lambda p, q: p != q,
}
_PAIRS = (("p", "q"), ("a", "b"), ("x", "y"))
_THINGS = ("lamp", "fan", "radio", "oven", "heater", "pump", "alarm", "engine")
_FLAGS = ("active", "paid", "open", "valid", "sent", "new")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ROWS = tuple((p, q) for p in (True, False) for q in (True, False))


def _letters(values: Sequence[bool]) -> str:
    return " ".join("T" if value else "F" for value in values)


def _mixed(rng: random.Random, length: int) -> list[bool]:
    """Random truth values, never all equal: a list of one letter would be the easiest lucky guess."""
    while True:
        values = [rng.random() < 0.5 for _ in range(length)]
        if len(set(values)) > 1:
            return values


def _evaluation(rng: random.Random, p: str, q: str, words: tuple[str, str]) -> Fields:
    """Three expressions of two names; ``words`` say true and false in the question."""
    while True:
        v, w = rng.choice(_ROWS)
        results = {f"{p} {name} {q}": operator(v, w) for name, operator in _OPERATORS.items()}
        results |= {f"not {p}": not v, f"not {q}": not w}
        chosen = rng.sample(sorted(results), 3)
        values = [results[expression] for expression in chosen]
        # As in _mixed: no answer of one repeated letter.
        if len(set(values)) > 1:
            break
    yes, no = words
    return {
        "p": p,
        "q": q,
        "v": yes if v else no,
        "w": yes if w else no,
        "e": ", ".join(chosen),
        "answer": _letters(values),
    }


def _symbols(rng: random.Random) -> Fields:
    p, q = rng.choice(_PAIRS)
    return _evaluation(rng, p, q, ("true", "false"))


def _things(rng: random.Random) -> Fields:
    p, q = rng.sample(_THINGS, 2)
    return _evaluation(rng, p, q, ("on", "off"))


def _flags(rng: random.Random) -> Fields:
    p, q = rng.sample(_FLAGS, 2)
    return _evaluation(rng, p, q, ("true", "false"))


def _days(rng: random.Random) -> Fields:
    p, q = rng.sample(_DAYS, 2)
    return _evaluation(rng, p, q, ("true", "false"))


def _column(rng: random.Random) -> Fields:
    p, q = rng.choice(_PAIRS)
    name = rng.choice(tuple(_OPERATORS))
    deny_p, deny_q = rng.choice(_ROWS)
    # "!=" with a flag is negation when the flag is set.
    values = [_OPERATORS[name](v != deny_p, w != deny_q) for v, w in _ROWS]
    left, right = ("not " if deny_p else "") + p, ("not " if deny_q else "") + q
    return {"p": p, "q": q, "e": f"{left} {name} {right}", "answer": _letters(values)}


def _items(rng: random.Random) -> Fields:
    name = rng.choice(tuple(_OPERATORS))
    while True:
        left, right = _mixed(rng, 3), _mixed(rng, 3)
        values = [_OPERATORS[name](v, w) for v, w in zip(left, right, strict=True)]
        if len(set(values)) > 1:
            break
    return {"l": _letters(left), "r": _letters(right), "o": name.upper(), "answer": _letters(values)}


def _negation(rng: random.Random) -> Fields:
    values = _mixed(rng, 4)
    return {"l": _letters(values), "answer": _letters([not value for value in values])}


_TRAIN: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (
        _symbols,
        (
            "{p} = {v}, {q} = {w}. Give {e}.",
            "{p} is {v} and {q} is {w}. What are {e}?",
            "Let {p} be {v} and {q} be {w}. Evaluate: {e}.",
            "If {p} = {v} and {q} = {w}, what are {e}? Use T or F.",
            "Given {p} = {v}, {q} = {w}, find {e}.",
            "{p}: {v}; {q}: {w}. {e}?",
            "Evaluate {e} for {p} = {v} and {q} = {w}.",
            "Compute {e} when {p} is {v} and {q} is {w}.",
            "Answer T or F for each of {e}, where {p} is {v} and {q} is {w}.",
            "Which of these hold, T or F: {e}? Here {p} is {v} and {q} is {w}.",
            "Suppose {p} is {v} while {q} is {w}. T or F: {e}.",
        ),
    ),
    (
        _things,
        (
            "The {p} is {v} and the {q} is {w}. Give {e}.",
            "The {p} is {v}, the {q} is {w}. T or F: {e}?",
            "{p} {v}, {q} {w}. What are {e}?",
            "With the {p} {v} and the {q} {w}, evaluate {e}.",
            "If the {p} is {v} and the {q} is {w}, are these true: {e}? Use T or F.",
        ),
    ),
    (
        _column,
        (
            "Truth table column of {e}, rows TT TF FT FF?",
            "Truth table of {e}, rows TT TF FT FF:",
            "Give the truth table of {e} for rows TT TF FT FF.",
            "{e}: values for TT TF FT FF?",
            "What is {e} when {p} {q} are TT TF FT FF?",
            "Evaluate {e} for {p} {q} = TT, TF, FT, FF.",
            "Write the results of {e} for TT, TF, FT, FF.",
            "For the rows TT TF FT FF, what is {e}?",
            "Go through TT TF FT FF and give {e} as T or F.",
            "Rows TT TF FT FF. Column of {e}?",
            "Find the truth values of {e} in the order TT TF FT FF.",
        ),
    ),
    (
        _items,
        (
            "{l} {o} {r}, item by item?",
            "Combine {l} and {r} with {o}, place by place.",
            "Apply {o} to {l} and {r} item by item.",
            "What is {l} {o} {r}, letter by letter?",
            "{o} of {l} and {r}:",
            "Compute {o} of {l} and {r} for each place.",
            "Elementwise {o}: {l} with {r}.",
            "Take {l} and {r}. Give their {o} for each position.",
        ),
    ),
    (
        _negation,
        (
            "Negate {l}.",
            "NOT {l}, item by item?",
            "What is the negation of {l}?",
            "Flip each truth value: {l}",
            "Give the opposite of each: {l}",
            "Change T to F and F to T in {l}.",
            "not {l}:",
        ),
    ),
)
_TRAIN_AMBIGUOUS: tuple[tuple[str, Draw], ...] = (
    ("A record has {p} = {v} and {q} = {w}. Give {e}.", _flags),
    ("A table row says {p} is {v} and {q} is {w}. What are {e}?", _flags),
    ("JSON flags: {p}: {v}, {q}: {w}. T or F: {e}?", _flags),
    ("The weather was fine, {p}: {v}, {q}: {w}. Evaluate {e}.", _days),
    ("Two lists hold {l} and {r}. What is their {o} item by item?", _items),
    ("Flip the whole column {l}.", _negation),
    ("A query filter is {e}. Its results for rows TT TF FT FF?", _column),
)
_TEST_PLAIN: tuple[tuple[str, Draw], ...] = (
    ("We know that {p} is {v} and that {q} is {w}. Say T or F for {e}.", _symbols),
    ("Assume {p} = {v} and {q} = {w}. Work out {e} as T or F.", _symbols),
    ("Take {p} as {v} and {q} as {w}; now state T or F: {e}.", _symbols),
    ("In the room the {p} is {v}, also the {q} is {w}. T or F for each: {e}?", _things),
    ("Someone left the {p} {v} and the {q} {w}. Give T or F for {e}.", _things),
    ("Work out {e} on the rows TT TF FT FF.", _column),
    ("Fill in the T or F column for {e}; its rows are TT TF FT FF.", _column),
    ("Which truth values does {e} take for TT, then TF, then FT, then FF?", _column),
    ("Work out {l} {o} {r}, place by place.", _items),
    ("Use {o} on each pair of places in {l} and {r}.", _items),
    ("Invert all the truth values in {l}.", _negation),
    ("Replace every T by F and every F by T: {l}", _negation),
)
_TEST_AMBIGUOUS: tuple[tuple[str, Draw], ...] = (
    ("A table has columns {p} and {q}; in one row {p} is {v}, {q} is {w}. T or F: {e}?", _flags),
    ('Read the object {{"{p}": {v}, "{q}": {w}}} and give T or F for {e}.', _flags),
    ("Calendar notes: {p} is {v}, {q} is {w}. Say T or F for {e}.", _days),
    ("SELECT WHERE {e}: which of the rows TT TF FT FF pass, as T or F?", _column),
    ("Merge the sets of values {l} and {r} by {o}, item by item.", _items),
)

SKILL = Skill(
    name="logic",
    card="Boolean logic: evaluates and, or, xor and not at given truth values, in truth "
    "tables and on lists of T and F.",
    train=tuple(Phrasing(text, draw) for draw, texts in _TRAIN for text in texts)
    + tuple(Phrasing(text, draw, ambiguous=True) for text, draw in _TRAIN_AMBIGUOUS),
    test=tuple(Phrasing(text, draw) for text, draw in _TEST_PLAIN)
    + tuple(Phrasing(text, draw, ambiguous=True) for text, draw in _TEST_AMBIGUOUS),
    max_tokens=12,
)
