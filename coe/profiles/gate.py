"""The regression gate: routing with and without a newcomer, on questions that the routing did not learn from.

Adding an expert can hurt the others: RouterRetriever's ArguAna fell from 40.1 to 38.5 when HotpotQA's expert
joined (arXiv 2409.02685, table 5). So the evidence is cut in folds; the router's estimator learns without
each fold, once with the newcomer and once without it, and routes the fold both ways.

A question that changes hands counts by the recorded scores. Where the newcomer was not asked it counts by
its estimate, whose own uncertainty widens the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from coe.core.types import ExpertId
from coe.outcomes.statistics import Z95
from coe.routers.learning.calibration import fold_rows
from coe.routers.learning.evidence import Estimator, Evidence

Floats = npt.NDArray[np.float64]
EstimatorBuilder = Callable[[], Estimator]


@dataclass(frozen=True)
class Bounds:
    """What is allowed: accuracy lost overall and in a category (both 0..1).

    The gate says no where the mean loss is larger than its bound and the interval excludes 0.
    """

    overall: float = 0.005
    category: float = 0.02
    min_questions: int = 20
    """categories with fewer validation questions are not judged alone"""


@dataclass(frozen=True)
class Change:
    """Mean routed accuracy with minus without the newcomer, with its interval.

    ``moved``: the questions that changed hands, of ``questions``.
    """

    mean: float
    low: float
    high: float
    questions: int
    moved: int

    def worse_than(self, bound: float) -> bool:
        return self.mean < -bound and self.high < 0

    def __str__(self) -> str:
        return (
            f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}], "
            f"{self.moved} of {self.questions} questions change hands"
        )


@dataclass(frozen=True)
class Comparison:
    """Accuracies are means over the validation questions."""

    expert: ExpertId
    without: float
    with_it: float
    overall: Change
    categories: Mapping[str, Change]
    bounds: Bounds

    @property
    def faults(self) -> tuple[str, ...]:
        found = []
        if self.overall.worse_than(self.bounds.overall):
            found.append(f"overall the routed accuracy falls: {self.overall}")
        found += [
            f"{category} falls: {change}"
            for category, change in self.categories.items()
            if change.worse_than(self.bounds.category)
        ]
        return tuple(found)


def compare(
    evidence: Evidence,
    newcomer: ExpertId,
    build: EstimatorBuilder,
    deviations: Mapping[str, float] | None = None,
    bounds: Bounds | None = None,
    folds: int = 3,
) -> Comparison:
    """``evidence`` has the newcomer and at least one other expert.

    ``deviations``: category -> standard deviation of the newcomer's estimated mean there. Blocking.
    """
    # Profiles hold no texts to route, so that nothing may be learned from their wording.
    unread = replace(evidence, features=None)
    chosen_with, chosen_without = _routed(unread, newcomer, build, folds)
    scores = np.asarray(evidence.scores, dtype=np.float64)
    rows = np.arange(len(scores))
    difference = scores[rows, chosen_with] - scores[rows, chosen_without]
    judged = np.flatnonzero(np.isfinite(difference))
    column = evidence.experts.index(newcomer)
    guessed = (chosen_with == column) & (evidence.counts[:, column] < 1)
    labels = np.asarray(evidence.categories, dtype=object)
    doubt = np.asarray([(deviations or {}).get(label, 0.0) for label in labels]) * guessed
    moved = chosen_with != chosen_without
    limits = bounds or Bounds()

    def change(part: npt.NDArray[np.intp], z: float) -> Change:
        return _change(difference[part], doubt[part], moved[part], z)

    names = [name for name in sorted(set(labels)) if (labels[judged] == name).sum() >= limits.min_questions]
    z = NormalDist().inv_cdf(1 - 0.025 / max(1, len(names)))  # Bonferroni over the categories
    return Comparison(
        expert=newcomer,
        without=float(scores[judged, chosen_without[judged]].mean()) if len(judged) else 0.0,
        with_it=float(scores[judged, chosen_with[judged]].mean()) if len(judged) else 0.0,
        overall=change(judged, Z95),
        categories={str(name): change(judged[labels[judged] == name], z) for name in names},
        bounds=limits,
    )


def _routed(
    evidence: Evidence, newcomer: ExpertId, build: EstimatorBuilder, folds: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Column of the best expert of each row with and without the newcomer, learned on other folds."""
    others = [expert for expert in evidence.experts if expert != newcomer]
    columns = np.asarray([evidence.experts.index(expert) for expert in others])
    without = np.zeros(len(evidence), dtype=np.intp)
    with_it = np.zeros(len(evidence), dtype=np.intp)
    for held in fold_rows(evidence.vectors, min(folds, len(evidence))):
        rest = evidence.rows(np.setdiff1d(np.arange(len(evidence)), held))
        vectors, texts = evidence.vectors[held], [""] * len(held)
        with_it[held] = build().fit(rest).estimate(texts, vectors).argmax(axis=1)
        without[held] = columns[build().fit(rest.only(others)).estimate(texts, vectors).argmax(axis=1)]
    return with_it, without


def _change(difference: Floats, doubt: Floats, moved: npt.NDArray[np.bool_], z: float) -> Change:
    count = len(difference)
    if not count:
        return Change(0.0, 0.0, 0.0, 0, 0)
    sampling = float(difference.var()) / count
    # One estimate stands behind all rows of a category: its error does not average out over them.
    systematic = float(doubt.mean()) ** 2
    half = z * (sampling + systematic) ** 0.5
    mean = float(difference.mean())
    return Change(mean, mean - half, mean + half, count, int(moved.sum()))
