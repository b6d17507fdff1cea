"""The routers that recorded runs know: names of estimators, and baselines that need no question text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from coe.core.errors import ConfigError
from coe.core.suggest import suggest
from coe.outcomes.outcome_set import Floats, Indices, OutcomeSet
from coe.routers import ESTIMATORS, estimator_class
from coe.routers.blend import PARTS, USUAL, BlendEstimator, fit_part
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.evidence import Estimator, Evidence, Matrix

BLEND, CASCADE = "blend", "cascade"
STATIC, RANDOM, ORACLE = "static", "random", "oracle"
BASELINES = (STATIC, RANDOM, ORACLE)


@dataclass(frozen=True)
class Fitted:
    """A router's probabilities of a right answer, (rows, experts).

    ``held_out`` are those of the learning questions, each made without it; None for what learns nothing.
    """

    test: Floats
    held_out: Floats


@dataclass(frozen=True)
class Lesson:
    """What a router of one fold may learn from, and whom it is then asked about.

    ``evidence`` is about the learning questions that have a text, ``learned`` are their rows among
    ``train``; ``readable`` marks the asked ones that have a text.
    """

    outcomes: OutcomeSet
    train: Indices
    test: Indices
    evidence: Evidence
    learned: Indices
    vectors: Vectors
    """(test, d); rows of asked questions without text are zero"""
    readable: npt.NDArray[np.bool_]
    """(test,) true where there is a text"""
    texts: tuple[str, ...]
    seed: int
    learned_by: dict[str, Estimator] = field(default_factory=dict)
    """estimators fitted so far, so that a blend need not fit its parts again"""
    estimated: dict[str, Matrix] = field(default_factory=dict)
    """what they estimate of the asked questions that have a text"""


Method = Callable[[Lesson], Fitted]


def method(name: str) -> Method:
    """Raises ConfigError for an unknown name."""
    if name in _BASELINES:
        return _BASELINES[name]
    if name not in ESTIMATORS:
        raise ConfigError(f'no router "{name}" for recorded runs; {suggest(name, method_names())}')
    return lambda lesson: _by_estimator(name, lesson)


def method_names() -> tuple[str, ...]:
    return (*ESTIMATORS, *BASELINES, CASCADE)


def expert_accuracy(scores: Floats) -> Floats:
    """(m,) accuracy of each expert, as if each had been asked every question.

    Where all were, this is the mean; where one was not, its mean difference to the others on the questions
    that it was asked counts, else an expert asked only easy questions would look best.
    """
    known = np.isfinite(scores)
    filled = np.where(known, scores, 0.0)
    expert = filled.sum(0) / np.maximum(known.sum(0), 1)
    for _ in range(0 if known.all() else 30):
        difficulty = np.where(known, scores - expert, 0.0).sum(1) / np.maximum(known.sum(1), 1)
        expert = np.where(known, scores - difficulty[:, None], 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known.any(0), expert, -1.0)


def _static(lesson: Lesson) -> Fitted:
    accuracy = np.clip(expert_accuracy(lesson.outcomes.scores[lesson.train]), 0.0, 1.0)
    return Fitted(np.tile(accuracy, (len(lesson.test), 1)), np.tile(accuracy, (len(lesson.train), 1)))


def _random(lesson: Lesson) -> Fitted:
    draws = np.random.default_rng(lesson.seed)
    experts = len(lesson.outcomes.experts)
    return Fitted(draws.random((len(lesson.test), experts)), draws.random((len(lesson.train), experts)))


def _oracle(lesson: Lesson) -> Fitted:
    known = np.nan_to_num(lesson.outcomes.scores)
    return Fitted(known[lesson.test], known[lesson.train])


_BASELINES: Mapping[str, Method] = {STATIC: _static, RANDOM: _random, ORACLE: _oracle}


def _by_estimator(name: str, lesson: Lesson) -> Fitted:
    """Questions without text get what is known without reading them: each expert's accuracy."""
    blind = _static(lesson)
    test, held_out = blind.test.copy(), blind.held_out.copy()
    if not len(lesson.evidence):
        return blind
    estimator = _learned(name, lesson)
    asked = np.flatnonzero(lesson.readable)
    if len(asked):
        test[asked] = _estimates(name, lesson)
    held_out[lesson.learned] = estimator.cross_fitted_
    return Fitted(test, held_out)


def _estimates(name: str, lesson: Lesson) -> Matrix:
    """(asked questions with a text, m)"""
    if name not in lesson.estimated:
        estimator, asked = _learned(name, lesson), np.flatnonzero(lesson.readable)
        if isinstance(estimator, BlendEstimator):
            found = estimator.of_parts([_estimates(part, lesson) for part in estimator.parts])
        else:
            found = estimator.estimate([lesson.texts[i] for i in asked], lesson.vectors[asked])
        lesson.estimated[name] = found
    return lesson.estimated[name]


def _learned(name: str, lesson: Lesson) -> Estimator:
    if name not in lesson.learned_by:
        if name == BLEND:
            parts = {part: _learned(part, lesson) for part in USUAL}
            made = BlendEstimator(USUAL, fitted=parts)
            lesson.learned_by[name] = made.fit(lesson.evidence)
        elif name in PARTS:
            lesson.learned_by[name] = fit_part(name, lesson.evidence, lesson.learned_by)
        else:
            lesson.learned_by[name] = estimator_class(name)().fit(lesson.evidence)
    return lesson.learned_by[name]
