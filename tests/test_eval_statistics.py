"""Intervals, tests, curves and attribution against hand-computed or independent values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from coe.eval.live.contamination import contamination
from coe.eval.report.attribution import attribute, verdict, win_matrix
from coe.eval.report.curves import Point, average_quality, cost_at, hull, quality_at
from coe.eval.statistics import calibration, holm, mcnemar, paired_bootstrap, share
from coe.outcomes.statistics import wilson


def test_wilson_is_scipys() -> None:
    theirs = stats.binomtest(37, 120).proportion_ci(0.95, method="wilson")
    assert share([True] * 37 + [False] * 83).interval == pytest.approx((theirs.low, theirs.high))
    assert wilson(0.0, 0) == (0.0, 1.0)


def test_bootstrap_interval_is_near_the_normal_one() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(3000) < 0.5, rng.random(3000) < 0.45
    found = paired_bootstrap(a.astype(float), b.astype(float), seed=3)
    error = (a.astype(float) - b).std() / np.sqrt(3000)
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.002)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.002)
    assert (found.low > 0) == (found.p < 0.05)


def test_bootstrap_of_graded_scores_uses_every_value() -> None:
    a, b = np.linspace(0, 1, 500), np.linspace(0, 1, 500) ** 2
    found = paired_bootstrap(a, b)
    assert found.low < found.mean < found.high
    assert found.p == pytest.approx(1e-4)


def test_bootstrap_refuses_what_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_bootstrap([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="no questions"):
        paired_bootstrap([], [])


def test_mcnemar_counts_discordant_questions_only() -> None:
    a = [True] * 8 + [False] * 2 + [True] * 90
    b = [False] * 8 + [True] * 2 + [True] * 90
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (8, 2)
    assert found.p == pytest.approx(2 * stats.binom.cdf(2, 10, 0.5))
    assert mcnemar([True], [True]).p == 1.0


def test_holm_steps_down() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.5})
    assert list(adjusted) == ["a", "b", "c", "d"]


def test_calibration_error_of_known_bins() -> None:
    found = calibration([0.9] * 10 + [0.1] * 10, [1.0] * 5 + [0.0] * 5 + [0.0] * 10, bins=10)
    assert found.error == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert [one.total for one in found.bins] == [10, 10]
    assert calibration([1.0], [1.0]).error == 0.0


def test_hull_drops_what_mixing_beats() -> None:
    points = [Point(1, 0.4), Point(2, 0.45), Point(3, 0.8), Point(4, 0.7), Point(1, 0.3)]
    assert [(p.cost, p.quality) for p in hull(points)] == [(1, 0.4), (3, 0.8)]
    assert quality_at(hull(points), 2) == pytest.approx(0.6)
    assert cost_at(hull(points), 0.7) == pytest.approx(2.5)
    assert cost_at(hull(points), 0.9) is None


def test_average_quality_is_the_mean_height_of_the_hull() -> None:
    points = [Point(0, 0.0), Point(10, 1.0)]
    assert average_quality(points, 0, 10) == pytest.approx(0.5)
    assert average_quality([Point(5, 0.8)], 0, 10) == pytest.approx(0.4)  # nothing can be had below 5
    assert average_quality([Point(1, 0.6)], 1, 9) == pytest.approx(0.6)


def test_lost_questions_are_attributed() -> None:
    scores = {"a": 1.0, "b": 0.0}
    verdicts = [
        verdict(1.0, scores, ["a"], 2),
        verdict(0.0, scores, ["a", "b"], 2),
        verdict(0.0, scores, ["b"], 2),
        verdict(0.0, {"a": 0.0, "b": 0.0}, ["a"], 2),
        verdict(0.0, {"a": 0.0}, ["a"], 2),
    ]
    found = attribute(verdicts)
    assert (found.right, found.aggregation, found.routing, found.nobody, found.unknown) == (1, 1, 1, 1, 1)


def test_wins_leave_out_what_is_unknown() -> None:
    scores = np.array([[1.0, 0.0], [0.0, np.nan], [np.nan, np.nan]])
    wins = win_matrix(scores)
    assert wins[0, 1] == 1.0
    assert wins[1, 0] == 0.0


def test_contamination_is_found_by_id_and_by_text() -> None:
    profile = {"q1": "What is 2 + 2?", "q2": None}
    found = contamination(profile, {"q1": None, "q7": "what is  2+2", "q8": "Another"})
    assert (found.by_id, found.by_text, found.total) == (("q1",), ("q7",), 3)
    assert not found.clean
    assert contamination(profile, {"q9": "fresh"}).clean
