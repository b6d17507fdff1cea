"""The learned combiner on recorded outcomes, asking in stages, and the comparison of ways to combine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coe.core.errors import ConfigError
from coe.eval.recorded.folds import cross_folds
from coe.eval.recorded.masses import ByMass, by_mass
from coe.eval.recorded.references import names, single_within
from coe.eval.recorded.report import all_rows
from coe.eval.recorded.study import Plan, Study
from coe.eval.recorded.ways import ablation, compared, table, usual_ways
from coe.outcomes.combiner_fits import InStages, Learned
from coe.outcomes.combiner_tables import Lessons, answer_numbers
from coe.outcomes.outcome_set import OutcomeSet, Question


def team_outcomes(count: int = 400) -> OutcomeSet:
    """Two copies that err together, a third of the same strength of its own; long answers are wrong ones."""
    draws = np.random.default_rng(5)
    right = draws.random((count, 2)) < 0.6
    columns = right[:, [0, 0, 1]]
    wrong = np.column_stack([draws.integers(1, 4, count)] * 2 + [draws.integers(1, 4, count)])
    answers = np.asarray(["ABCD"[0 if ok else at] for ok, at in zip(columns.flat, wrong.flat, strict=True)])
    gold = draws.integers(0, 4, count)
    moved = [chr(65 + (ord(a) - 65 + gold[i // 3]) % 4) for i, a in enumerate(answers)]
    nothing = np.full(3, np.nan)
    return OutcomeSet(
        "team",
        tuple(Question(str(i), f"Question {i}?", ("a", "b", "c", "d")) for i in range(count)),
        ("copy", "original", "other"),
        columns.astype(np.float64),
        np.asarray(moved, dtype=object).reshape(count, 3),
        np.full((count, 3), np.nan),
        nothing,
        nothing,
        np.where(columns, 50.0, 500.0),
    )


def learned_accuracy(outcomes: OutcomeSet, asked: Sequence[int]) -> float:
    half, everyone = len(outcomes) // 2, np.tile(np.asarray(asked, dtype=np.intp), (len(outcomes), 1))
    chances = np.full(outcomes.scores.shape, 0.6)
    first, second = np.arange(half), np.arange(half, len(outcomes))
    made = Learned().fit(Lessons(outcomes.rows(first), chances[first], everyone[first]))
    return float(made.scores(outcomes.rows(second), everyone[second], chances[second]).mean())


def test_learned_uses_lengths_where_they_tell() -> None:
    outcomes = team_outcomes()
    unknown = OutcomeSet(**(vars(outcomes) | {"tokens": None}))
    assert learned_accuracy(outcomes, (0, 1, 2)) == outcomes.scores[200:].max(axis=1).mean()
    assert learned_accuracy(unknown, (0, 1, 2)) < learned_accuracy(outcomes, (0, 1, 2))


def test_learned_hears_only_those_asked() -> None:
    outcomes = team_outcomes()
    assert learned_accuracy(outcomes, (2, -1, -1)) == outcomes.scores[200:, 2].mean()


def test_learned_takes_the_best_ranked_where_nothing_can_be_learned() -> None:
    outcomes = team_outcomes(40)
    hopeless = OutcomeSet(**(vars(outcomes) | {"scores": np.zeros_like(outcomes.scores)}))
    assert learned_accuracy(hopeless, (1, 2)) == 0.0


def test_answers_are_numbered_by_position_or_within_their_question() -> None:
    outcomes = team_outcomes(1)
    told = np.asarray([["B", "12", None]], dtype=object)
    assert answer_numbers(OutcomeSet(**(vars(outcomes) | {"answers": told}))).tolist() == [[1, 10, -1]]


# ---------------------------------------------------------------- in stages


def lessons(outcomes: OutcomeSet, chance: float = 0.6) -> Lessons:
    """The first half; everybody would be asked, "other" and "copy" first."""
    half = np.arange(len(outcomes) // 2)
    asked = np.tile(np.asarray([2, 0, 1], dtype=np.intp), (len(half), 1))
    return Lessons(outcomes.rows(half), np.full((len(half), 3), chance), asked)


def test_asking_in_stages_asks_no_more_than_wanted_and_fewer_where_answers_are_sure() -> None:
    outcomes = team_outcomes(600)
    taught, rest = lessons(outcomes), np.arange(300, 600)
    part, chances, asked = outcomes.rows(rest), np.full((300, 3), 0.6), taught.asked
    made = InStages(mean_experts=1.6).fit(taught)
    kept = made.asked_of(part, asked, chances)
    assert (kept[:, 0] == 2).all(), "the best ranked is asked first"
    assert 1.0 < (kept >= 0).sum(axis=1).mean() < 1.75
    always = Learned().fit(taught).scores(part, asked, chances).mean()
    assert made.scores(part, kept, chances).mean() > always - 0.05
    alone = part.scores[:, 2].mean()
    assert made.scores(part, kept, chances).mean() > alone + 0.05


def test_a_clear_router_asks_one_expert_and_nothing_is_left_to_learn() -> None:
    outcomes = team_outcomes(200)
    taught = lessons(outcomes, chance=0.95)
    made = InStages().fit(taught)
    kept = made.asked_of(taught.outcomes, taught.asked, taught.probabilities)
    assert ((kept >= 0).sum(axis=1) == 1).all()


def test_the_comparison_has_a_line_for_each_way_and_its_reference(tmp_path: Path) -> None:
    outcomes = team_outcomes(240)
    vectors = np.random.default_rng(0).normal(size=(240, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    plans = [Plan(cross_folds(outcomes.questions, 3, seed), ("static",), (), (3,), seed) for seed in (0, 1)]
    studies = [Study(outcomes, vectors, plan) for plan in plans]
    ways = [*usual_ways((3,), mean_experts=1.5), *ablation(3)]
    rows = {row.way: row for row in compared(studies, "static", ways)}
    assert rows["learned, 3"].to_reference == (0.0, 0.0, 0.0)
    assert rows["best single"].to_best_single == (0.0, 0.0, 0.0)
    assert rows["adaptive, at most 3"].mean_experts < 1.8
    assert rows["vote, 3"].mean_experts == 3.0
    assert rows["learned, 3, without lengths"].accuracy < rows["learned, 3"].accuracy
    assert "| vote of all | 3.00 |" in table(list(rows.values()))


def test_ways_to_combine_need_recorded_answers() -> None:
    outcomes = OutcomeSet(**(vars(team_outcomes(60)) | {"answers": None}))
    plan = Plan(cross_folds(outcomes.questions, 2, 0), ("static",), (), (3,))
    with pytest.raises(ConfigError, match="no answers to combine"):
        compared(
            [Study(outcomes, np.zeros((60, 4), dtype=np.float32), plan)], "static", usual_ways((3,), 2.0)
        )


def test_top_p_asks_within_its_budget_and_more_only_where_the_router_is_unsure() -> None:
    right = np.random.default_rng(1).random((400, 3)) < 0.6
    letters = np.where(right, "A", np.asarray(["B", "C", "D"])).astype(object)  # wrong ones never agree
    outcomes = replace(team_outcomes(), scores=right.astype(np.float64), answers=letters)
    everyone = np.tile(np.arange(3), (len(outcomes), 1))
    chances = np.full(outcomes.scores.shape, 0.5)
    chances[::2] = [0.9, 0.6, 0.6]
    made = ByMass(2.0).fit(Lessons(outcomes, chances, everyone))
    asked = (made.asked_of(outcomes, everyone, chances) >= 0).sum(axis=1)
    assert set(asked[::2]) == {1}
    assert set(asked[1::2]) == {3}, "two votes are no better than one"
    frugal = ByMass(1.0).fit(Lessons(outcomes, chances, everyone))
    assert set((frugal.asked_of(outcomes, everyone, chances) >= 0).sum(axis=1)) == {1}


def test_top_p_passes_over_who_is_not_there() -> None:
    asked = by_mass(np.asarray([[2, 0, -1]]), np.full((1, 3), 0.5), 1.0, 0.9)
    assert asked.tolist() == [[2, 0, -1]]


@pytest.mark.slow
def test_a_run_has_top_p_beside_the_fixed_numbers() -> None:
    outcomes = team_outcomes(120)
    vectors = np.eye(len(outcomes), dtype=np.float32)
    plan = Plan(cross_folds(outcomes.questions, 3, 0), ("static",), ("vote",), (1,), top_p=(0.4, 1.0))
    few, many = (row for row in all_rows(Study(outcomes, vectors, plan)) if row.top_p is not None)
    assert (few.router, few.top_p, few.experts_per_query, few.default) == ("top-p", 0.4, 3, False)
    assert 1 <= few.mean_experts <= many.mean_experts <= 3  # type: ignore[operator]


@pytest.mark.slow
def test_a_run_has_the_default_in_stages_and_what_it_is_held_against() -> None:
    outcomes = team_outcomes(120)
    priced = OutcomeSet(**(vars(outcomes) | {"costs": np.tile([0.001, 0.001, 0.002], (120, 1))}))
    plan = Plan(cross_folds(outcomes.questions, 2, 0), ("static",), ("vote",), (1, 3))
    study = Study(priced, np.eye(120, 4, dtype=np.float32), plan)
    rows = {(row.router, row.aggregator): row for row in all_rows(study)}
    adaptive, everybody = rows["adaptive", "learned"], rows["everybody", "vote"]
    assert adaptive.to_fixed is not None
    assert "always 3" in adaptive.note
    assert 1.0 <= (adaptive.mean_experts or 0.0) <= 3.0
    assert everybody.mean_experts == 3.0
    single = rows["best single", "first"]
    assert (single.mean_experts, single.note.startswith("costs no more than the default")) == (1.0, True)
    assert "not samples" in rows["best single", "self_consistency"].note


def test_the_single_expert_for_a_price_is_the_best_that_one_can_pay() -> None:
    outcomes = team_outcomes(120)
    scores = np.column_stack([np.zeros(120), np.ones(120), np.zeros(120)])
    priced = OutcomeSet(
        **(vars(outcomes) | {"scores": scores, "costs": np.tile([0.002, 0.004, 0.001], (120, 1))})
    )
    plan = Plan(cross_folds(outcomes.questions, 2, 0), ("static",), ("vote",), (1,))
    study = Study(priced, np.zeros((120, 4), dtype=np.float32), plan)
    bought = {usd: next(names(study, single_within(study, usd))) for usd in (0.01, 0.0005)}
    assert bought == {0.01: "original", 0.0005: "other"}, "the best, else the cheapest"
