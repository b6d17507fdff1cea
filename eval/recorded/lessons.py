"""What a combiner of recorded answers may learn from."""

from __future__ import annotations

from dataclasses import dataclass

from eval.recorded.outcomes import Floats, Indices, OutcomeSet


@dataclass(frozen=True)
class Lessons:
    """The learning questions with every answer, score and estimate.

    ``probabilities`` (n, m) were made for each question without it; ``asked`` (n, k) are the experts that
    would have been asked, best first, -1: nobody.
    """

    outcomes: OutcomeSet
    probabilities: Floats
    asked: Indices
