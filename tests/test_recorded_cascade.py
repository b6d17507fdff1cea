"""Cascades on recorded answers, and routers over several outcome sets with one correction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from coe.eval.recorded import sets
from coe.eval.recorded.cascading import Cascades, alone, curve
from coe.eval.recorded.folds import cross_folds, thinned
from coe.eval.recorded.report import all_rows
from coe.eval.recorded.study import Plan, Study
from coe.eval.recorded.tradeoff import paid, unread_share
from coe.outcomes.outcome_set import OutcomeSet, Question

CHEAP, DEAR = 0, 1


def outcome_set(scores: list[list[float]], answers: list[list[str | None]]) -> OutcomeSet:
    """A cheap and a dear expert; each answer of the dear one costs ten times as much."""
    n = len(scores)
    return OutcomeSet(
        name="toy",
        questions=tuple(Question(f"q{i}", stem=f"question {i}", category="any") for i in range(n)),
        experts=("cheap", "dear"),
        scores=np.asarray(scores, dtype=np.float64),
        answers=np.asarray(answers, dtype=object),
        costs=np.tile([0.001, 0.01], (n, 1)),
        active_b=np.asarray([1.0, 10.0]),
        parameters_b=np.asarray([1.0, 10.0]),
    )


def silent_half() -> OutcomeSet:
    """The cheap expert is right on every second question and gives no answer to the others."""
    right: list[list[float]] = [[float(i % 2 == 0), 1.0] for i in range(80)]
    return outcome_set(right, [["A" if i % 2 == 0 else None, "A"] for i in range(80)])


def study_of(outcomes: OutcomeSet) -> Study:
    # Vectors that say nothing: only the cheap expert's answer tells when to go on.
    vectors = np.random.default_rng(0).normal(size=(len(outcomes), 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    folds = cross_folds(outcomes.questions, 4, 0)
    return Study(outcomes, vectors, Plan(folds, ("cascade",), ("vote",), (1,)))


@pytest.mark.slow
def test_a_cascade_goes_on_where_the_first_answer_cannot_be_read() -> None:
    study = study_of(silent_half())
    asked = alone(study, "cascade")
    assert asked.scores.mean() == 1.0
    assert (asked.experts[:, 0] == CHEAP).all()
    assert ((asked.experts[:, 1] == DEAR) == (np.arange(80) % 2 == 1)).all()


@pytest.mark.slow
def test_both_experts_of_a_cascade_are_paid_for() -> None:
    [row, *_] = all_rows(study_of(silent_half()))
    assert row.router == "cascade"
    assert row.mean_experts == 1.5
    assert row.cost_usd_per_1k == pytest.approx(1.0 + 10.0 / 2)


@pytest.mark.slow
def test_an_expert_without_an_outcome_is_passed_over() -> None:
    outcomes = silent_half()
    outcomes.scores[3, DEAR] = np.nan
    outcomes.scores[4, CHEAP] = np.nan
    asked = alone(study_of(outcomes), "cascade")
    assert asked.experts[3].tolist() == [CHEAP, -1]
    assert asked.experts[4].tolist() == [DEAR, -1]


@pytest.mark.slow
def test_where_the_cheap_expert_never_helps_the_strong_one_answers_alone() -> None:
    outcomes = outcome_set([[0.0, 1.0]] * 40, [["B", "A"]] * 40)
    asked = alone(study_of(outcomes), "cascade")
    assert asked.scores.mean() == 1.0
    assert paid(outcomes.costs, asked.experts).mean() == pytest.approx(0.01)


def test_a_high_price_keeps_questions_with_the_cheap_expert() -> None:
    tried = Cascades(study_of(silent_half()), 0).at(20.0)
    assert (tried.asked == [CHEAP, -1]).all()


@pytest.mark.slow
def test_the_curve_of_cascades_beats_drawing_experts_without_reading() -> None:
    study = study_of(silent_half())
    share, unread = curve(study, "cascade").share, unread_share(study)
    assert share is not None
    assert unread is not None
    assert share < unread
    # 95% needs the dear expert for nine questions in ten where nothing is read.
    assert unread == pytest.approx(0.9 + 0.1 * 0.1)


def test_a_learning_curve_asks_the_same_questions_after_fewer_lessons() -> None:
    folds = cross_folds(silent_half().questions, 4, 0)
    for whole, part in zip(folds, thinned(folds, 0.25, 0), strict=True):
        assert part.test.tolist() == whole.test.tolist()
        assert len(part.train) == 15
        assert set(part.train) < set(whole.train)


def test_doubtful_identities_are_left_out() -> None:
    assert sets.certain(["a", "b (fork, size unverified)", "unknown-model"]) == ("a",)


def line(router: str, p: float) -> dict[str, Any]:
    return {
        "router": router,
        "accuracy": 0.5,
        "gain": 0.01,
        "low": 0.0,
        "high": 0.02,
        "p": p,
        "cost_share": None,
    }


def test_p_values_of_the_default_are_corrected_over_all_sets(tmp_path: Path) -> None:
    about = {"experts": 2, "questions": 10, "seeds": [0], "encoder": "static", "best_single": 0.4}
    about["unread_share"] = None
    for name, p in (("pool-a", 0.01), ("gpqa", 0.04)):
        document = about | {"lines": [line("knn", 0.5), line("default", p)]}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    done = CliRunner().invoke(sets.main, [str(tmp_path), "--out", str(tmp_path), "--sets", ""])
    assert done.exit_code == 0, done.output
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in done.output.splitlines()[2:]]
    assert [row[10] for row in rows] == ["", "0.0200", "", "0.0400"]
