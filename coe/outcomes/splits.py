"""Splits of data sets: what may be learned from, and what is for testing."""

from __future__ import annotations

import re

TEST = "test"
HELD_OUT = "held-out"
"""Of questions that their makers keep for testing for good, as the demonstration's are."""

_FOR_TESTING = frozenset({"heldout", "holdout", "test", "testing", "evaluation", "eval"})


def is_held_out(split: str) -> bool:
    """Whether a split's name says that its questions are for testing. They never enter a profile."""
    return re.sub(r"[^a-z]", "", split.casefold()) in _FOR_TESTING
