"""Do pieces of texts that must not be stored stand in files?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

PIECE = 30
"""Characters. Shorter ones come up by chance."""
_STEP = 10
_PLAIN = re.compile(rf"[ !#-\[\]-~]{{{PIECE},}}")
"""What plain text, JSON, CSV and logs write alike: printable ASCII without quotes and backslashes."""


def pieces_of(texts: Iterable[str]) -> list[bytes]:
    """Pieces such that a copied stretch of PIECE + 10 plain characters of any text holds one."""
    found = {
        run[start : start + PIECE]
        for text in texts
        for run in _PLAIN.findall(text)
        for start in range(0, len(run) - PIECE + 1, _STEP)
    }
    return sorted(piece.encode() for piece in found)


def files_with(pieces: Sequence[bytes], places: Iterable[Path]) -> Iterator[Path]:
    """The files at or below ``places`` that hold any of ``pieces``."""
    for path in _files(places):
        raw = path.read_bytes()
        if any(piece in raw for piece in pieces):
            yield path


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path
