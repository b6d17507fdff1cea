"""Instructions (the global half of GLIDER, arXiv 2410.07172): what is asked for, beside what experts do.

GLIDER has an LLM write the task instruction of a query and compares its embedding with each expert's. Where
no LLM writes, the question's own embedding stands for the instruction, and an expert is described by the
questions that it answers better than others do. The cosine is added to a kNN score in log-odds, and counts
much more when the instruction is unmistakably one expert's:

    logit = logit(kNN) + alpha * cosine,  alpha = gamma * [largest cosine > p] + beta
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from coe.core.types import ExpertId, ExpertView
from coe.routers.base import RouterOptions, Setting
from coe.routers.encoders.encoder import Encoder, Vectors
from coe.routers.knn import KnnEstimator
from coe.routers.learning.calibration import FOLDS, CalibratedEstimator, completed, fold_rows
from coe.routers.learning.evidence import Estimator, Evidence, Matrix
from coe.routers.learning.learned_router import Floats, LearnedOptions
from coe.routers.learning.views import Asked
from coe.routers.learning.written_router import WriterOptions, WritingRouter
from coe.routers.per_pool import PerPool


class InstructionEstimator(CalibratedEstimator):
    """The thresholded combination above, its kNN part learned from evidence.

    gamma, p, beta: of the formula. The paper's 100, 0.8 and 3 are made for cosines between instructions;
    descriptions made of questions are less alike, so a smaller gamma and threshold serve as defaults.
    knn: fitted to the same evidence, it need not be fitted again.

    Learned: ``descriptions_`` (m, d) unit vectors.
    """

    def __init__(
        self, gamma: float = 10.0, p: float = 0.5, beta: float = 1.0, knn: KnnEstimator | None = None
    ) -> None:
        self.gamma, self.p, self.beta, self.knn = gamma, p, beta, knn

    def _learn(self, evidence: Evidence) -> Matrix:
        self._knn = self.knn or KnnEstimator().fit(evidence)
        self.descriptions_ = descriptions(evidence)
        found = np.zeros(evidence.scores.shape, dtype=np.float32)
        for held in fold_rows(evidence.vectors, min(FOLDS, len(evidence))):
            rest = np.setdiff1d(np.arange(len(evidence)), held)
            learned = descriptions(evidence.rows(rest if len(rest) else held))
            found[held] = self.combined(self._knn.cross_fitted_[held], evidence.vectors[held] @ learned.T)
        return found

    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:
        return self.combined(self._knn.estimate(texts, vectors), vectors @ self.descriptions_.T)

    def combined(self, chances: Matrix, cosines: Matrix) -> Matrix:
        """Probabilities (k, m) moved by cosines (k, m); only differences between experts matter."""
        alpha = self.gamma * (cosines.max(axis=1, keepdims=True) > self.p) + self.beta
        p = np.clip(chances, 1e-3, 1 - 1e-3)
        logit = np.log(p / (1 - p)) + alpha * (cosines - cosines.mean(axis=1, keepdims=True))
        moved: Matrix = (1 / (1 + np.exp(-logit))).astype(np.float32)
        return moved


def descriptions(evidence: Evidence) -> Vectors:
    """(m, d) direction of the questions on which an expert is better than the average one."""
    scores = completed(evidence)
    advantage = scores - scores.mean(axis=1, keepdims=True)
    advantage -= advantage.mean(axis=0)
    directions = np.maximum(advantage, 0.0).T @ evidence.vectors
    unit: Vectors = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-9)
    return unit


class InstructionOptions(WriterOptions):
    """Options of kind ``instruction``.

    gamma, p, beta: of the combination above
    writer: an expert that writes each question's task as an instruction, to be compared with the experts'
        cards; none: the question's own vector is compared with what experts did best
    writer_deadline_s, writer_tokens: as :class:`coe.routers.learning.written_router.WriterOptions` says
    """

    gamma: Annotated[float, Field(ge=0)] = 10.0
    p: Annotated[float, Field(ge=-1, le=1)] = 0.5
    beta: Annotated[float, Field(ge=0)] = 1.0


_PROMPT = """Describe in one short sentence what kind of task the question is and what knowledge it needs.
Do not answer it.

Question: {question}

Task:"""


class InstructionRouter(WritingRouter):
    """Asks the expert whose description fits the task, beside its record on similar questions."""

    options_type: ClassVar[type[RouterOptions]] = InstructionOptions
    prompt = _PROMPT
    written = "instruction"

    def __init__(
        self, name: str, options: LearnedOptions, setting: Setting, encoder: Encoder | None = None
    ) -> None:
        super().__init__(name, options, setting, encoder)
        self._worth = PerPool[tuple[float, float]]()

    def _make(self, options: InstructionOptions) -> Estimator:
        return InstructionEstimator(options.gamma, options.p, options.beta)

    def _noted(self, seen: Asked, note: str | None) -> Asked:
        """Where cards alone decide, the instruction is compared with them in the question's place."""
        if note is None or self._estimator is not None:
            return replace(seen, note=note)
        return replace(seen, vector=self._encoder.encode([note]), note=note)

    def _known(self, asked: Asked, experts: Sequence[ExpertView]) -> Floats:
        """With an instruction, its cosine with the experts' cards counts as well."""
        found = super()._known(asked, experts)
        known = np.isfinite(found)
        if asked.note is None or not known.any():
            return found
        cosines = self._card_cosines(self._encoder.encode([asked.note]), experts)
        weight, reach = self._worth.of(experts, self._learn_worth)
        moved = self._estimator.combined(found[None, known], cosines[None, known])[0] - found[known]
        found[known] = np.clip(found[known] + weight * np.clip(moved, -reach, reach), 0.0, 1.0)
        return found

    def _learn_worth(self, experts: Sequence[ExpertView]) -> tuple[float, float]:
        """How much of what cards move a probability by holds true, from 0 to 1, and the most that is known.

        The profiles' questions stand for instructions, which nobody wrote of them. Least squares, held near 0
        as by a few questions: without evidence that cards tell experts apart, they say nothing.
        """
        places = self._places.of(experts, self._find_places)
        known = places >= 0
        evidence = self._evidence
        assert evidence is not None  # somebody is known
        before = self._estimator.cross_fitted_[:, places[known]]
        cosines = evidence.vectors @ self._cards.of(experts, self._read_cards)[known].T
        moved = (self._estimator.combined(before, cosines) - before).astype(np.float64)
        asked = np.isfinite(evidence.scores[:, places[known]])
        error = np.where(asked, evidence.scores[:, places[known]] - before, 0.0)
        moved = np.where(asked, moved, 0.0)
        weight = float((moved * error).sum() / ((moved**2).sum() + 1.0))
        return float(np.clip(weight, 0.0, 1.0)), float(np.quantile(np.abs(moved), 0.99))

    def _because(self, asked: Asked, expert: ExpertId) -> str:
        if asked.note is not None:
            return ""
        if expert not in self._estimator.experts_:
            return ""
        cosine = float(
            self._estimator.descriptions_[self._estimator.experts_.index(expert)] @ asked.vector[0]
        )
        return f"its best questions {cosine:.2f}"
