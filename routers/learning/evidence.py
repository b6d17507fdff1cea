"""What is known of experts before a request comes: which of them answered which questions rightly.

Everything that learns (routers, aggregators, calibration) learns from an :class:`Evidence`, and everything
that knows outcomes makes one: an outcome set's training part, a profile on disk, an answered probe set.
It holds no question text, so that it can be shipped and logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import numpy.typing as npt

from coe.core.types import ExpertId
from coe.routers.encoders.encoder import Vectors

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Matrix = npt.NDArray[np.float32]
"""Shape (questions, experts)."""


@dataclass(frozen=True)
class Evidence:
    """Outcomes of ``experts`` on n questions, each question with its embedding.

    A row may also stand for a group of questions (a pilot embedding): then its vector is their centroid,
    its scores are means and ``counts`` how many questions they were taken over.
    """

    ids: tuple[str, ...]
    """n names, unique; how examples are shown to people and how leaks are found"""
    categories: tuple[str, ...]
    """n labels of the questions' subject; for fitting and reporting only"""
    vectors: Vectors
    """(n, d), rows of length 1, made by the encoder ``encoder``"""
    experts: tuple[ExpertId, ...]
    """m names"""
    scores: Matrix
    """(n, m) in 0..1; NaN where the expert was not asked"""
    counts: Matrix
    """(n, m) questions behind each score; 0 where there is none"""
    encoder: str = ""
    """identity of the encoder that made the vectors"""
    cost_usd: tuple[float | None, ...] = ()
    """m mean prices of one answer in US dollars; None where unknown"""
    features: csr_matrix | None = None
    """(n, f) wording of the questions by :func:`coe.routers.learning.features.text_features`; None where
    not at hand"""
    reference: Evidence | None = None
    """what other models did on other questions, by the same encoder; None where nothing is at hand"""

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, chosen: npt.NDArray[np.intp]) -> Self:
        """The part with these rows."""
        return replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            categories=tuple(self.categories[i] for i in chosen),
            vectors=self.vectors[chosen],
            scores=self.scores[chosen],
            counts=self.counts[chosen],
            features=None if self.features is None else self.features[chosen],
        )

    def only(self, experts: Sequence[ExpertId]) -> Self:
        """The part about these experts, in this order. Raises KeyError for one that is not in it."""
        index = {expert: i for i, expert in enumerate(self.experts)}
        columns = [index[expert] for expert in experts]
        return replace(
            self,
            experts=tuple(experts),
            scores=self.scores[:, columns],
            counts=self.counts[:, columns],
            cost_usd=tuple(self.cost_usd[i] for i in columns) if self.cost_usd else (),
        )


class Estimator(Protocol):
    """Learns from evidence how probable it is that an expert answers a question rightly.

    Follows scikit-learn: ``__init__`` stores hyper-parameters, ``fit`` returns self, learned state ends
    in ``_``. A learning router owns one; recorded evaluation runs the same one over thousands of questions.
    """

    experts_: tuple[ExpertId, ...]
    cross_fitted_: Matrix
    """calibrated estimates (n, m) of the evidence's own questions, each made without that question"""

    def fit(self, evidence: Evidence) -> Self: ...

    def estimate(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        """Calibrated probabilities of a right answer, (len(texts), len(experts_)).

        ``vectors`` are the texts' embeddings by the evidence's encoder. Uses nothing but these two.
        """
        ...
