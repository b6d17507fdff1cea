"""A question far from all that is known goes to the general expert, whatever the router; others do not.

The demonstration's pool: its cards, and profiles on its training wordings with outcomes drawn by rule. What
is asked shares no wording with what routers learn from.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.general_questions import (
    LEARNED,
    demo_views,
    drawn_profiles,
    own_questions,
    own_right,
    to_general,
)
from coe.core.decision import decide
from coe.core.types import ExpertView, Ranked, Router, Rule
from coe.routers import router_class
from coe.routers.base import Setting
from coe.routers.encoders.encoder import Encoders
from coe.routers.learning.evidence import Evidence
from coe.routers.learning.familiarity import FAR, Familiarity, everyday, unless_far
from tests.support.general_questions import greetings, next_to_nothing, off_topic

VIEWS = demo_views()
NO_GENERAL = [replace(view, general=False) for view in VIEWS]
GENERAL_QUESTIONS = {
    "greetings": greetings(),
    "next to nothing": next_to_nothing(),
    "off topic": off_topic(),
}


@cache
def encoders() -> Encoders:
    return Encoders()


@cache
def profiles(encoder: str) -> Evidence:
    return drawn_profiles(encoders().open(encoder, Path()))


def built(kind: str, evidence: Evidence | None, encoder: str = "minilm", **options: Any) -> Router:
    cls: Any = router_class(kind)
    setting = Setting(experts=tuple(VIEWS), evidence=evidence, encoders=encoders())
    router: Router = cls("mine", cls.options_type(encoder=encoder, **options), setting)
    return router


def test_the_questions_asked_are_not_those_learned_from() -> None:
    known = {text.casefold().strip() for text in everyday()}
    assert len(known) > 200
    asked = [text for texts in GENERAL_QUESTIONS.values() for text in texts]
    assert not [text for text in asked if text.casefold().strip() in known]


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEARNED)
def test_with_profiles_what_is_far_goes_to_the_general_expert(kind: str) -> None:
    """Of 270 own questions a kind loses about .01: see docs/measurements/routing-results.md."""
    router = built(kind, profiles("minilm"))
    found = {name: to_general(router, texts) for name, texts in GENERAL_QUESTIONS.items()}
    assert min(found.values()) >= 0.9, found
    assert own_right(router, VIEWS) >= own_right(router, NO_GENERAL) - 0.015


@pytest.mark.slow
def test_with_examples_too() -> None:
    router = built("category", None, examples="package:demo")
    found = {name: to_general(router, texts) for name, texts in GENERAL_QUESTIONS.items()}
    assert min(found.values()) >= 0.9, found
    assert own_right(router, VIEWS) >= own_right(router, NO_GENERAL) - 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["category", "knn"])
def test_with_cards_alone_too(kind: str) -> None:
    """A card tells less of what belongs to it: see docs/measurements/routing-results.md."""
    router = built(kind, None)
    found = {name: to_general(router, texts) for name, texts in GENERAL_QUESTIONS.items()}
    assert min(found.values()) >= 0.9, found
    assert own_right(router, VIEWS) >= own_right(router, NO_GENERAL) - 0.03


@pytest.mark.parametrize("kind", ["knn", "category"])
@pytest.mark.parametrize("with_profiles", [True, False])
def test_the_decision_says_so(kind: str, with_profiles: bool) -> None:
    router = built(kind, profiles("static") if with_profiles else None, "static")
    for text in ("hello there", "Which novel should I read on the beach?"):
        decision = router.route(text, VIEWS)
        assert decision.expert == "base"
        chances = {each.expert: each.probability for each in decision.ranking}
        assert decision.confidence == chances["base"] == max(chances.values())
        assert all(0 <= chance <= 1 for chance in chances.values())
    own = router.route("What is 12 + 31?", VIEWS)
    assert own.expert == "arithmetic"
    assert own.confidence > {each.expert: each.probability for each in own.ranking}["base"]


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("with_profiles", [True, False])
def test_without_a_general_expert_nothing_is_far(
    kind: str, with_profiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = built(kind, profiles("static") if with_profiles else None, "static")
    before = [router.route(text, NO_GENERAL) for text in ("hello", "What is 3 + 4?", "spell tree")]
    monkeypatch.setattr(Familiarity, "of", lambda _, vectors, *__, **___: np.zeros((len(vectors), 1)))
    after = [router.route(text, NO_GENERAL) for text in ("hello", "What is 3 + 4?", "spell tree")]
    assert [each.ranking for each in before] == [each.ranking for each in after]
    assert [each.chosen for each in before] == [each.chosen for each in after]
    assert router.route("spell tree", VIEWS).expert == "base"


def test_a_newcomer_without_a_profile_is_known_by_its_card() -> None:
    cook = ExpertView("cook", card="Cooking: recipes, ingredients, baking times and oven temperatures.")
    router = built("knn", profiles("static"), "static")
    question = "What are the ingredients of this baking recipe?"
    assert router.route(question, VIEWS).expert == "base"
    beside = {each.expert: each.probability for each in router.route(question, [*VIEWS, cook]).ranking}
    assert beside["cook"] > beside["base"]


def test_a_budget_is_kept_when_a_question_is_far() -> None:
    ranking = (Ranked("a", 0.5), Ranked("general", 0.4), Ranked("b", 0.3))
    rule = Rule(general=("general",), prefers=lambda _: ("b", "a"), why="budget", phrase="{expert} is hosted")
    far, near = unless_far(rule, FAR - 0.1), unless_far(rule, FAR)
    assert decide("r", ranking, "x", far).expert == "general"
    assert "far from all that is known" in decide("r", ranking, "x", far).reason
    assert near is rule
    kept = decide("r", ranking, "x", replace(far, among=frozenset({"a", "b"})))
    assert kept.expert == "a"


@pytest.mark.parametrize("count", [60, 180])
def test_hardly_a_known_question_counts_as_far(count: int) -> None:
    model = encoders().open("static", Path())
    texts, skills = zip(*own_questions(), strict=True)
    order = np.random.default_rng(count).permutation(len(texts))
    taught, asked = order[:count], order[count:]
    vectors = model.encode(texts)
    known = Familiarity(model, vectors[taught], [skills[i] for i in taught])
    nothing = np.zeros((0, vectors.shape[1]), dtype=np.float32)
    shares = known.of(vectors[asked], nothing)
    assert (shares < FAR).mean() <= 0.03
    assert shares.mean() > 0.9
    assert (known.of(model.encode(greetings()), nothing) < FAR).mean() > 0.7
