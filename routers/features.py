"""The wording of a question as numbers: hashed n-grams, and what its surface shows.

Sentence encoders read meaning and hardly see form: whether the options are numbers, whether there is a
formula, which rare words stand there. Form tells experts apart that calculate from experts that know. The
features need no vocabulary, so evidence can hold them without holding text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import numpy.typing as npt

from routers.kept import KeptByText

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WORDS = 2048
"""Buckets of hashed n-grams; the surface follows behind them."""

_READ_CHARS = 2000
_DIGITS = re.compile(r"\d+")
_WORD = re.compile(r"\w+|[^\w\s]")
_OPTION = re.compile(r"^\(?[A-Z][.):]\s+(.*)$", re.MULTILINE)
_STARTS_WITH_NUMBER = re.compile(r"[\s$\-+~≈<>=(]*\d")
_ASKS_FOR_NUMBER = re.compile(
    r"\b(calculate|find|determine|compute|estimate|how (many|much|far|long)"
    r"|what is the (value|probability))\b"
)
_NEGATED = re.compile(r"\b(not|except|incorrect|false|least)\b")


def text_features(texts: Sequence[str]) -> csr_matrix:
    """Shape (len(texts), WORDS + SURFACE): n-gram part of length 1, then the surface in about 0..1 each.

    About half a millisecond for a text of 200 characters.
    """
    from scipy.sparse import csr_matrix

    rows = [_row(text[:_READ_CHARS]) for text in texts]
    ends = np.cumsum([0, *(len(row.columns) for row in rows)])
    values = np.concatenate([np.zeros(0, np.float32), *(row.values for row in rows)])
    columns = np.concatenate([np.zeros(0, np.int32), *(row.columns for row in rows)])
    return csr_matrix((values, columns, ends), shape=(len(texts), WORDS + SURFACE))


@dataclass(frozen=True)
class _Row:
    columns: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]


_ROWS: KeptByText[_Row] = KeptByText()
"""The parts of a blend ask for the same text one after the other; about 10 MB."""


def _row(text: str) -> _Row:
    kept = _ROWS.get(text)
    if kept is None:
        kept = _counted(text)
        _ROWS.put(text, kept)
    return kept


def _counted(text: str) -> _Row:
    counts: dict[int, float] = {}
    for gram in _grams(text):
        key = crc32(gram.encode())
        # The sign makes grams that share a bucket cancel out on average (Weinberger et al. 2009).
        counts[key % WORDS] = counts.get(key % WORDS, 0.0) + (1.0 if key & 0x80000000 else -1.0)
    damped = {bucket: math.copysign(math.log1p(abs(n)), n) for bucket, n in counts.items() if n}
    length = math.sqrt(sum(value * value for value in damped.values())) or 1.0
    row = {bucket: value / length for bucket, value in damped.items()}
    row |= {WORDS + place: value for place, value in enumerate(surface(text)) if value}
    return _Row(np.fromiter(row, np.int32, len(row)), np.fromiter(row.values(), np.float32, len(row)))


def _grams(text: str) -> Iterator[str]:
    """Words, pairs of words, and letters three and four in a row; every number reads 0."""
    words = _WORD.findall(_DIGITS.sub("0", text.casefold()))
    yield from words
    yield from map(" ".join, pairwise(words))
    for word in words:
        padded = f" {word} "
        for width in (3, 4):
            yield from (padded[i : i + width] for i in range(len(padded) - width + 1))


def surface(text: str) -> tuple[float, ...]:
    """``SURFACE`` numbers of about 0..1: lengths, options, digits, formulas, the kind of question."""
    options = _OPTION.findall(text)
    stem = _OPTION.sub("", text) if options else text
    folded, listed = stem.casefold(), " ".join(options)
    return (
        math.log1p(len(stem)) / 8,
        min(1.0, len(options) / 10),
        math.log1p(len(listed) / max(1, len(options))) / 6,
        _share(any(c.isdigit() for c in option) for option in options),
        _share(_STARTS_WITH_NUMBER.match(option) is not None for option in options),
        min(1.0, 5 * _density(stem, str.isdigit)),
        min(1.0, 2 * _density(listed, str.isdigit)),
        float("$" in stem or "\\" in stem),
        min(1.0, 10 * _density(stem + listed, "\\^_{}".__contains__)),
        float("=" in stem),
        float("?" in stem),
        float(_NEGATED.search(folded) is not None),
        float("___" in stem),
        min(1.0, stem.count(".") / 10),
        float(_ASKS_FOR_NUMBER.search(folded) is not None),
        float("which of the following" in folded),
        min(1.0, 10 * _density(stem, lambda c: ord(c) > 127)),
        min(1.0, 5 * _density(stem, str.isupper)),
        float(re.search(r"\b(true|false|correct)\b", listed.casefold()) is not None),
        min(1.0, 5 * _density(listed, "+-*/=".__contains__)),
        min(1.0, stem.count("\n") / 10),
        float("def " in stem or "```" in stem or "return " in stem),
    )


SURFACE = 22


def _share(marks: Iterable[bool]) -> float:
    listed = list(marks)
    return sum(listed) / len(listed) if listed else 0.0


def _density(text: str, counts: Callable[[str], bool]) -> float:
    return sum(map(counts, text)) / max(1, len(text))
