"""A small outcome set whose experts have known strengths, and a registry of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coe.outcomes.outcome_set import OutcomeSet, Question
from coe.profiles.outcomes import Recorded, Source, recorded
from coe.registry.schema import Registry
from coe.routers.learning.evidence import Evidence

CATEGORIES = ("law", "maths", "biology")
ABILITY = {
    "lawyer": (0.8, 0.3, 0.5),
    "counter": (0.3, 0.8, 0.4),
    "all-round": (0.5, 0.5, 0.6),
    "weak": (0.2, 0.2, 0.2),
    "newcomer": (0.4, 0.7, 0.9),
}


def outcome_set(count: int = 240, seed: int = 0, split: str = "dev") -> OutcomeSet:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CATEGORIES)
    ease = rng.normal(0, 0.15, count)
    chance = np.clip(np.asarray(list(ABILITY.values()))[:, labels].T + ease[:, None], 0.02, 0.98)
    unknown = np.full(len(ABILITY), np.nan)
    return OutcomeSet(
        name="made",
        questions=tuple(
            Question(f"q{i}", f"question {i}", category=CATEGORIES[label], split=split)
            for i, label in enumerate(labels)
        ),
        experts=tuple(ABILITY),
        scores=(rng.random(chance.shape) < chance).astype(np.float64),
        answers=None,
        costs=np.full(chance.shape, np.nan),
        active_b=unknown,
        parameters_b=unknown,
    )


def vectors_of(outcomes: OutcomeSet, seed: int = 0) -> np.ndarray:
    """Near the axis of the question's category."""
    labels = [CATEGORIES.index(question.category) for question in outcomes.questions]
    rows = np.eye(8)[labels] + np.random.default_rng(seed).normal(0, 0.15, (len(labels), 8))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def data(count: int = 240) -> Recorded:
    outcomes = outcome_set(count)
    return recorded(outcomes, vectors_of(outcomes), "minilm", Source("made"))


def registry_of(*experts: str, **fields: object) -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "api", "kind": "remote", "url": "http://localhost:1/v1"}]},
            "experts": [{"id": expert, "host": "api", "model": f"models/{expert}"} for expert in experts],
            "profiles": ["profiles"],
        }
        | fields
    )


def choice_data(count: int = 60) -> Recorded:
    made = outcome_set(count)
    questions = tuple(
        replace(q, options=("one", "two"), gold="B" if i % 4 else "A") for i, q in enumerate(made.questions)
    )
    made = replace(made, questions=questions)
    return recorded(made, vectors_of(made), "minilm", Source("made"))


def known_and_newcomer(count: int = 600) -> tuple[Evidence, np.ndarray]:
    made = data(count)
    known = made.evidence(["lawyer", "counter", "all-round", "weak"])
    return known, made.outcomes.scores[:, made.outcomes.experts.index("newcomer")]
