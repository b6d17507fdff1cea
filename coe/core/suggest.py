"""Wording help for errors: the nearest right name, and the choices. No dependencies."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 20
"""Choices that are written out; of more, the first ones and how many there are."""

LONGEST = 200
"""Characters of a word that may be like a name; finding out costs as much as it is long."""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like ``word``, or ``None`` when none is alike."""
    if len(word) > LONGEST:
        return None
    folded = {name.casefold(): name for name in choices}
    found = difflib.get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def suggest(word: str, choices: Iterable[str]) -> str:
    """``did you mean "x"? (choose from x, y)``, ready to follow a semicolon."""
    names = list(choices)
    if not names:
        return "there is none yet"
    listed = "choose from " + ", ".join(names[:LISTED])
    if len(names) > LISTED:
        listed += f" and {len(names) - LISTED} more"
    close = nearest(word, names)
    return f'did you mean "{close}"? ({listed})' if close else listed
