"""The wording of a question as numbers: hashed n-grams, and what its surface shows.

Sentence encoders read meaning and hardly see form: whether the options are numbers, whether there is a
formula, which rare words stand there. Form tells experts apart that calculate from experts that know. The
features need no vocabulary, so evidence can hold them without holding text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import numpy.typing as npt

from coe.core.reading import ends
from coe.routers.encoders.memory_cache import KeptByText

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WORDS = 2048
"""Buckets of hashed n-grams; the surface follows behind them."""

_READ_CHARS = 2000
"""Of head and tail together: what a sentence encoder reads of a long text, and a little more."""
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

    Less than half a millisecond for a text of 200 characters.
    """
    from scipy.sparse import csr_matrix

    words: dict[str, list[int]] = {}  # many texts at once share most of their words
    rows = [_row(ends(text, _READ_CHARS), words) for text in texts]
    stops = np.cumsum([0, *(len(row.columns) for row in rows)])
    values = np.concatenate([np.zeros(0, np.float32), *(row.values for row in rows)])
    columns = np.concatenate([np.zeros(0, np.int32), *(row.columns for row in rows)])
    return csr_matrix((values, columns, stops), shape=(len(texts), WORDS + SURFACE))


@dataclass(frozen=True)
class _Row:
    columns: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]


_ROWS: KeptByText[_Row] = KeptByText()
"""The parts of a blend ask for the same text one after the other; about 10 MB."""


def _row(text: str, words: dict[str, list[int]]) -> _Row:
    kept = _ROWS.get(text)
    if kept is None:
        kept = _counted(text, words)
        _ROWS.put(text, kept)
    return kept


def _counted(text: str, words: dict[str, list[int]]) -> _Row:
    keys = np.asarray(_keys(text, words), dtype=np.uint32)
    # The sign makes grams that share a bucket cancel out on average (Weinberger et al. 2009).
    signs = np.where(keys & 0x80000000, 1.0, -1.0)
    counts = np.bincount(keys % WORDS, weights=signs, minlength=WORDS)
    buckets = np.flatnonzero(counts)
    damped = np.copysign(np.log1p(np.abs(counts[buckets])), counts[buckets])
    length = math.sqrt(float(damped @ damped)) or 1.0
    shown = np.asarray(surface(text))
    places = np.flatnonzero(shown)
    columns = np.concatenate([buckets, WORDS + places])
    values = np.concatenate([damped / length, shown[places]])
    return _Row(columns.astype(np.int32), values.astype(np.float32))


def _keys(text: str, words: dict[str, list[int]]) -> list[int]:
    """Hashes of the words, of pairs of words, and of letters three and four in a row; every number reads 0.

    ``words`` keeps those of a word alone.
    """
    read = _WORD.findall(_DIGITS.sub("0", text.casefold()))
    found = [crc32(f"{one} {other}".encode()) for one, other in pairwise(read)]
    for word in read:
        if word not in words:
            words[word] = _word_keys(word)
        found += words[word]
    return found


def _word_keys(word: str) -> list[int]:
    padded = f" {word} "
    grams = [padded[i : i + width] for width in (3, 4) for i in range(len(padded) - width + 1)]
    return [crc32(gram.encode()) for gram in (word, *grams)]


def surface(text: str) -> tuple[float, ...]:
    """``SURFACE`` numbers of about 0..1: lengths, options, digits, formulas, the kind of question."""
    options = _OPTION.findall(text)
    stem = _OPTION.sub("", text) if options else text
    folded, listed = stem.casefold(), " ".join(options)
    formula = stem + listed
    return (
        math.log1p(len(stem)) / 8,
        min(1.0, len(options) / 10),
        math.log1p(len(listed) / max(1, len(options))) / 6,
        _share(any(map(str.isdigit, option)) for option in options),
        _share(_STARTS_WITH_NUMBER.match(option) is not None for option in options),
        min(1.0, 5 * _density(stem, sum(map(str.isdigit, stem)))),
        min(1.0, 2 * _density(listed, sum(map(str.isdigit, listed)))),
        float("$" in stem or "\\" in stem),
        min(1.0, 10 * _density(formula, sum(map(formula.count, "\\^_{}")))),
        float("=" in stem),
        float("?" in stem),
        float(_NEGATED.search(folded) is not None),
        float("___" in stem),
        min(1.0, stem.count(".") / 10),
        float(_ASKS_FOR_NUMBER.search(folded) is not None),
        float("which of the following" in folded),
        min(1.0, 10 * _density(stem, len(stem) - len(stem.encode("ascii", "ignore")))),
        min(1.0, 5 * _density(stem, sum(map(str.isupper, stem)))),
        float(re.search(r"\b(true|false|correct)\b", listed.casefold()) is not None),
        min(1.0, 5 * _density(listed, sum(map(listed.count, "+-*/=")))),
        min(1.0, stem.count("\n") / 10),
        float("def " in stem or "```" in stem or "return " in stem),
    )


SURFACE = 22


def _share(marks: Iterable[bool]) -> float:
    listed = list(marks)
    return sum(listed) / len(listed) if listed else 0.0


def _density(text: str, count: int) -> float:
    return count / max(1, len(text))
