"""The category router on evidence: categories are known by outcomes, and the map is made from scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from coe.core.decision import before_all, generals
from coe.core.types import ExpertView, Rule
from coe.routers.base import Setting
from coe.routers.category_budget import Budget, Sizes, best_map
from coe.routers.encoders.encoder import Encoder, Vectors
from coe.routers.learning.calibration import CalibratedEstimator, completed
from coe.routers.learning.cards import with_newcomers
from coe.routers.learning.category_shares import CategoryShares
from coe.routers.learning.evidence import Estimator, Evidence, Matrix
from coe.routers.learning.learned_router import Floats, Judged, LearnedOptions, LearnedRouter
from coe.routers.learning.views import Asked
from coe.routers.per_pool import PerPool

if TYPE_CHECKING:
    from coe.routers.category import CategoryOptions


class CategoryScoreRouter(LearnedRouter):
    """Text -> category -> expert, the map being CoE's integer programme over the experts of the moment.

    The ranking is by P(right) over all categories; the expert asked is the map's. When the category is less
    certain than ``low_confidence``, a general expert is asked if there is one.
    """

    def __init__(self, name: str, options: CategoryOptions, setting: Setting, encoder: Encoder) -> None:
        super().__init__(name, LearnedOptions(encoder=options.encoder), setting, encoder)
        self._low_confidence = options.low_confidence
        self._budget = Budget(options.total_parameters_b, options.average_active_b, options.average_price)
        self._map = PerPool[npt.NDArray[np.intp]]()

    def _make(self, options: Any) -> Estimator:  # noqa: ARG002
        return CategoryEstimator()

    def _judged(self, asked: Asked, experts: Sequence[ExpertView]) -> Judged:
        learned = cast(CategoryEstimator, self._estimator)
        shares = asked.settled(learned.category_shares(asked.texts, asked.vectors), shares=True)
        top = int(shares.argmax())
        category = learned.categories_[top]
        rule = Rule(general=generals(experts), unsure_below=self._low_confidence, sure=float(shares[top]))
        if self._budget != Budget():
            rule = self._within_budget(rule, top, experts)
        return Judged(rule, category, f"category {category} {shares[top]:.2f}")

    def _within_budget(self, rule: Rule, top: int, experts: Sequence[ExpertView]) -> Rule:
        """The map's expert for the category ``top``; in its place only those that the map hosts."""
        hosts = self._map.of(experts, self._made_map)
        mapped = experts[int(hosts[top])].id
        return replace(
            rule,
            among=frozenset(experts[int(place)].id for place in hosts),
            prefers=partial(before_all, (mapped,)),
            why="budget",
            phrase="the category is {expert}'s within the budget",
        )

    def _made_map(self, experts: Sequence[ExpertView]) -> npt.NDArray[np.intp]:
        """(c,) places in ``experts``."""
        learned = cast(CategoryEstimator, self._estimator)
        scores = np.full((len(learned.categories_), len(experts)), np.nan)
        for place, view in enumerate(experts):
            if view.id in self._place:
                scores[:, place] = learned.accuracy_[:, self._place[view.id]]
        no_cards = np.zeros(len(experts))
        filled = np.stack([with_newcomers(row, no_cards) for row in scores])
        return best_map(filled, learned.shares_.astype(np.float64), _sizes(experts), self._budget)


def _sizes(experts: Sequence[ExpertView]) -> Sizes:
    def numbers(*values: float | None) -> Floats:
        return np.asarray([np.nan if value is None else value for value in values])

    return Sizes(
        parameters=numbers(*(view.parameters_b for view in experts)),
        active=numbers(*(view.active_b or view.parameters_b for view in experts)),
        price=numbers(*(view.usd_per_mtok_out for view in experts)),
    )


PRIOR = 5.0
"""Questions' worth of an expert's overall accuracy in each of its category scores."""


class CategoryEstimator(CalibratedEstimator):
    """P(right) = sum over categories of P(category) x the expert's accuracy in it.

    Learned: ``categories_`` (c names, sorted), ``shares_`` (c,) of the evidence, ``accuracy_`` (c, m), and
    ``found_``, which says how probable each category is.
    Category labels are learned from evidence only; a question asked later brings none.
    """

    def _learn(self, evidence: Evidence) -> Matrix:
        self.found_ = CategoryShares().fit(evidence)
        self.categories_, labels = self.found_.categories_, self.found_.labels_
        belonging = np.eye(len(self.categories_), dtype=np.float32)[labels]
        scores = completed(evidence)
        overall = scores.mean(axis=0)
        sums, sizes = belonging.T @ scores, belonging.sum(axis=0)[:, None]
        self.shares_ = belonging.mean(axis=0)
        self.accuracy_ = (sums + PRIOR * overall) / (sizes + PRIOR)
        return self._left_out(scores, sums, sizes)

    def _left_out(self, scores: Matrix, sums: Matrix, sizes: Matrix) -> Matrix:
        """As ``_score``, but a question counts neither for its category's scores nor for the classifier."""
        shares, labels = self.found_.left_out_, self.found_.labels_
        own = np.arange(len(labels))
        overall = scores.mean(axis=0)
        without = (sums[labels] - scores + PRIOR * overall) / (sizes[labels] - 1 + PRIOR)
        mixed: Matrix = shares @ self.accuracy_
        mixed += shares[own, labels][:, None] * (without - self.accuracy_[labels])
        return mixed

    def category_shares(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        """(k, c) probability of each category."""
        return self.found_.of(texts, vectors)

    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        scores: Matrix = self.category_shares(texts, vectors) @ self.accuracy_
        return scores
