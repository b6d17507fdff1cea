"""Sorting and set operations on short lists. Answer: the items, comma-separated, on one line."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from coe.demo.skill import Draw, Fields, Phrasing, Question, Skill

_WORDS = (
    "apple",
    "ant",
    "bird",
    "bag",
    "cat",
    "cup",
    "dog",
    "door",
    "egg",
    "ear",
    "fish",
    "farm",
    "gold",
    "game",
    "hat",
    "hill",
    "ice",
    "iron",
    "jam",
    "joke",
    "key",
    "king",
    "lamp",
    "leaf",
    "moon",
    "milk",
    "nest",
    "nose",
    "oil",
    "oven",
    "pen",
    "pig",
    "queen",
    "rain",
    "road",
    "salt",
    "ship",
    "tree",
    "tent",
    "van",
    "wolf",
    "wind",
    "yard",
    "zoo",
)
_WEEKDAYS = (
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
)
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


def _line(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items)


def _fields(items: Sequence[object], answer: Iterable[object], ordered: bool = True) -> Fields:
    return {"items": _line(items), "answer": _line(answer), "evidence": {"ordered": ordered}}


def _numbers(rng: random.Random) -> list[int]:
    # Three is drawn twice as often as four: the order of four is the hardest thing asked here.
    return rng.sample(range(10, 100), rng.choice((3, 3, 4)))


def _distinct_initials(rng: random.Random, pool: Sequence[str]) -> list[str]:
    """Three or four items that their first letters alone put in order."""
    by_initial = {item[0]: item for item in rng.sample(pool, len(pool))}
    return rng.sample(list(by_initial.values()), rng.choice((3, 3, 4)))


def _ascending(rng: random.Random) -> Fields:
    items = _numbers(rng)
    return _fields(items, sorted(items))


def _descending(rng: random.Random) -> Fields:
    items = _numbers(rng)
    return _fields(items, sorted(items, reverse=True))


def _alphabetical(rng: random.Random) -> Fields:
    items = _distinct_initials(rng, _WORDS)
    return _fields(items, sorted(items))


def _weekdays(rng: random.Random) -> Fields:
    items = _distinct_initials(rng, _WEEKDAYS)
    return _fields(items, sorted(items))


def _months(rng: random.Random) -> Fields:
    items = _distinct_initials(rng, _MONTHS)
    return _fields(items, sorted(items))


def _largest(rng: random.Random) -> Fields:
    items = _numbers(rng)
    return _fields(items, [max(items)])


def _smallest(rng: random.Random) -> Fields:
    items = _numbers(rng)
    return _fields(items, [min(items)])


def _second(rng: random.Random) -> Fields:
    items = _numbers(rng)
    return _fields(items, sorted(items)[-2:-1])


def _reversed_words(rng: random.Random) -> Fields:
    items = rng.sample(_WORDS, rng.choice((3, 4)))
    return _fields(items, items[::-1])


def _reversed(rng: random.Random) -> Fields:
    if rng.random() < 0.4:
        return _reversed_words(rng)
    items = _numbers(rng)
    return _fields(items, items[::-1])


def _members(rng: random.Random, count: int) -> list[str]:
    """Distinct members for sets: single digits, or words."""
    return rng.sample("123456789" if rng.random() < 0.6 else _WORDS, count)


def _repeats(rng: random.Random) -> Fields:
    unique = _members(rng, 3)
    items = unique + rng.sample(unique, rng.choice((1, 2)))
    rng.shuffle(items)
    return _fields(items, dict.fromkeys(items), ordered=False)


def _two_sets(rng: random.Random) -> tuple[list[str], list[str]]:
    """Two sets that overlap and each have something of their own, so no operation comes out empty."""
    shared, only_a, only_b = rng.choice((1, 2)), rng.choice((1, 2)), rng.choice((1, 2))
    members = _members(rng, shared + only_a + only_b)
    a, b = members[: shared + only_a], members[:shared] + members[shared + only_a :]
    rng.shuffle(a)
    rng.shuffle(b)
    return a, b


def _set_fields(a: Sequence[str], b: Sequence[str], answer: Iterable[str]) -> Fields:
    return {"a": _line(a), "b": _line(b), "answer": _line(answer), "evidence": {"ordered": False}}


def _union(rng: random.Random) -> Fields:
    a, b = _two_sets(rng)
    return _set_fields(a, b, dict.fromkeys(a + b))


def _intersection(rng: random.Random) -> Fields:
    a, b = _two_sets(rng)
    return _set_fields(a, b, [item for item in a if item in b])


def _difference(rng: random.Random) -> Fields:
    a, b = _two_sets(rng)
    return _set_fields(a, b, [item for item in a if item not in b])


def _parse(text: str) -> list[str]:
    """The items of the first line; brackets round a list and a final full stop are no error."""
    lines = text.strip().splitlines()
    line = lines[0].strip().rstrip(".").strip("[]{}() ") if lines else ""
    return [item.strip().casefold() for item in line.split(",")]


def check_items(question: Question, output: str) -> bool:
    """Same items in the same order, or for set tasks in any order; a repeated item is never right."""
    wanted, got = _parse(question.answer), _parse(output)
    if question.evidence["ordered"]:
        return got == wanted
    return sorted(got) == sorted(wanted)


_TRAIN: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (
        _ascending,
        (
            "Sort {items}.",
            "Sort {items} in ascending order.",
            "Sort ascending: {items}",
            "Order these numbers from smallest to largest: {items}.",
            "Arrange {items} in increasing order.",
            "Put {items} in order, lowest first.",
            "List {items} from low to high.",
            "{items} sorted from small to large",
            "What is {items} in ascending order?",
            "Can you order {items} so that the smallest number comes first?",
            "Rank the scores {items}, worst first.",
        ),
    ),
    (
        _descending,
        (
            "Sort {items} in descending order.",
            "Sort descending: {items}",
            "Order these numbers from largest to smallest: {items}.",
            "Arrange {items} in decreasing order.",
            "Put {items} in order, highest first.",
            "List {items} from high to low.",
            "{items} sorted from big to small",
            "What is {items} in descending order?",
            "Can you order {items} so that the largest number comes first?",
            "Rank the scores {items}, best first.",
        ),
    ),
    (
        _alphabetical,
        (
            "Sort these words alphabetically: {items}.",
            "Put {items} in alphabetical order.",
            "Alphabetize {items}.",
            "Arrange the words {items} from A to Z.",
            "{items} in alphabetical order:",
            "In which order does a dictionary list {items}?",
            "Order {items} by first letter.",
            "What is the alphabetical order of {items}?",
            "Sort the words {items}.",
        ),
    ),
    (
        _union,
        (
            "What is the union of {{{a}}} and {{{b}}}?",
            "Union: {{{a}}} and {{{b}}}",
            "Merge the sets {{{a}}} and {{{b}}}.",
            "Which items are in {{{a}}} or in {{{b}}}?",
            "Combine {{{a}}} and {{{b}}} without duplicates.",
            "Put the items of {{{a}}} and {{{b}}} in one set.",
        ),
    ),
    (
        _intersection,
        (
            "What is the intersection of {{{a}}} and {{{b}}}?",
            "Intersection: {{{a}}} and {{{b}}}",
            "What do {{{a}}} and {{{b}}} have in common?",
            "Which items are in both {{{a}}} and {{{b}}}?",
            "List what {{{a}}} shares with {{{b}}}.",
            "Find the common elements of {{{a}}} and {{{b}}}.",
        ),
    ),
    (
        _difference,
        (
            "What is the set difference {{{a}}} minus {{{b}}}?",
            "Set difference: {{{a}}} without {{{b}}}",
            "Which items are in {{{a}}} but not in {{{b}}}?",
            "Remove from {{{a}}} everything in {{{b}}}.",
            "What is left of {{{a}}} once the items of {{{b}}} are gone?",
            "List the elements of {{{a}}} that are missing in {{{b}}}.",
        ),
    ),
    (
        _repeats,
        (
            "Remove duplicates: {items}",
            "Remove the duplicates from {items}.",
            "Deduplicate {items}.",
            "List the unique items of {items}.",
            "Write {items} without repeats.",
            "Which different items does the list {items} have?",
        ),
    ),
    (
        _largest,
        (
            "What is the largest of {items}?",
            "Find the biggest number in {items}.",
            "Maximum of {items}:",
            "Which number is highest: {items}?",
        ),
    ),
    (
        _smallest,
        (
            "What is the smallest of {items}?",
            "Find the least number in {items}.",
            "Minimum of {items}:",
            "Which number is lowest: {items}?",
        ),
    ),
    (
        _second,
        (
            "What is the second largest of {items}?",
            "Find the second highest number in {items}.",
            "Second largest in {items}:",
            "Which number is second biggest: {items}?",
        ),
    ),
    (
        _reversed,
        (
            "Reverse the list {items}.",
            "Reverse: {items}",
            "Write {items} in reverse order.",
            "List {items} backwards.",
            "What is {items} from last to first?",
        ),
    ),
)
_TRAIN_AMBIGUOUS: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (
        _ascending,
        (
            "Prices in euros, cheapest first: {items}",
            "Distances in km, shortest first: {items}",
            "SQL: ORDER BY n ASC for the rows {items}",
        ),
    ),
    (
        _descending,
        (
            "Lengths in metres, longest first: {items}",
            "SQL: ORDER BY n DESC for the rows {items}",
        ),
    ),
    (_weekdays, ("Sort the weekdays {items} alphabetically.", "Put the days {items} in alphabetical order.")),
    (_months, ("Alphabetize the months {items}.", "Arrange the month names {items} from A to Z.")),
    (_union, ("Add the set {{{a}}} to the set {{{b}}}.",)),
    (_intersection, ("True for both sets: what is in {{{a}}} AND in {{{b}}}?",)),
    (_difference, ("Take {{{b}}} away from {{{a}}}.", "In {{{a}}} AND NOT in {{{b}}}: which items?")),
    (_repeats, ("SELECT DISTINCT from {items}", "A table column holds {items}. Drop the duplicates.")),
    (_largest, ("A JSON list holds [{items}]. What is its largest value?",)),
    (_smallest, ("The JSON array is [{items}]. Give the smallest value.",)),
    (_reversed_words, ("Write the words {items} with the last word first.",)),
)
_TEST: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (
        _ascending,
        (
            "Write {items} from the lowest to the highest.",
            "Please sort {items}, starting with the smallest.",
        ),
    ),
    (
        _descending,
        (
            "Write {items} from the highest to the lowest.",
            "Please sort {items}, starting with the largest.",
        ),
    ),
    (_alphabetical, ("Arrange {items} alphabetically.", "How would a dictionary order the words {items}?")),
    (_union, ("Give the union of the sets {{{a}}} and {{{b}}}.",)),
    (_intersection, ("Which elements do {{{a}}} and {{{b}}} share?",)),
    (_difference, ("What does {{{a}}} contain that is not in {{{b}}}?",)),
    (_repeats, ("Keep every item of {items} only once.",)),
    (_largest, ("Which of {items} is the greatest?",)),
    (_smallest, ("Name the lowest number among {items}.",)),
    (_second, ("Which of {items} is the second largest?",)),
    (_reversed, ("Turn the list {items} around so that it starts with its last item.",)),
)
_TEST_AMBIGUOUS: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (_ascending, ("Weights in kg, lightest first: {items}",)),
    (_weekdays, ("List the days {items} in dictionary order, not in calendar order.",)),
    (_intersection, ("Which items are in {{{a}}} AND also in {{{b}}}: true for both?",)),
    (_difference, ("Subtract the set {{{b}}} from the set {{{a}}}.",)),
    (_repeats, ("A SQL column has the values {items}. List the distinct values.",)),
    (_largest, ("Return the maximum of the JSON array [{items}].",)),
)


def _phrasings(
    plain: Iterable[tuple[Draw, tuple[str, ...]]], ambiguous: Iterable[tuple[Draw, tuple[str, ...]]]
) -> tuple[Phrasing, ...]:
    return tuple(Phrasing(text, draw) for draw, texts in plain for text in texts) + tuple(
        Phrasing(text, draw, ambiguous=True) for draw, texts in ambiguous for text in texts
    )


SKILL = Skill(
    name="sorting",
    card="Sorting and set operations: orders, reverses and deduplicates short lists, picks the largest or "
    "smallest item, and gives the union, intersection or difference of two sets.",
    train=_phrasings(_TRAIN, _TRAIN_AMBIGUOUS),
    test=_phrasings(_TEST, _TEST_AMBIGUOUS),
    check=check_items,
    max_tokens=32,
)
