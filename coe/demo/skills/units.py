"""Unit conversion by whole-number factors. Answer: ``<number> <unit>``, each unit always spelt one way."""

from __future__ import annotations

import random
from typing import Literal

from coe.demo.skill import Draw, Fields, Phrasing, Skill

Dimension = Literal["length", "time", "mass", "volume", "count"]
Pair = tuple[str, str, int, int]
"""Big unit, small unit, how many small make one big, and the greatest number of big units asked."""

# Powers of ten only move digits, so they may run higher than the factors a tiny model must memorise.
_PAIRS: dict[Dimension, tuple[Pair, ...]] = {
    "length": (
        ("m", "cm", 100, 40),
        ("km", "m", 1000, 40),
        ("cm", "mm", 10, 40),
        ("m", "mm", 1000, 40),
        ("feet", "inches", 12, 12),
    ),
    "time": (("min", "s", 60, 12), ("h", "min", 60, 12), ("days", "h", 24, 10), ("weeks", "days", 7, 12)),
    "mass": (("kg", "g", 1000, 40),),
    "volume": (("l", "ml", 1000, 40),),
    "count": (("dozen", "pieces", 12, 12),),
}
# Questions also spell units out; answers never do.
_LONG = {
    "mm": "millimetres",
    "cm": "centimetres",
    "m": "metres",
    "km": "kilometres",
    "s": "seconds",
    "min": "minutes",
    "h": "hours",
    "g": "grams",
    "kg": "kilograms",
    "ml": "millilitres",
    "l": "litres",
}


def _convert(*dimensions: Dimension) -> Draw:
    """A draw over these dimensions (all when none is named), in both directions."""
    pairs = [pair for name in dimensions or tuple(_PAIRS) for pair in _PAIRS[name]]

    def draw(rng: random.Random) -> Fields:
        big, small, factor, most = rng.choice(pairs)
        # From 2 up, on both sides: one would need a singular, a second spelling of the unit.
        count = rng.randint(2, most)
        ends = [(count, big), (count * factor, small)]
        (n, source), (result, target) = ends if rng.random() < 0.5 else ends[::-1]
        spell = _LONG if rng.random() < 0.5 else {}
        return {
            "n": n,
            "src": spell.get(source, source),
            "dst": spell.get(target, target),
            "answer": f"{result} {target}",
        }

    return draw


_ANY, _LENGTH, _TIME = _convert(), _convert("length"), _convert("time")
_MASS, _VOLUME, _COUNT = _convert("mass"), _convert("volume"), _convert("count")

_TRAIN: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (
        _ANY,
        (
            "Convert {n} {src} to {dst}.",
            "{n} {src} = ? {dst}",
            "{n} {src} -> {dst}",
            "{n} {src} in {dst}",
            "How many {dst} are there in {n} {src}?",
            "What is {n} {src} in {dst}?",
            "Change {n} {src} into {dst}.",
            "Write {n} {src} as {dst}.",
            "{n} {src} is how many {dst}?",
            "Express {n} {src} in {dst}.",
            "I have {n} {src}. How many {dst} do I have?",
            "Turn {n} {src} into {dst}.",
            "{dst} in {n} {src}?",
            "Using {dst} as the unit, what is {n} {src}?",
            "If you have {n} {src}, how many {dst} is that?",
            "Please give {n} {src} in {dst}.",
            "Tell me how many {dst} equal {n} {src}.",
            "{n} {src} | {dst}:",
            "Unit conversion: {n} {src} to {dst}",
            "How many {dst} make {n} {src}?",
            "The label says {n} {src}. What would it say in {dst}?",
            "From {src} to {dst}: {n}",
            "We need {dst}, but the note says {n} {src}. Convert it.",
            "{n} {src} equals how much in {dst}?",
        ),
    ),
    (
        _LENGTH,
        (
            "A rope is {n} {src} long. How long is it in {dst}?",
            "Give the length {n} {src} in {dst}.",
            "Ann walked {n} {src}. How many {dst} did she walk?",
            "A wall measures {n} {src}. Length in {dst}?",
            "The shelf is {n} {src} wide. State the width in {dst}.",
        ),
    ),
    (
        _TIME,
        (
            "A trip takes {n} {src}. How many {dst} does it take?",
            "How long is {n} {src} when counted in {dst}?",
            "The film lasts {n} {src}. What is that in {dst}?",
            "Tom waited {n} {src}. Give the wait in {dst}.",
        ),
    ),
    (
        _MASS,
        (
            "A parcel weighs {n} {src}. What is its weight in {dst}?",
            "The mass is {n} {src}. Give it in {dst}.",
            "A cook buys {n} {src} of flour. How many {dst} is this?",
        ),
    ),
    (
        _VOLUME,
        (
            "A tank holds {n} {src}. How many {dst} does it hold?",
            "Pour {n} {src} of water: how much in {dst}?",
            "The jug contains {n} {src} of juice. State this in {dst}.",
        ),
    ),
    (
        _COUNT,
        (
            "A farm sells {n} {src} of its eggs. How many {dst} is that?",
            "Count {n} {src} in {dst}.",
            "The baker has {n} {src} of bread. Give the amount in {dst}.",
        ),
    ),
)
_TRAIN_AMBIGUOUS: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (
        _ANY,
        (
            "The column amount holds {n} {src} in one row. What is the value in {dst}?",
            "Calculate the number of {dst} equal to {n} {src}.",
            "Replace {n} {src} by the same amount in {dst}.",
            'A JSON record says "size": "{n} {src}". What is the size in {dst}?',
            "The first item of a sorted list is {n} {src}. Give that item in {dst}.",
        ),
    ),
    (_TIME, ("From Monday on, Eve rested for {n} {src}. How many {dst} was that?",)),
    (_LENGTH, ("The letters on a sign are {n} {src} tall. How tall are they in {dst}?",)),
)
_TEST: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (
        _ANY,
        (
            "Rewrite {n} {src} using {dst}.",
            "How much is {n} {src} if measured in {dst}?",
            "What number of {dst} corresponds to {n} {src}?",
            "Given: {n} {src}. Wanted: {dst}.",
            "Could you translate {n} {src} to {dst} for me?",
        ),
    ),
    (_LENGTH, ("A road sign shows a distance of {n} {src}. What distance is this in {dst}?",)),
    (_TIME, ("The battery ran for {n} {src}. For how many {dst} did it run?",)),
    (_MASS, ("A bag of rice has a mass of {n} {src}. How many {dst} of rice are in it?",)),
    (_VOLUME, ("Sam drank {n} {src} of tea. How many {dst} did he drink?",)),
    (_COUNT, ("The shop ordered {n} {src} of fruit. What is the order in {dst}?",)),
)
_TEST_AMBIGUOUS: tuple[tuple[Draw, tuple[str, ...]], ...] = (
    (
        _ANY,
        (
            "Select the stock row: it lists {n} {src}. How many {dst} are in stock?",
            "Compute the result: {n} {src} equals what total in {dst}?",
            'Read the field "amount": {n} {src}. State this amount in {dst}.',
        ),
    ),
    (_TIME, ("Our holiday in July lasted {n} {src}. How many {dst} did it last?",)),
    (_LENGTH, ("Of a set of planks, the longest is {n} {src}. How long is the longest in {dst}?",)),
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
    name="units",
    card="Unit conversion: turns a length, time, mass, volume or count by the dozen into another unit.",
    train=_phrasings(_TRAIN, _TRAIN_AMBIGUOUS),
    test=_phrasings(_TEST, _TEST_AMBIGUOUS),
    max_tokens=12,
)
