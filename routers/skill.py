"""Skills (Symbolic-MoE, arXiv 2503.05641): which skills a question needs, and which expert has them.

Without an LLM call skills are found in the evidence: each category's questions fall into groups by their
vectors, and a group is a skill named after its category. The paper's steps follow on these: an expert's
profile counts +1 for each right and -1 for each wrong answer that needs a skill; local suitability adds the
profile over the question's skills; global competency is the expert's share of all profiles; their product
ranks the experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from coe.core.types import ExpertId
from coe.routers.base import RouterOptions
from coe.routers.encoders.encoder import Vectors, unit
from coe.routers.learning.calibration import CalibratedEstimator, completed, out_of_fold
from coe.routers.learning.clusters import groups
from coe.routers.learning.evidence import Estimator, Evidence, Matrix
from coe.routers.learning.views import Asked
from coe.routers.learning.written_router import WriterOptions, WritingRouter

Floats = npt.NDArray[np.float64]
Combination = Literal["sum", "weakest"]

_GROUP_SIZE = 60
"""Questions a skill, about: fewer tell nothing, more are a category again."""
_TEMPERATURE = 0.5
"""T of the paper: global competency ** (1 / T)."""
_PRIOR = 10.0


class SkillEstimator(CalibratedEstimator):
    """Local suitability x global competency over the skills nearest to a question.

    most: skills of one question, at most (the paper's LLM names 2 to 5)
    threshold: a skill counts only with this cosine; without any, only global competency does
    combination: ``sum`` over skills as in the paper, or the ``weakest`` one, as a soft minimum (CrossEval's
    law of the weakest link, arXiv 2409.19951)

    Learned: ``skills_`` (s, d) unit centroids, ``names_`` (s,) and ``profile_`` (s, m), the mean of +1 and
    -1 of each expert, pulled to its overall mean where a skill has few questions.
    """

    def __init__(self, most: int = 3, threshold: float = 0.2, combination: Combination = "sum") -> None:
        self.most, self.threshold, self.combination = most, threshold, combination

    def _learn(self, evidence: Evidence) -> Matrix:
        self._fit_skills(evidence)

        def scored(part: Evidence, vectors: Vectors) -> Matrix:
            other = SkillEstimator(self.most, self.threshold, self.combination)._fit_skills(part)
            return other._score_vectors(vectors)

        return out_of_fold(evidence, scored)

    def _fit_skills(self, evidence: Evidence) -> SkillEstimator:
        groups = _groups(evidence)
        marks = 2.0 * completed(evidence) - 1.0
        overall = marks.mean(axis=0)
        self.names_ = tuple(name for name, _ in groups)
        self.skills_ = np.stack([unit(evidence.vectors[rows].mean(axis=0)) for _, rows in groups])
        self.profile_ = np.stack(
            [(marks[rows].sum(axis=0) + _PRIOR * overall) / (len(rows) + _PRIOR) for _, rows in groups]
        )
        positive = (overall + 1.0) / 2.0
        competency = np.maximum(positive, 1e-3) ** (1 / _TEMPERATURE)
        self._competency = competency / competency.max()
        return self

    def nearest(self, vector: Vectors) -> list[tuple[str, float]]:
        """Names and cosines of the skills of one question (1, d), the nearest first."""
        cosines = (self.skills_ @ vector[0]).tolist()
        order = np.argsort(cosines)[::-1][: self.most]
        return [(self.names_[i], cosines[i]) for i in order if cosines[i] >= self.threshold]

    def _score(self, texts: Sequence[str], vectors: Vectors) -> Matrix:  # noqa: ARG002
        return self._score_vectors(vectors)

    def _score_vectors(self, vectors: Vectors) -> Matrix:
        """(k, m) suitability, as a share of right answers, x competency relative to the best expert's."""
        cosines = vectors @ self.skills_.T
        kept = np.argsort(-cosines, axis=1)[:, : self.most]
        near = np.take_along_axis(cosines, kept, axis=1)
        weight = np.where(near >= self.threshold, near, 0.0)
        weight[weight.sum(axis=1) == 0] = 1.0  # nothing is near: the nearest must do, which says little
        weight /= weight.sum(axis=1, keepdims=True)
        suitability = (self.profile_[kept] + 1.0) / 2.0  # (k, most, m)
        local = _combined(suitability, weight[:, :, None], self.combination)
        scores: Matrix = (local * self._competency).astype(np.float32)
        return scores


def _combined(suitability: Floats, weight: Floats, combination: Combination) -> Floats:
    """Over the skills: the weighted mean (the sum, scaled), or a soft minimum of the same scale."""
    if combination == "sum":
        total: Floats = (suitability * weight).sum(axis=1)
        return total
    sharpness = 20.0
    soft: Floats = -np.log((weight * np.exp(-sharpness * suitability)).sum(axis=1)) / sharpness
    return soft


def _groups(evidence: Evidence) -> list[tuple[str, npt.NDArray[np.intp]]]:
    """Names and rows of the skills, by spherical k-means inside each category."""
    labels = np.asarray(evidence.categories, dtype=object)
    group = groups(evidence.vectors, labels, _GROUP_SIZE)
    found: list[tuple[str, npt.NDArray[np.intp]]] = []
    for category in sorted(set(evidence.categories)):
        inside = np.unique(group[labels == category])
        found += [(f"{category} {i}", np.flatnonzero(group == part)) for i, part in enumerate(inside, 1)]
    return found


class SkillOptions(WriterOptions):
    """Options of kind ``skill``.

    most: skills of one question, at most
    threshold: cosine from which a skill counts
    combination: ``sum`` over skills, or the ``weakest`` one
    writer: an expert that lists the skills a question needs; none: they are found by the question's vector
    writer_deadline_s, writer_tokens: as :class:`coe.routers.learning.written_router.WriterOptions` says
    """

    most: Annotated[int, Field(ge=1)] = 3
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.2
    combination: Combination = "sum"


_PROMPT = """List the two to five skills or fields of knowledge needed to answer the question.
Write only their names on one line, with commas between.

Question: {question}

Skills:"""


class SkillRouter(WritingRouter):
    """Asks the expert with the best record in the skills that a question needs."""

    options_type: ClassVar[type[RouterOptions]] = SkillOptions
    prompt = _PROMPT
    written = "skills"

    def _make(self, options: SkillOptions) -> Estimator:
        return SkillEstimator(options.most, options.threshold, options.combination)

    def _noted(self, seen: Asked, note: str | None) -> Asked:
        """The vector is that of the skills the writer lists, in the place of the question's."""
        return replace(seen, vector=self._encoder.encode([note]), note=note) if note else seen

    def _because(self, asked: Asked, expert: ExpertId) -> str:  # noqa: ARG002
        nearest: list[tuple[str, float]] = self._estimator.nearest(asked.vector)
        if not nearest:
            return "no skill is near, so overall accuracy decides"
        return "skills " + ", ".join(f"{name} {cosine:.2f}" for name, cosine in nearest)
