"""Routers: the contract, the category router's decisions and its accuracy on unseen wordings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from coe.core.errors import ConfigError, RoutingError
from coe.core.types import Decision, ExpertView, Ranked, Router
from coe.demo.questions import held_out_questions
from coe.demo.skills import all_skills
from coe.registry.schema import Expert, RouterSpec
from coe.routers import build_router
from coe.routers.base import RouterOptions, Setting
from coe.routers.category import CategoryOptions, CategoryRouter, read_examples
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.category_classifier import CategoryClassifier
from coe.testing.conformance_router import RouterContractError, check_router

BASE = Expert(id="base", host="slot", model="m", card="General chat and everything else.", general=True)
SPECIALISTS = [
    Expert(id=skill.name, host="slot", model="m", card=skill.card, skills=(skill.name,))
    for skill in all_skills()
]
EXPERTS = [BASE, *SPECIALISTS]
VIEWS = [expert.view() for expert in EXPERTS]
DEMO = {"examples": "package:demo", "low_confidence": 0.35}


class WordEncoder:
    """One dimension for each word seen, so that cosines are those of shared words. No model."""

    identity = "words"

    def __init__(self) -> None:
        self._words: dict[str, int] = {}

    def encode(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), 256), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[self._words.setdefault(word, len(self._words) + 1)] = 1.0
            row[0] = 0.01  # no text is without direction
            row /= np.linalg.norm(row)
        return rows


def built(kind: str, options: Mapping[str, Any] | None = None) -> Router:
    return build_router(RouterSpec(name="mine", kind=kind, options=dict(options or {})), EXPERTS, Path())


@pytest.fixture(scope="session")
def demo_router() -> Router:
    return built("category", DEMO)


@pytest.fixture(scope="session")
def card_router() -> Router:
    return built("category")


@pytest.fixture(params=["demo", "cards", "static", "random"])
def any_router(request: pytest.FixtureRequest) -> Router:
    if request.param == "demo":
        return request.getfixturevalue("demo_router")  # type: ignore[no-any-return]
    if request.param == "cards":
        return request.getfixturevalue("card_router")  # type: ignore[no-any-return]
    return built("static", {"expert": "base"}) if request.param == "static" else built("random")


# The contract


@pytest.mark.slow
def test_builtin_router_keeps_the_contract(any_router: Router) -> None:
    check_router(any_router, VIEWS)


class Bad:
    """A router that ranks an expert which was not passed in."""

    name = "bad"

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        return Decision("bad", (Ranked("stranger", 1.0),), ("stranger",), 1.0, "because")


def test_conformance_check_finds_a_broken_router() -> None:
    with pytest.raises(RouterContractError, match="passed in"):
        check_router(Bad(), VIEWS)


# Building by name


class PlugInOptions(RouterOptions):
    last: bool = False


class PlugIn:
    """A third party's router: the first or the last expert."""

    options_type: ClassVar[type[RouterOptions]] = PlugInOptions

    def __init__(self, name: str, options: PlugInOptions, setting: Setting) -> None:
        self.name, self._last = name, options.last

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        chosen = experts[-1 if self._last else 0].id
        return Decision(self.name, (Ranked(chosen, 1.0),), (chosen,), 1.0, "its place in the list")


