"""Description to regular expression. Answer: the pattern alone, without anchors."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from coe.demo.skill import Draw, Fields, Phrasing, Question, Skill

_MAX_PATTERN = 80
_MAX_STRING = 24
_MAX_VARIABLE = 6
_MANY = 7  # "One or more" is tried up to here: beyond every bound that the descriptions name.
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
_LITERALS = (
    "cat",
    "dog",
    "red",
    "blue",
    "item",
    "user",
    "code",
    "page",
    "file",
    "test",
    "room",
    "note",
)
# Pattern, the characters it allows, and the names a description may give to one of them.
_CLASSES = (
    (r"\d", string.digits, ("a digit",)),
    ("[a-z]", string.ascii_lowercase, ("a lowercase letter", "a small letter")),
    ("[A-Z]", string.ascii_uppercase, ("an uppercase letter", "a capital letter")),
)
_MARKS = (("-", ("a hyphen", "a dash")), ("_", ("an underscore",)))


@dataclass(frozen=True)
class _Piece:
    """One piece: its wording, its pattern, and the ``units`` it repeats ``low`` to ``high`` times."""

    words: str
    pattern: str
    units: tuple[str, ...]
    low: int = 1
    high: int = 1

    def strangers(self) -> list[str]:
        """What must not stand where a unit stands."""
        if len(self.units[0]) > 1:
            word = self.units[0]
            return [word.upper(), word[::-1], word[:-1] + "q"]
        return [char for char in "5kK_-." if char not in self.units]


def _counted(rng: random.Random) -> _Piece:
    """A character class, repeated a fixed or a bounded number of times, or one or more times."""
    pattern, chars, names = rng.choice(_CLASSES)
    name, units = rng.choice(names), tuple(chars)
    noun = name.split(" ", 1)[1]
    kind = rng.random()
    if kind < 0.15:
        return _Piece(rng.choice((name, f"one {noun}")), pattern, units)
    if kind < 0.55:
        count = rng.choice((2, 3, 4, 5))
        words = rng.choice((_NUMBERS[count], str(count), f"exactly {_NUMBERS[count]}"))
        return _Piece(f"{words} {noun}s", f"{pattern}{{{count}}}", units, count, count)
    if kind < 0.78:
        words = rng.choice((f"one or more {noun}s", f"at least one {noun}"))
        return _Piece(words, f"{pattern}+", units, 1, _MANY)
    low, high = sorted(rng.sample((2, 3, 4, 5), 2))
    words = rng.choice(
        (
            f"between {low} and {high}",
            f"between {_NUMBERS[low]} and {_NUMBERS[high]}",
            f"{_NUMBERS[low]} to {_NUMBERS[high]}",
            f"{low} to {high}",
        )
    )
    return _Piece(f"{words} {noun}s", f"{pattern}{{{low},{high}}}", units, low, high)


def _optional(rng: random.Random) -> _Piece:
    pattern, chars, names = rng.choice((*_CLASSES, *((mark, mark, names) for mark, names in _MARKS)))
    noun = rng.choice(names).split(" ", 1)[1]
    return _Piece(f"an optional {noun}", f"{pattern}?", tuple(chars), 0, 1)


def _fixed(rng: random.Random) -> _Piece:
    if rng.random() < 0.5:
        mark, names = rng.choice(_MARKS)
        return _Piece(rng.choice(names), mark, (mark,))
    word = rng.choice(_LITERALS)
    return _Piece(f"the word {word}", word, (word,))


def _pieces(rng: random.Random, count: int) -> list[_Piece]:
    """``count`` pieces, one at least a counted class: alone, a literal matches too few strings to test."""
    while True:
        makers = [rng.choice((_counted, _counted, _fixed, _optional)) for _ in range(count - 1)]
        pieces = [make(rng) for make in (_counted, *makers)]
        rng.shuffle(pieces)
        # Like neighbours ("two digits, then one or more digits") have several right readings.
        if all(left.units != right.units for left, right in pairwise(pieces)):
            return pieces


def _matches(rng: random.Random, pieces: list[_Piece]) -> list[str]:
    """Eight strings of the grammar: the shortest, the longest, and random ones between."""
    found = dict.fromkeys(
        (
            "".join(piece.units[0] * piece.low for piece in pieces),
            "".join(piece.units[-1] * piece.high for piece in pieces),
        )
    )
    while len(found) < 8:
        counts = [rng.randint(piece.low, piece.high) for piece in pieces]
        parts = (rng.choices(piece.units, k=n) for piece, n in zip(pieces, counts, strict=True))
        found["".join(unit for part in parts for unit in part)] = None
    return list(found)


def _wrong_parts(piece: _Piece) -> list[list[str]]:
    """Unit lists just outside a piece: one too few, one too many, or a stranger at either end."""
    wrong = [[piece.units[1 % len(piece.units)]] * (piece.low - 1)] if piece.low else []
    if piece.high < _MANY:
        wrong.append([piece.units[0]] * (piece.high + 1))
    body = [piece.units[0]] * (max(piece.low, 1) - 1)
    for stranger in piece.strangers():
        wrong += [[stranger, *body], [*body, stranger]]
    return wrong


def _misses(rng: random.Random, pieces: list[_Piece], pattern: str) -> list[str]:
    """Strings that differ from a match by one piece, by the order of pieces, or by one more character."""
    found: dict[str, None] = {}
    for index, piece in enumerate(pieces):
        for wrong in _wrong_parts(piece):
            for least in (0, 1):  # With the optional neighbours left out, and with them.
                parts = [rng.choice(other.units) * max(other.low, least) for other in pieces]
                parts[index] = "".join(wrong)
                found["".join(parts)] = None
    whole = [rng.choice(piece.units) * max(piece.low, 1) for piece in pieces]
    text = "".join(whole)
    found["".join(reversed(whole))] = None
    for extra in " .!/x7":
        found |= {extra + text: None, text + extra: None}
    # A wrong part can fall to its neighbour (one more small letter, before a word) and so be right after all.
    return [miss for miss in found if len(miss) <= _MAX_STRING and not re.fullmatch(pattern, miss)]


def _answer(rng: random.Random, pieces: list[_Piece]) -> dict[str, object]:
    pattern = "".join(piece.pattern for piece in pieces)
    evidence = {"matches": _matches(rng, pieces), "misses": _misses(rng, pieces, pattern)}
    return {"answer": pattern, "evidence": evidence}


def _describe(rng: random.Random, pieces: list[_Piece]) -> Fields:
    joiner = rng.choice((" followed by ", " then ", ", then ", ", "))
    return {"d": joiner.join(piece.words for piece in pieces), **_answer(rng, pieces)}


def _any(rng: random.Random) -> Fields:
    return _describe(rng, _pieces(rng, rng.choice((1, 2, 2, 2, 3, 3))))


def _two(rng: random.Random) -> Fields:
    first, second = pieces = _pieces(rng, 2)
    return {"first": first.words, "second": second.words, **_answer(rng, pieces)}


def _date(rng: random.Random) -> Fields:
    """Digits, a mark, digits: what a written date can look like."""
    while True:
        pieces = [_counted(rng), _fixed(rng), _counted(rng)]
        if pieces[1].pattern in "-_" and all(piece.pattern.startswith(r"\d") for piece in pieces[::2]):
            return _describe(rng, pieces)


def _as_list(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def _bare(output: str) -> str:
    """The pattern on the first line, without the quoting and anchors that people put round one."""
    lines = output.strip().splitlines()
    return lines[0].strip(" `/").removeprefix("^").removesuffix("$") if lines else ""


def _is_safe(pattern: str) -> bool:
    """Refuses what could backtrack for long: repeated or special groups, many variable repeats or choices.

    No description needs them, and a bound on the pattern is simpler than a time limit on the match.
    """
    if len(pattern) > _MAX_PATTERN or re.search(r"\)[*+{]|\(\?(?!:)", pattern):
        return False
    return len(re.findall(r"[*+?|]|\{\d*,", pattern.replace("(?:", "("))) <= _MAX_VARIABLE


def check_pattern(question: Question, output: str) -> bool:
    """The pattern matches all strings it should and none of the near misses."""
    pattern = _bare(output)
    matches, misses = _as_list(question.evidence["matches"]), _as_list(question.evidence["misses"])
    if not pattern or not _is_safe(pattern) or max(map(len, matches + misses)) > _MAX_STRING:
        return False
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return all(compiled.fullmatch(text) for text in matches) and not any(
        compiled.fullmatch(text) for text in misses
    )


_TRAIN = (
    "Regex for {d}.",
    "regex: {d}",
    "Write a regex for {d}.",
    "Give a regex matching {d}.",
    "Write a regular expression that matches {d}.",
    "What regex matches {d}?",
    "I need a regex for {d}.",
    "Which regular expression matches {d}?",
    "Regular expression: {d}",
    "As a regex: {d}",
    "Turn this description into a regex: {d}.",
    "Translate to regex: {d}.",
    "Pattern for {d}:",
    "How do I match {d} with a regex?",
    "Create a regex that accepts {d}.",
    "Make a pattern for {d}.",
    "Express {d} as a regular expression.",
    "Give me the regex of {d}.",
    "Build a regex: {d}.",
    "A regex that matches exactly {d}",
    "Can you write a regex that finds {d}?",
    "Match {d}.",
    "What is the regular expression for {d}?",
    "Provide a pattern that matches {d}.",
    "Regex to find {d}",
    "My input must be {d}. Which regex validates it?",
    "A string consists of {d}. Write its regex.",
    "The text is {d}. Describe it with a regex.",
    "A valid code is {d}. Give the regex.",
    "Convert to a regular expression: {d}",
    "Please produce a regex for {d}.",
)
_TRAIN_TWO = (
    "Write a regex where {first} comes before {second}.",
    "Regex: first {first}, next {second}.",
    "The string starts with {first} and ends with {second}. Regex?",
    "Regex for {first} and then {second}.",
)
_TRAIN_AMBIGUOUS = (
    "Regex for a SQL id made of {d}.",
    "A table column stores {d}. Which pattern checks a row?",
    "What regex matches a word spelled with {d}?",
    "A JSON field holds {d}. Give its regex.",
    "Regex that is true only for {d}.",
    "A price in euros is written as {d}. Regex for it?",
)
_TEST = (
    "Come up with a regex that recognises {d}.",
    "Which pattern would capture {d}?",
    "regexp for {d}",
    "Help me match {d} using a regular expression.",
    "Show a regex that fits {d}.",
    "How would you write {d} as a regex?",
    "Every product code is {d}. What regex describes it?",
    "I am looking for {d}. What is the regex?",
    "State the regular expression that describes {d}.",
)
_TEST_TWO = (
    "Find a regex in which {first} is followed by {second}.",
    "Regex: {first}, and right after it {second}.",
)
_TEST_AMBIGUOUS = (
    "A database key is {d}. Write a pattern to select it.",
    "Each key of a JSON object is {d}. Which regular expression fits?",
    "A length in cm is given as {d}. What pattern matches it?",
    "Which pattern spells a word out of {d}?",
)


def _phrasings(*groups: tuple[Iterable[str], Draw, bool]) -> tuple[Phrasing, ...]:
    return tuple(Phrasing(text, draw, ambiguous) for texts, draw, ambiguous in groups for text in texts)


SKILL = Skill(
    name="regex",
    card="Regular expressions: writes the pattern for a described string of digits, letters, words or marks.",
    train=_phrasings(
        (_TRAIN, _any, False),
        (_TRAIN_TWO, _two, False),
        (_TRAIN_AMBIGUOUS, _any, True),
        (("Regex for a date written as {d}.", "A calendar day looks like {d}. Give the regex."), _date, True),
    ),
    test=_phrasings(
        (_TEST, _any, False),
        (_TEST_TWO, _two, False),
        (_TEST_AMBIGUOUS, _any, True),
        (("A calendar app writes dates as {d}. Which regex matches them?",), _date, True),
    ),
    check=check_pattern,
    max_tokens=40,
)
