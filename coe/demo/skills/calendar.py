"""Calendar arithmetic: weekdays, months, dates. Answer: ``Thursday``, ``May``, ``31 days`` or ``9 March``."""

from __future__ import annotations

import random
from calendar import monthrange

from coe.demo.skill import Draw, Fields, Phrasing, Skill

# Spelt here, not taken from the standard library, whose names follow the locale.
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
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
_FEBRUARY = 2
_COMMON_YEAR = 2023


def _cycle(names: tuple[str, ...], most: int, sign: int) -> Draw:
    """A draw of the name ``n`` steps after (``sign`` 1) or before (-1) another, round the cycle."""

    def draw(rng: random.Random) -> Fields:
        start, n = rng.randrange(len(names)), rng.randint(2, most)
        return {"a": names[start], "n": n, "answer": names[(start + sign * n) % len(names)]}

    return draw


def _date(sign: int) -> Draw:
    """A draw of a date ``n`` days away, in the same month."""

    def draw(rng: random.Random) -> Fields:
        month, n = rng.randint(1, 12), rng.randint(2, 12)
        early = rng.randint(1, monthrange(_COMMON_YEAR, month)[1] - n)
        day, result = (early, early + n) if sign > 0 else (early + n, early)
        name = _MONTHS[month - 1]
        return {"d": day, "m": name, "n": n, "answer": f"{result} {name}"}

    return draw


def _length(rng: random.Random) -> Fields:
    # Without a year February has no single answer, so it is left out.
    month = rng.choice([number for number in range(1, 13) if number != _FEBRUARY])
    return {"m": _MONTHS[month - 1], "answer": f"{monthrange(_COMMON_YEAR, month)[1]} days"}


def _length_in_year(rng: random.Random) -> Fields:
    # February is drawn more often: it alone depends on the year, and needs the practice.
    month = _FEBRUARY if rng.random() < 0.25 else rng.randint(1, 12)
    year = rng.randint(2021, 2028)
    return {"m": _MONTHS[month - 1], "y": year, "answer": f"{monthrange(year, month)[1]} days"}


# Four steps, not more: a tiny model memorises these facts, and each must recur often enough in training.
_DAY_AFTER, _DAY_BEFORE = _cycle(_DAYS, 4, 1), _cycle(_DAYS, 4, -1)
_MONTH_AFTER, _MONTH_BEFORE = _cycle(_MONTHS, 4, 1), _cycle(_MONTHS, 4, -1)
_DATE_AFTER, _DATE_BEFORE = _date(1), _date(-1)

