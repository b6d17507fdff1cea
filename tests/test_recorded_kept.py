"""Fits that several commands on the same data share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coe.eval.recorded import study as studies
from coe.eval.recorded.folds import cross_folds
from coe.eval.recorded.kept import KeptFits, digest_of
from coe.eval.recorded.study import Plan, Study
from coe.outcomes.outcome_set import OutcomeSet, Question


def small_set() -> OutcomeSet:
    draws, nothing = np.random.default_rng(1), np.full(2, np.nan)
    return OutcomeSet(
        name="small",
        questions=tuple(Question(str(i), f"Question {i}?", category="ab"[i % 2]) for i in range(40)),
        experts=("x", "y"),
        scores=(draws.random((40, 2)) < 0.5).astype(np.float64),
        answers=None,
        costs=np.full((40, 2), np.nan),
        active_b=nothing,
        parameters_b=nothing,
    )


def study_in(folder: Path, outcomes: OutcomeSet, seed: int = 0) -> Study:
    vectors = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = KeptFits(folder, digest_of(outcomes, vectors, "test"))
    return Study(outcomes, vectors, Plan(cross_folds(outcomes.questions, 2, seed), (), (), (1,), seed), kept)


def no_fit(name: str) -> object:
    raise AssertionError(f"{name} is fitted again")


def test_a_fit_is_found_again_by_another_run_on_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, seconds = study_in(tmp_path, small_set()).fitted("knn", 1)
    monkeypatch.setattr(studies, "method", no_fit)
    again, as_long = study_in(tmp_path, small_set()).fitted("knn", 1)
    np.testing.assert_array_equal(again.test, first.test)
    np.testing.assert_array_equal(again.held_out, first.held_out)
    assert as_long == seconds


def test_other_outcomes_folds_or_routers_are_fitted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = small_set()
    study_in(tmp_path, outcomes).fitted("knn", 0)
    turned = replace(outcomes, scores=1.0 - outcomes.scores)
    renamed = replace(outcomes, questions=tuple(replace(q, category="c") for q in outcomes.questions))
    monkeypatch.setattr(studies, "method", no_fit)
    for other in (study_in(tmp_path, turned), study_in(tmp_path, renamed), study_in(tmp_path, outcomes, 1)):
        with pytest.raises(AssertionError, match="knn is fitted again"):
            other.fitted("knn", 0)
    with pytest.raises(AssertionError, match="linear is fitted again"):
        study_in(tmp_path, outcomes).fitted("linear", 0)


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    first, _ = study_in(tmp_path, small_set()).fitted("knn", 0)
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    again, _ = study_in(tmp_path, small_set()).fitted("knn", 0)
    np.testing.assert_array_equal(again.test, first.test)
    assert [each.name for each in tmp_path.iterdir()] == [file.name]
