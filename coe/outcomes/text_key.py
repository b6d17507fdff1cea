"""When two questions count as the same text."""

from __future__ import annotations

import hashlib
import re

_NO_WORD = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """Letters and digits in lower case, one blank between: what makes two questions one."""
    return _NO_WORD.sub(" ", text.casefold()).strip()


def text_key(text: str) -> str:
    """A hash by which equal questions are found without keeping their text."""
    return hashlib.sha256(normalised(text).encode()).hexdigest()
