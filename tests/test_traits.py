"""Subject and form together: what the traits estimator finds and a sum of both cannot."""

from __future__ import annotations

import numpy as np

from coe.routers.learning.evidence import Evidence, Matrix
from coe.routers.learning.features import text_features
from coe.routers.linear import LinearEstimator
from coe.routers.traits import TraitsEstimator

SUBJECTS = ("law", "physics")
STEMS = {"law": "court judge verdict appeal", "physics": "mass force energy field"}
COUNT = 400


def crossed() -> tuple[Evidence, list[str], list[int]]:
    """Expert 0 is good at law with numbers and at physics in prose, expert 1 at the other two."""
    draws = np.random.default_rng(3)
    texts, categories, better = [], [], []
    for i in range(COUNT):
        subject, numeric = SUBJECTS[i % 2], bool(i // 2 % 2)
        stem = " ".join(draws.choice(STEMS[subject].split(), 3))
        options = draws.integers(10, 99, 4) if numeric else draws.choice(["red", "blue", "green"], 4)
        texts.append(
            "\n".join([stem, *(f"{letter}. {o}" for letter, o in zip("ABCD", options, strict=True))])
        )
        categories.append(subject)
        better.append(int(numeric == (subject == "physics")))
    chance = np.where(np.arange(2) == np.asarray(better)[:, None], 0.8, 0.3)
    scores = (draws.random((COUNT, 2)) < chance).astype(np.float32)
    made = Evidence(
        ids=tuple(f"q{i}" for i in range(COUNT)),
        categories=tuple(categories),
        vectors=vectors_of(categories),
        experts=("first", "second"),
        scores=scores,
        counts=np.ones_like(scores),
        features=text_features(texts),
    )
    return made, texts, better


def vectors_of(categories: list[str]) -> Matrix:
    """Subject and noise: form is not in the vectors."""
    rows = np.random.default_rng(4).normal(scale=0.1, size=(len(categories), 8)).astype(np.float32)
    rows[np.arange(len(categories)), [SUBJECTS.index(category) for category in categories]] += 1.0
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def share_found(estimates: Matrix, better: list[int]) -> float:
    return float((estimates.argmax(axis=1) == np.asarray(better)).mean())


def test_form_that_means_the_opposite_in_another_subject_is_found() -> None:
    known, texts, better = crossed()
    learned = known.rows(np.arange(300))
    asked, vectors, right = texts[300:], known.vectors[300:], better[300:]
    assert share_found(TraitsEstimator().fit(learned).estimate(asked, vectors), right) > 0.9
    assert share_found(LinearEstimator().fit(learned).estimate(asked, vectors), right) < 0.75


def test_estimates_of_learned_questions_were_made_without_them() -> None:
    known, texts, better = crossed()
    noise = np.random.default_rng(5).permutation(COUNT)
    shuffled = Evidence(**{**vars(known), "scores": known.scores[noise]})
    left_out = TraitsEstimator().fit(shuffled).cross_fitted_
    chosen = shuffled.scores[np.arange(COUNT), left_out.argmax(axis=1)]
    assert abs(chosen.mean() - shuffled.scores.mean()) < 0.06
    assert len(texts) == len(better)


def test_without_features_it_learns_from_vectors_alone() -> None:
    known, texts, _ = crossed()
    blind = Evidence(**{**vars(known), "features": None})
    estimates = TraitsEstimator().fit(blind).estimate(texts[:3], known.vectors[:3])
    assert np.isfinite(estimates).all()


def test_the_same_evidence_gives_the_same_estimates() -> None:
    known, texts, _ = crossed()
    first, second = (TraitsEstimator().fit(known).estimate(texts[:5], known.vectors[:5]) for _ in range(2))
    assert (first == second).all()
