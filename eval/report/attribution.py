"""Where questions are lost, and who wins against whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Marks = npt.NDArray[np.float64]
"""Scores (0..1) with shape (questions, experts); NaN where an expert was not asked."""

Verdict = Literal["right", "aggregation lost it", "routing missed", "no expert knew", "unknown"]


@dataclass(frozen=True)
class Attribution:
    """How many questions ended in each way. ``unknown``: wrong, and not all experts have an answer known."""

    right: int
    aggregation: int
    routing: int
    nobody: int
    unknown: int


def verdict(final: float, scores: Mapping[str, float], asked: Sequence[str], pool: int) -> Verdict:
    """Why one question was lost. ``scores`` are the known ones, ``asked`` who was asked, ``pool`` its size.

    A score counts as right from one half on.
    """
    if final >= 0.5:
        return "right"
    if any(scores.get(expert, 0.0) >= 0.5 for expert in asked):
        return "aggregation lost it"
    if any(score >= 0.5 for score in scores.values()):
        return "routing missed"
    return "no expert knew" if len(scores) >= pool else "unknown"


def attribute(verdicts: Sequence[Verdict]) -> Attribution:
    return Attribution(
        right=verdicts.count("right"),
        aggregation=verdicts.count("aggregation lost it"),
        routing=verdicts.count("routing missed"),
        nobody=verdicts.count("no expert knew"),
        unknown=verdicts.count("unknown"),
    )


def win_matrix(scores: Marks) -> npt.NDArray[np.float64]:
    """Shape (experts, experts): the share of questions, answered by both, where row beats column."""
    experts = scores.shape[1]
    wins = np.full((experts, experts), np.nan)
    for row in range(experts):
        both = ~np.isnan(scores) & ~np.isnan(scores[:, [row]])
        beats = (scores[:, [row]] > scores) & both
        with np.errstate(invalid="ignore"):
            wins[row] = beats.sum(axis=0) / both.sum(axis=0)
    return wins