_TRAIN: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (
        _DAY_AFTER,
        (
            "What day is {n} days after {a}?",
            "{a} + {n} days",
            "Today is {a}. What day is it in {n} days?",
            "Name the weekday {n} days after {a}.",
            "Which weekday comes {n} days later than {a}?",
            "If today is {a}, what day will it be {n} days from now?",
            "{n} days from {a} is which day?",
            "A parcel sent on {a} takes {n} days. On which weekday does it arrive?",
            "Start on {a} and go forward {n} days. Which day is it?",
            "Add {n} days to {a}.",
        ),
    ),
    (
        _DAY_BEFORE,
        (
            "What day is {n} days before {a}?",
            "{a} - {n} days",
            "Today is {a}. What day was it {n} days ago?",
            "Name the weekday {n} days before {a}.",
            "Which weekday comes {n} days earlier than {a}?",
            "Go back {n} days from {a}. Which day is it?",
            "Subtract {n} days from {a}.",
            "The exam is on {a}. Ann began to study {n} days earlier. On which weekday?",
        ),
    ),
    (
        _MONTH_AFTER,
        (
            "Which month is {n} months after {a}?",
            "{a} + {n} months",
            "It is {a}. What month is it in {n} months?",
            "Name the month {n} months after {a}.",
            "Which month comes {n} months later than {a}?",
            "{n} months from {a} is which month?",
            "Start in {a} and go forward {n} months. Which month is it?",
            "A course starts in {a} and ends {n} months later. In which month does it end?",
        ),
    ),
    (
        _MONTH_BEFORE,
        (
            "Which month is {n} months before {a}?",
            "{a} - {n} months",
            "It is {a}. What month was it {n} months ago?",
            "Name the month {n} months before {a}.",
            "Which month comes {n} months earlier than {a}?",
            "Go back {n} months from {a}. Which month is it?",
            "Tom moved house in {a}. He sold his car {n} months earlier. In which month?",
        ),
    ),
    (
        _DATE_AFTER,
        (
            "{d} {m} + {n} days",
            "What date is {n} days after {d} {m}?",
            "Add {n} days to {d} {m}.",
            "Today is {m} {d}. What is the date in {n} days?",
            "Give the date {n} days later than {d} {m}.",
            "A trip starts on {d} {m} and ends {n} days later. On what date does it end?",
            "Start on {m} {d} and go forward {n} days. Which date is it?",
        ),
    ),
    (
        _DATE_BEFORE,
        (
            "{d} {m} - {n} days",
            "What date is {n} days before {d} {m}?",
            "Subtract {n} days from {d} {m}.",
            "Today is {m} {d}. What was the date {n} days ago?",
            "Give the date {n} days earlier than {d} {m}.",
            "The bill is due on {d} {m}. A notice comes {n} days before. On what date?",
        ),
    ),
    (_length, ("How many days are in {m}?", "Days in {m}?", "What is the length of {m} in days?")),
    (
        _length_in_year,
        (
            "How many days are in {m} {y}?",
            "Number of days in {m} {y}:",
            "How many days did {m} have in {y}?",
            "How long is {m} {y} in days?",
        ),
    ),
)
_TRAIN_AMBIGUOUS: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (_DAY_AFTER, ("A table row says {a}. The next row is {n} days later. Which weekday is it?",)),
    (_DAY_BEFORE, ("Ann bought 5 kg of rice on {a}. She ran out {n} days before that. On which weekday?",)),
    (_MONTH_AFTER, ("Take the word {a}. Which word names the month {n} months after it?",)),
    (_MONTH_BEFORE, ('The JSON key "start" is {a}. Which month is {n} months before the start?',)),
    (_DATE_AFTER, ("Compute the sum of the date {d} {m} and {n} days.",)),
    (_DATE_BEFORE, ("Compute the difference: the date {d} {m} minus {n} days.",)),
    (_length_in_year, ("Count the items in the list of all days of {m} {y}.",)),
)
_TEST: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (
        _DAY_AFTER,
        (
            "Count {n} days on from {a}. What weekday do you reach?",
            "We meet on {a}, and once more after {n} days. What weekday is the second meeting?",
        ),
    ),
    (_DAY_BEFORE, ("Tell me the day of the week {n} days prior to {a}.",)),
    (
        _MONTH_AFTER,
        (
            "Tell me what month follows {a} by {n} months.",
            "A baby is due {n} months after {a}. What month is that?",
        ),
    ),
    (_MONTH_BEFORE, ("If it is {a} now, which month was {n} months back?",)),
    (
        _DATE_AFTER,
        (
            "Which date do we have {n} days after {m} {d}?",
            "Eve's visa begins on {d} {m}. It runs out after {n} days. Give that date.",
        ),
    ),
    (_DATE_BEFORE, ("Which date came {n} days earlier than {m} {d}?",)),
    (_length_in_year, ("In the year {y}, how many days does {m} have?",)),
)
_TEST_AMBIGUOUS: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (_DAY_AFTER, ("Insert an order on {a} that ships {n} days later. On which weekday does it ship?",)),
    (_DAY_BEFORE, ("A 2 km race is on {a}. Training began {n} days before. Which weekday was that?",)),
    (_MONTH_AFTER, ("In the order of the months, round and round, which one is {n} after {a}?",)),
    (_DATE_AFTER, ("Calculate {d} {m} plus {n} days.",)),
)


def _phrasings(
    plain: tuple[tuple[Draw, tuple[str, ...]], ...], ambiguous: tuple[tuple[Draw, tuple[str, ...]], ...]
) -> tuple[Phrasing, ...]:
    return tuple(
        Phrasing(text, draw, ambiguous=flag)
        for groups, flag in ((plain, False), (ambiguous, True))
        for draw, texts in groups
        for text in texts
    )


SKILL = Skill(
    name="calendar",
    card="Calendar arithmetic: the weekday, month or date some days or months away, and month lengths.",
    train=_phrasings(_TRAIN, _TRAIN_AMBIGUOUS),
    test=_phrasings(_TEST, _TEST_AMBIGUOUS),
    max_tokens=12,
)