def test_plug_in_is_built_and_checked_like_a_builtin() -> None:
    router = built(f"{__name__}:PlugIn", {"last": True})
    check_router(router, VIEWS)
    assert router.route("hello", VIEWS).expert == VIEWS[-1].id


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("categori", {}, 'did you mean "category"'),
        ("no.such.module:Router", {}, "cannot be imported"),
        (f"{__name__}:Missing", {}, "cannot be imported"),
        (f"{__name__}:BASE", {}, "no router class"),
        (f"{__name__}:PlugIn", {"lst": True}, "lst"),
        ("random", {"seed": "one"}, "seed"),
        ("static", {}, "expert"),
        ("static", {"expert": "bse"}, 'did you mean "base"'),
        ("category", {"encoder": "no/such/folder"}, "sentence-transformers"),
        ("category", {"examples": "absent.jsonl"}, "cannot be read"),
    ],
)
def test_router_that_cannot_be_built_is_explained(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(kind, options)


# Static and random


def test_static_router_refuses_when_its_expert_is_gone() -> None:
    with pytest.raises(RoutingError, match="base"):
        built("static", {"expert": "base"}).route("hello", VIEWS[1:])


def test_random_router_repeats_its_sequence_from_a_seed_and_spreads() -> None:
    one, other = built("random", {"seed": 3}), built("random", {"seed": 3})
    sequence = [one.route("x", VIEWS).expert for _ in range(400)]
    assert sequence == [other.route("x", VIEWS).expert for _ in range(400)]
    assert all(count > 15 for count in Counter(sequence).values())
    assert len(set(sequence)) == len(VIEWS)


# The category router's decisions, on a toy encoder


def toy(examples: Path | None = None, **options: Any) -> CategoryRouter:
    chosen = CategoryOptions(examples=str(examples) if examples else None, **options)
    return CategoryRouter("toy", chosen, Setting(root=Path()), encoder=WordEncoder())


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts = {
        "sums": ["add 3 and 4", "sum of 5 and 6", "add 7 plus 2", "sum 1 plus 9"],
        "dates": ["weekday after monday", "month before june", "weekday before friday", "month after may"],
    }
    rows = [{"text": text, "category": name} for name, group in texts.items() for text in group]
    file = tmp_path / "examples.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return file


SUMS = ExpertView("adder", card="adds numbers", skills=("sums",))
DATES = ExpertView("calendar", card="knows dates", skills=("dates",))
GENERAL = ExpertView("general", card="anything", general=True)


def test_category_decides_and_the_reason_can_be_read(examples: Path) -> None:
    decision = toy(examples).route("add 8 and 8", [SUMS, DATES, GENERAL])
    assert decision.expert == "adder"
    assert decision.reason.startswith("category sums 0.")
    assert 'nearest example "add 3 and 4"' in decision.reason
    assert "runner-up dates 0." in decision.reason
    assert decision.runner_up == "calendar"


def test_doubt_goes_to_the_general_expert(examples: Path) -> None:
    decision = toy(examples, low_confidence=0.99).route("add 8 and 8", [SUMS, DATES, GENERAL])
    assert decision.expert == "general"
    assert decision.confidence < 0.99
    assert "unsure" in decision.reason


def test_doubt_without_a_general_expert_goes_to_the_likeliest(examples: Path) -> None:
    assert toy(examples, low_confidence=0.99).route("add 8 and 8", [SUMS, DATES]).expert == "adder"


def test_category_of_no_expert_goes_to_the_general_expert(examples: Path) -> None:
    assert toy(examples).route("add 8 and 8", [DATES, GENERAL]).expert == "general"


def test_experts_come_and_go_without_learning_again(examples: Path) -> None:
    router = toy(examples)
    learned = router._classifier
    assert router.route("add 8 and 8", [DATES, GENERAL]).expert == "general"
    assert router.route("add 8 and 8", [DATES, GENERAL, SUMS]).expert == "adder"
    assert router._classifier is learned


def test_newcomer_without_examples_is_found_by_its_card(examples: Path) -> None:
    cook = ExpertView("cook", card="recipes to bake and fry", skills=("cooking",))
    router = toy(examples)
    decision = router.route("bake a cake and fry an egg", [SUMS, DATES, GENERAL, cook])
    assert decision.expert == "cook"
    assert "card of cook" in decision.reason
    assert router.route("add 8 and 8", [SUMS, DATES, GENERAL, cook]).expert == "adder"


def test_of_two_experts_with_a_skill_the_narrower_goes_first(examples: Path) -> None:
    wide = replace(SUMS, id="wide", skills=("sums", "poems"))
    assert toy(examples).route("add 8 and 8", [wide, SUMS, DATES]).chosen == ("adder",)


def test_without_examples_the_nearest_card_decides() -> None:
    decision = toy().route("who adds these numbers", [DATES, SUMS, GENERAL])
    assert decision.expert == "adder"
    assert "nearest card adder" in decision.reason


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["not json"], r":1: not JSON"),
        (['{"text": "a", "category": "x"}', '{"text": "b"}'], r":2: must be"),
        (['{"text": "a", "category": "x"}', "", "[1]"], r":3: must be"),
        (['{"text": "a", "category": "x"}'], "fewer than two categories"),
        ([], "fewer than two categories"),
    ],
)
def test_faulty_examples_name_the_line(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "e.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_examples("e.jsonl", tmp_path)


# Accuracy on the demonstration's held-out wordings


@pytest.mark.slow
def test_demo_questions_reach_the_right_specialist(demo_router: Router) -> None:
    questions = held_out_questions(per_skill=25)
    right = {q.id: demo_router.route(q.text, VIEWS).expert == q.skill for q in questions}
    by_skill = {
        skill.name: np.mean([right[q.id] for q in questions if q.skill == skill.name])
        for skill in all_skills()
    }
    ambiguous = np.mean([right[q.id] for q in questions if q.ambiguous])
    overall = np.mean(list(right.values()))
    print(f"router accuracy {overall:.3f}, ambiguous {ambiguous:.3f}, by skill {by_skill}")
    assert overall >= 0.95
    assert ambiguous >= 0.88
    assert min(by_skill.values()) >= 0.8


def test_router_examples_share_no_wording_with_held_out_questions() -> None:
    asked = {question.text for question in held_out_questions(per_skill=100)}
    assert not asked & {example.text for example in read_examples("package:demo", Path())}


@pytest.mark.parametrize(
    "text",
    ["Who is Albert Einstein?", "Tell me a story about a fox.", "Good evening!", "How do magnets work?"],
)
def test_general_questions_reach_the_general_expert(demo_router: Router, text: str) -> None:
    assert demo_router.route(text, VIEWS).expert == "base"


def test_cards_alone_find_most_specialists(card_router: Router) -> None:
    questions = [question for question in held_out_questions(per_skill=10) if not question.ambiguous]
    hits = [card_router.route(question.text, VIEWS).expert == question.skill for question in questions]
    print(f"router accuracy by cards alone, unambiguous questions: {np.mean(hits):.3f}")
    assert np.mean(hits) >= 0.5


# The classifier


@pytest.mark.parametrize("categories", [2, 3])
def test_classifier_gives_the_probabilities_of_scikit_learn(categories: int) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = ["add 3 and 4", "sum 1 plus 9", "weekday after monday", "a month a June", "bake a cake", "fry it"]
    texts, labels = texts[: 2 * categories], list("aabbcc")[: 2 * categories]
    vectors = WordEncoder().encode(texts)
    ngrams = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, preprocessor=lambda t: t.lower()
    )
    reference = LogisticRegression(C=30.0, max_iter=1000, class_weight="balanced")
    digitless = [
        text.replace("3", "0").replace("4", "0").replace("1", "0").replace("9", "0") for text in texts
    ]
    reference.fit(np.hstack([vectors, ngrams.fit_transform(digitless).toarray()]), labels)
    learned = CategoryClassifier().fit(texts, labels, vectors)
    for text in ["add a weekday I bake bake bake", "?", "zzz"]:
        vector = WordEncoder().encode([text])
        expected = reference.predict_proba(np.hstack([vector, ngrams.transform([text]).toarray()]))[0]
        assert list(learned.probabilities(text, vector).values()) == pytest.approx(
            expected.tolist(), abs=1e-6
        )
