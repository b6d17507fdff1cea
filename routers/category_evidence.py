"""The category router on evidence: categories are known by outcomes, and the map is made from scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from coe.core.decision import generals
from coe.core.types import ExpertView, Rule
from coe.routers.base import Setting
from coe.routers.category_budget import Budget, BudgetMap, budget_map, kept
from coe.routers.encoders.encoder import Encoder, Vectors
from coe.routers.learning.calibration import CalibratedEstimator, completed
from coe.routers.learning.cards import with_newcomers
from coe.routers.learning.category_shares import CategoryShares
from coe.routers.learning.evidence import Estimator, Evidence, Matrix
from coe.routers.learning.learned_router import Judged, LearnedOptions, LearnedRouter
from coe.routers.learning.views import Asked
from coe.routers.per_pool import PerPool

if TYPE_CHECKING:
    from coe.routers.category import CategoryOptions


class CategoryScoreRouter(LearnedRouter):
    """Text -> category -> expert, the map being CoE's integer programme over the experts of the moment.

    The ranking is by P(right) over all categories; the expert asked is the map's. When the category is less
    certain than ``low_confidence``, a general expert is asked if there is one.
    """

    def __init__(
        self, name: str, options: CategoryOptions, setting: Setting, encoder: Encoder | None = None
    ) -> None:
        super().__init__(name, LearnedOptions(encoder=options.encoder), setting, encoder)
        self._low_confidence = options.low_confidence
        self._budget = Budget(options.total_parameters_b, options.average_active_b, options.average_price)
        self._map = PerPool[BudgetMap]()
        self.renewed(setting)

    def renewed(self, setting: Setting) -> Self:
        """Raises ConfigError where these experts allow no map within the budget."""
        if self._budget != Budget():
            self._map.of(setting.experts, self._made_map)
        return super().renewed(setting)

    def _make(self, options: Any) -> Estimator:  # noqa: ARG002
        return CategoryEstimator()

    def _judged(self, asked: Asked, experts: Sequence[ExpertView]) -> Judged:
        learned = cast(CategoryEstimator, self._estimator)
        shares = asked.settled(learned.category_shares(asked.texts, asked.vectors), shares=True)
        top = int(shares.argmax())
        category = learned.categories_[top]
        rule = Rule(general=generals(experts), unsure_below=self._low_confidence, sure=float(shares[top]))
        if self._budget != Budget():
            rule = kept(self._map, experts, self._made_map).rule(rule, top)
        return Judged(rule, category, f"category {category} {shares[top]:.2f}")

    def _made_map(self, experts: Sequence[ExpertView]) -> BudgetMap:
        learned = cast(CategoryEstimator, self._estimator)
        scores = np.full((len(learned.categories_), len(experts)), np.nan)
        for place, view in enumerate(experts):
            if view.id in self._place:
                scores[:, place] = learned.accuracy_[:, self._place[view.id]]
        no_cards = np.zeros(len(experts))
        filled = np.stack([with_newcomers(row, no_cards) for row in scores])
        return budget_map(filled, learned.shares_.astype(np.float64), experts, self._budget)


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
