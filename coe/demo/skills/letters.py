"""Words and letters: spelling, end letters, initials, letter case, joining, plurals, swapping.

The words are shared by both splits, only the wordings differ: a BPE model sees a common word as one
token, so it can spell only words whose letters it has met, and we measure wording, not vocabulary.
"""

from __future__ import annotations

import random

from coe.demo.skill import Draw, Fields, Phrasing, Question, Skill, same_text

# Countable nouns with a regular plural, so that one list serves every task.
_NOUNS = """
    ant apple arm baby bag ball bank bean bed bee bell belt bench bike bird boat book bottle bowl box
    boy brush bus cake car cat chair church city class clock cloud coat coin cow cup desk dish doctor dog
    doll door dress drum ear egg eye farm field floor flower fork fox friend game gift girl glass hand hat
    head hen hill horse house key king lady lake lamp leg lemon monkey moon nose onion orange page pan
    paper park party pen phone pie pig plane plate queen rabbit ring river road room root rose school seed
    ship shirt shop snake sock song soup spoon star storm story street sun table tiger town toy train tree
    truck wall watch wheel window
"""
_WORDS = tuple(_NOUNS.split())
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_CASED = {"case_sensitive": True}


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def _spell(rng: random.Random) -> Fields:
    word = rng.choice(_WORDS)
    return {"w": word, "answer": "-".join(word)}


def _first(rng: random.Random) -> Fields:
    word = rng.choice(_WORDS)
    return {"w": word, "answer": word[0]}


def _last(rng: random.Random) -> Fields:
    word = rng.choice(_WORDS)
    return {"w": word, "answer": word[-1]}


def _first_of_date(rng: random.Random) -> Fields:
    word = rng.choice(_WEEKDAYS + _MONTHS)
    return {"w": word, "answer": word[0]}


def _initials(rng: random.Random) -> Fields:
    a, b, c = rng.sample(_WORDS, 3)
    # Hyphens keep one token per letter: "CDT" may be any of several BPE splits.
    return {"a": a, "b": b, "c": c, "answer": f"{a[0]}-{b[0]}-{c[0]}"}


def _upper(rng: random.Random) -> Fields:
    word = rng.choice(_WORDS)
    return {"w": word, "answer": word.upper(), "evidence": _CASED}


def _capital(rng: random.Random) -> Fields:
    word = rng.choice(_WORDS)
    return {"w": word, "answer": word.capitalize(), "evidence": _CASED}


def _join(rng: random.Random) -> Fields:
    a, b = rng.sample(_WORDS, 2)
    return {"a": a, "b": b, "answer": f"{a}-{b}"}


def _swap(rng: random.Random) -> Fields:
    a, b = rng.sample(_WORDS, 2)
    return {"a": a, "b": b, "answer": f"{b} {a}"}


def _more(rng: random.Random) -> Fields:
    word = rng.choice(_WORDS)
    return {"w": word, "answer": _plural(word)}


def _check(question: Question, output: str) -> bool:
    """As ``same_text``, but a question about letter case is wrong in the wrong case."""
    if not same_text(question, output):
        return False
    if not question.evidence.get("case_sensitive"):
        return True
    # same_text already accepted the first line, so only its case is left to compare.
    return output.strip().splitlines()[0].strip().rstrip(".").strip() == question.answer


