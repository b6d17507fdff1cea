"""The calibrator: whatever the scores are, what it states is no worse than the base rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pytest

from coe.routers.learning.calibration import TOLD, PlattCalibrator

Floats = npt.NDArray[np.float64]


def column(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32).reshape(-1, 1)


def fitted(scores: npt.ArrayLike, right: npt.ArrayLike) -> PlattCalibrator:
    return PlattCalibrator().fit(column(scores), column(right), np.ones_like(column(right)))


def log_loss(chances: npt.ArrayLike, right: npt.ArrayLike) -> float:
    p, y = (np.asarray(each, dtype=np.float64).ravel() for each in (chances, right))
    return float(-np.mean(y * np.log(np.maximum(p, 1e-300)) + (1 - y) * np.log(np.maximum(1 - p, 1e-300))))


SHAPES: Mapping[str, Callable[[Floats, Floats], Floats]] = MappingProxyType(
    {
        "telling": lambda chance, right: chance,
        "anti-correlated": lambda chance, right: 1 - chance,
        "the wrong way round, without doubt": lambda chance, right: np.where(right > 0, 0.001, 0.999),
        "separable": lambda chance, right: np.where(right > 0, 0.9, 0.1),
        "separable at the edges": lambda chance, right: np.where(right > 0, 1.0, 0.0),
        "constant": lambda chance, right: np.full_like(chance, 0.3),
        "constant and far off": lambda chance, right: np.full_like(chance, 0.9999),
        "two clusters": lambda chance, right: np.where(np.arange(len(chance)) % 5 == 0, 0.001, 0.6),
        "tiny": lambda chance, right: chance * 1e-6,
        "narrow": lambda chance, right: 0.5 + 1e-3 * chance,
        "huge": lambda chance, right: np.clip(10 * chance - 5, 0.0, 1.0),
    }
)


@pytest.mark.parametrize("count", [TOLD, 12, 50, 200, 3000])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("shape", SHAPES)
def test_never_worse_than_the_base_rate(shape: str, rate: float, count: int) -> None:
    draws = np.random.default_rng(count)
    chance = draws.beta(2 * rate, 2 * (1 - rate), count)
    right = (draws.random(count) < chance).astype(float)
    right[:2] = 1.0, 0.0  # both happen
    scores = SHAPES[shape](chance, right)
    found = fitted(scores, right)
    stated = found.apply(column(scores))
    assert log_loss(stated, right) <= log_loss(np.full(count, right.mean()), right) + 1e-6
    assert ((stated > 0) & (stated < 1)).all()
    assert (found.slope_ >= 0).all()
    assert np.abs(stated.mean() - right.mean()) < 0.1, "the level is the level that was seen"


def test_a_low_cluster_that_is_right_more_often_does_not_sink_an_expert() -> None:
    """40 scores of .001 are right 30% of the time and 160 of .6 are right 25%."""
    scores = [0.001] * 40 + [0.6] * 160
    right = [1] * 12 + [0] * 28 + [1] * 40 + [0] * 120
    assert fitted(scores, right).apply(column([0.001, 0.6])).ravel() == pytest.approx([0.26, 0.26], abs=0.01)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
@pytest.mark.parametrize("count", [1, TOLD, 200])
def test_nothing_is_certain_where_all_outcomes_are_alike(outcome: float, count: int) -> None:
    stated = fitted(np.linspace(0.1, 0.9, count), np.full(count, outcome)).apply(column([0.01, 0.5, 0.99]))
    assert ((stated > 0.001) & (stated < 0.999)).all()
    if count == 200:
        assert stated.ravel() == pytest.approx(outcome, abs=0.01)


def test_an_expert_with_little_evidence_keeps_its_scores() -> None:
    stated = fitted([0.4], [1.0]).apply(column([0.2, 0.4, 0.8])).ravel()
    assert stated == pytest.approx([0.2, 0.4, 0.8], abs=0.03)
    unseen = fitted([0.4, 0.2], [np.nan, np.nan]).apply(column([0.2, 0.4, 0.8])).ravel()
    assert unseen == pytest.approx([0.2, 0.4, 0.8], abs=1e-4)


def test_scores_beyond_all_that_were_seen_count_as_the_farthest() -> None:
    draws = np.random.default_rng(0)
    scores = draws.uniform(0.4, 0.6, 500)
    found = fitted(scores, (draws.random(500) < (scores - 0.4) / 0.2).astype(float))
    low, high = found.apply(column([scores.min(), scores.max()])).ravel()
    assert found.apply(column([0.0, 1.0])).ravel() == pytest.approx([low, high])


def test_experts_are_fitted_apart_and_weights_are_questions() -> None:
    draws = np.random.default_rng(1)
    scores = draws.uniform(0.05, 0.95, (300, 2)).astype(np.float32)
    right = (draws.random(scores.shape) < scores).astype(np.float32)
    right[:, 1] = 1 - right[:, 1]  # the second is wrong where it looks right
    both = PlattCalibrator().fit(scores, right, np.ones_like(right))
    alone = PlattCalibrator().fit(scores[:, :1], right[:, :1], np.ones_like(right[:, :1]))
    assert both.slope_[0] == pytest.approx(alone.slope_[0], abs=1e-4)
    assert both.slope_[1] == 0
    twice = PlattCalibrator().fit(np.tile(scores, (2, 1)), np.tile(right, (2, 1)), np.ones((600, 2)))
    doubled = PlattCalibrator().fit(scores, right, np.full_like(right, 2.0))
    assert doubled.slope_ == pytest.approx(twice.slope_, abs=1e-4)
    assert doubled.shift_ == pytest.approx(twice.shift_, abs=1e-4)
