"""Few labels: what other models did on other questions says in which directions an expert may differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coe.eval.recorded.default import Choice, choose_default
from coe.eval.recorded.few import drawn, gains
from coe.onboarding.profiler import Probes, profile_recorded
from coe.outcomes.outcome_set import OutcomeSet, Question
from coe.profiles.evidence import evidence_of
from coe.profiles.store import open_store
from coe.routers.learning.evidence import Evidence
from coe.routers.transfer import TransferEstimator
from tests.support.profiles import data, registry_of

DIRECTIONS = 24


def made(count: int, experts: int, seed: int, prefix: str = "e") -> Evidence:
    """Half of the experts are better where the first number of a question's vector is above 0, the others
    where it is below; the other numbers say nothing."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(0, 1, (count, DIRECTIONS))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sides = np.where(np.arange(experts) % 2 == 0, 1.0, -1.0)
    chance = 0.5 + 0.35 * np.sign(vectors[:, :1]) * sides
    scores = (rng.random((count, experts)) < chance).astype(np.float32)
    return Evidence(
        ids=tuple(f"{prefix}{seed}-{i}" for i in range(count)),
        categories=tuple("ab"[int(row[0] > 0)] for row in vectors),
        vectors=vectors.astype(np.float32),
        experts=tuple(f"{prefix}{j}" for j in range(experts)),
        scores=scores,
        counts=np.ones_like(scores),
    )


def right_side(estimator: TransferEstimator, asked: Evidence) -> float:
    """Share of questions on which the likeliest expert is of the better half."""
    likeliest = estimator.estimate([""] * len(asked), asked.vectors).argmax(axis=1)
    return float(((likeliest % 2 == 0) == (asked.vectors[:, 0] > 0)).mean())


def test_known_models_make_few_answers_enough() -> None:
    asked, few = made(500, 4, seed=1), made(24, 4, seed=2)
    alone = right_side(TransferEstimator().fit(few), asked)
    told = right_side(
        TransferEstimator().fit(replace(few, reference=made(2000, 8, seed=3, prefix="k"))), asked
    )
    assert told > 0.9
    assert told > alone + 0.1


def test_with_many_answers_known_models_are_not_needed() -> None:
    asked, many = made(500, 4, seed=1), made(3000, 4, seed=2)
    assert right_side(TransferEstimator().fit(many), asked) > 0.9


def test_misleading_models_are_found_out_by_the_answers() -> None:
    """The known models differ where the experts do not."""
    reference = made(2000, 8, seed=3, prefix="k")
    elsewhere = replace(reference, vectors=np.roll(reference.vectors, 1, axis=1))
    many, asked = made(3000, 4, seed=2), made(500, 4, seed=1)
    assert right_side(TransferEstimator().fit(replace(many, reference=elsewhere)), asked) > 0.85


def test_profiles_of_others_are_the_reference_of_a_registrys_experts(tmp_path: Path) -> None:
    everybody = registry_of("lawyer", "counter", "all-round", "weak", "newcomer")
    for expert in everybody.experts:
        profile_recorded(everybody, tmp_path, expert, data(), Probes())
    few = registry_of("lawyer", "counter")
    found = evidence_of(open_store(few, tmp_path), few.experts)
    assert found is not None
    assert found.reference is not None
    assert (found.experts, set(found.reference.experts)) == (
        ("lawyer", "counter"),
        {"all-round", "weak", "newcomer"},
    )
    assert found.rows(np.arange(5)).reference is found.reference
    most = registry_of("lawyer", "counter", "all-round", "weak")
    alone = evidence_of(open_store(most, tmp_path), most.experts)
    assert alone is not None
    assert alone.reference is None, "one model does not say how models differ"


# The study


def outcome_set(of: Evidence) -> OutcomeSet:
    unknown = np.full(len(of.experts), np.nan)
    questions = tuple(
        Question(i, f"words {i}", category=c) for i, c in zip(of.ids, of.categories, strict=True)
    )
    return OutcomeSet(
        "made",
        questions,
        of.experts,
        of.scores.astype(np.float64),
        None,
        np.full(of.scores.shape, np.nan),
        unknown,
        unknown,
    )


def test_labels_are_drawn_alike_of_each_category_and_never_asked() -> None:
    questions = outcome_set(made(400, 3, seed=5)).questions
    fold = drawn(questions, 40, 100, seed=0)
    categories = [questions[i].category for i in fold.train]
    assert (categories.count("a"), categories.count("b"), len(fold.test)) == (20, 20, 100)
    assert not set(fold.train) & set(fold.test)
    assert drawn(questions, 40, 100, seed=1).train.tolist() != fold.train.tolist()


def test_gains_are_told_for_every_way_that_needs_no_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(300, 8, seed=6)
    pool, others = outcome_set(whole.only(whole.experts[:3])), outcome_set(whole.only(whole.experts[3:]))
    monkeypatch.setattr("coe.eval.recorded.few.question_vectors", lambda *_: whole.vectors)
    found = {gain.way: gain for gain in gains(pool, others, "static", 60, (0, 1), tested=100)}
    assert set(found) == {"transfer, 1", "category, 1", "default, 1"}, (
        "nothing is recorded that could be voted on"
    )
    assert found["transfer, 1"].mean > 15


@pytest.mark.parametrize(("sees", "chosen"), [(1.0, "transfer"), (-1.0, "static")])
def test_of_few_questions_the_default_takes_what_is_expected_to_gain(sees: float, chosen: str) -> None:
    few = made(200, 2, seed=7)
    side = np.where(few.vectors[:, 0] > 0, 0.2, -0.2) * sees
    held_out = {"transfer": np.stack([0.5 + side, 0.5 - side], axis=1)}
    static = np.tile([0.5, 0.4], (200, 1))
    choice = choose_default(outcome_set(few), 1, lambda name: held_out.get(name, static), 0, related=True)
    assert choice == Choice(chosen)