_TRAIN: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (
        _spell,
        (
            "Spell {w} with hyphens.",
            "How do you spell {w}? Put hyphens between the letters.",
            "Spelling of {w}?",
            "Split the word {w} into letters with hyphens.",
            "Write {w} letter by letter, hyphenated.",
            "What are the letters of {w}? Separate them with hyphens.",
            "Spell out {w}.",
            "{w}, letter by letter:",
            "Put a hyphen between all letters of {w}.",
        ),
    ),
    (
        _first,
        (
            "What is the first letter of {w}?",
            "First letter of {w}:",
            "Which letter does {w} start with?",
            "Give the first letter of the word {w}.",
            "The word {w} begins with which letter?",
            "Initial letter of {w}?",
            "Name the letter at the start of {w}.",
        ),
    ),
    (
        _last,
        (
            "What is the last letter of {w}?",
            "Last letter of {w}:",
            "Which letter does {w} end with?",
            "Give the last letter of the word {w}.",
            "The word {w} ends in which letter?",
            "Final letter of {w}?",
            "Name the letter at the end of {w}.",
        ),
    ),
    (
        _initials,
        (
            "Initials of {a} {b} {c}, with hyphens?",
            "Take the first letters of {a} {b} {c} and hyphenate them.",
            "What are the initials of {a}, {b} and {c}? Use hyphens.",
            "Hyphenated acronym of {a} {b} {c}:",
            "Make an acronym with hyphens from {a} {b} {c}.",
            "Give the first letter of each: {a}, {b}, {c}.",
        ),
    ),
    (
        _upper,
        (
            "Write {w} in capital letters.",
            "Put {w} in upper case.",
            "{w} in all caps:",
            "Uppercase {w}.",
            "What is {w} in capitals?",
            "Change every letter of {w} to upper case.",
            "Convert the word {w} to capitals.",
        ),
    ),
    (
        _capital,
        (
            "Capitalize only the first letter of {w}.",
            "Write {w} with a capital first letter.",
            "{w} with one capital at the start:",
            "How is {w} written at the start of a sentence?",
            "Make just the first letter of {w} big.",
            "Turn {w} into title case.",
        ),
    ),
    (
        _join,
        (
            "Join {a} and {b} with a hyphen.",
            "Write {a} and {b} as one hyphenated word.",
            "{a} hyphen {b}:",
            "Connect the words {a} and {b} by a hyphen.",
            "Put a hyphen between {a} and {b}.",
            "What do you get if you link {a} to {b} with a hyphen?",
        ),
    ),
    (
        _more,
        (
            "What is the plural of {w}?",
            "Plural of {w}:",
            "Write {w} in the plural.",
            "One {w}, many what?",
            "Give the plural form of {w}.",
            "I have one {w}, you have two ...",
            "Make the noun {w} plural.",
        ),
    ),
    (
        _swap,
        (
            "Swap the words: {a} {b}",
            "Exchange the two words {a} {b}.",
            "Write {a} {b} in the opposite order.",
            "Reverse the word order of {a} {b}.",
            "{a} {b} with the words swapped:",
            "What is {a} {b} with the second word first?",
        ),
    ),
)
_TRAIN_AMBIGUOUS: tuple[tuple[str, Draw], ...] = (
    ("Which letter does {w} start with in the calendar?", _first_of_date),
    ("What is the first letter of the date word {w}?", _first_of_date),
    ("A database column is called {w}. What is its last letter?", _last),
    ("The JSON key is {w}. Write the key in upper case.", _upper),
    ("Join the list items {a} and {b} with a hyphen.", _join),
    ("A regex splits {w} into single letters. Write them with hyphens.", _spell),
    ("Sort nothing, just swap the two items {a} {b}.", _swap),
    ("A table stores more than one {w}. Plural?", _more),
)
_TEST_PLAIN: tuple[tuple[str, Draw], ...] = (
    ("Please spell the word {w} using hyphens between its letters.", _spell),
    ("Break {w} up into hyphenated letters.", _spell),
    ("Tell me the letter that {w} opens with.", _first),
    ("At the very beginning of {w}, which letter stands there?", _first),
    ("Tell me the letter that {w} finishes with.", _last),
    ("Which letter closes the word {w}?", _last),
    ("Build the hyphenated initials for the three words {a} {b} {c}.", _initials),
    ("Shout the word {w}: all letters in capitals.", _upper),
    ("Show {w} with every letter uppercase.", _upper),
    ("Give {w} a capital letter at the start only.", _capital),
    ("Combine {a} with {b}, placing a hyphen in the middle.", _join),
    ("If there are several of them, what does {w} become?", _more),
    ("What do we call more than one {w}?", _more),
    ("Turn the pair {a} {b} around so that the second word comes first.", _swap),
)
_TEST_AMBIGUOUS: tuple[tuple[str, Draw], ...] = (
    ("On a calendar page I see {w}. With which letter does it begin?", _first_of_date),
    ("In SQL we select from {w}. Which letter ends that table name?", _last),
    ("Type the SQL keyword {w} in capital letters.", _upper),
    ("Make one JSON key from {a} and {b}, with a hyphen between them.", _join),
    ("Reorder the list {a} {b}: second item first, then the other.", _swap),
    ("A pattern matches each character of {w}. Spell these matches with hyphens.", _spell),
)

SKILL = Skill(
    name="letters",
    card="Words and letters: spells a word with hyphens, gives its first or last letter, initials, upper "
    "case, plural, and joins or swaps two words.",
    train=tuple(Phrasing(text, draw) for draw, texts in _TRAIN for text in texts)
    + tuple(Phrasing(text, draw, ambiguous=True) for text, draw in _TRAIN_AMBIGUOUS),
    test=tuple(Phrasing(text, draw) for text, draw in _TEST_PLAIN)
    + tuple(Phrasing(text, draw, ambiguous=True) for text, draw in _TEST_AMBIGUOUS),
    check=_check,
    max_tokens=24,
)
