"""Routers that learn: the contract, what they find in evidence, newcomers, and what they say."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coe.core.errors import ConfigError
from coe.core.types import Decision, ExpertView, Ranked, Router, RouterText
from coe.pipeline.utility import Preferences, relative_prices, weighed
from coe.registry.schema import Expert, RouterSpec
from coe.routers import BUILTINS, ESTIMATORS, build_router, estimator_class, router_class
from coe.routers.base import Setting
from coe.routers.blend import BlendEstimator
from coe.routers.category_budget import Budget, Sizes, best_map
from coe.routers.learning.calibration import PlattCalibrator, completed, fold_rows
from coe.routers.learning.evidence import Evidence
from coe.routers.learning.features import SURFACE, WORDS, surface, text_features
from coe.routers.learning.ridge import fit_ridge
from coe.routers.pilot import PilotEstimator
from coe.routers.skill import SkillEstimator
from coe.testing.conformance_router import check_router
from tests.support.choices import WordEncoder

TOPICS = {"sums": "add plus number total", "dates": "month week day year"}
ADDER = ExpertView("adder", card="adds numbers plus total", usd_per_mtok_out=1.0)
CALENDAR = ExpertView("calendar", card="knows the month week day year", usd_per_mtok_out=1.0)
PARROT = ExpertView("parrot", card="talks", parameters_b=1.0)
VIEWS = [ADDER, CALENDAR, PARROT]
LEARNING = (
    "category",
    "skill",
    "pilot",
    "instruction",
    "knn",
    "linear",
    "traits",
    "transfer",
    "cascade",
    "blend",
)


def evidence(encoder: WordEncoder, count: int = 160, *, with_features: bool = False) -> Evidence:
    """Two topics; each specialist is right on 85% of its own and 25% of the other, the parrot on 30%."""
    draws = np.random.default_rng(7)
    categories = tuple(("sums", "dates")[i % 2] for i in range(count))
    texts = [
        " ".join(draws.choice(TOPICS[topic].split(), 3)) + f" w{i % 5}" for i, topic in enumerate(categories)
    ]
    chance = {"sums": [0.85, 0.25, 0.3], "dates": [0.25, 0.85, 0.3]}
    scores = (draws.random((count, 3)) < [chance[topic] for topic in categories]).astype(np.float32)
    return Evidence(
        ids=tuple(f"q{i}" for i in range(count)),
        categories=categories,
        vectors=encoder.encode(texts),
        experts=("adder", "calendar", "parrot"),
        scores=scores,
        counts=np.ones_like(scores),
        encoder=encoder.identity,
        features=text_features(texts) if with_features else None,
    )


def built(kind: str, encoder: WordEncoder, known: Evidence | None, **options: Any) -> Router:
    cls = router_class(kind)
    setting = Setting(experts=tuple(VIEWS), evidence=known)
    return cls("mine", cls.options_type(**options), setting, encoder)  # type: ignore[call-arg]


@pytest.fixture
def encoder() -> WordEncoder:
    return WordEncoder()


# The contract


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEARNING)
@pytest.mark.parametrize("with_evidence", [True, False])
def test_learning_router_keeps_the_contract(kind: str, with_evidence: bool, encoder: WordEncoder) -> None:
    check_router(built(kind, encoder, evidence(encoder) if with_evidence else None), VIEWS)


def test_every_builtin_is_checked_somewhere() -> None:
    assert set(BUILTINS) == {*LEARNING, "static", "random", "oracle"}
    assert set(ESTIMATORS) == set(LEARNING) - {"cascade"}


def test_oracle_keeps_the_contract_and_knows(tmp_path: Path) -> None:
    (tmp_path / "o.jsonl").write_text(json.dumps({"text": "hello", "scores": {"parrot": 1}}))
    experts = [Expert(id=view.id, host="h", model="m") for view in VIEWS]
    oracle = build_router(
        RouterSpec(name="o", kind="oracle", options={"outcomes": "o.jsonl"}), experts, tmp_path
    )
    check_router(oracle, VIEWS)
    assert oracle.route("hello", VIEWS).expert == "parrot"
    (tmp_path / "o.jsonl").write_text('{"text": "hello"}')
    with pytest.raises(ConfigError, match=r"o\.jsonl:1: must be"):
        build_router(RouterSpec(name="o", kind="oracle", options={"outcomes": "o.jsonl"}), experts, tmp_path)


@pytest.mark.parametrize("kind", [*LEARNING, "oracle"])
def test_unknown_options_are_refused(kind: str) -> None:
    experts = [Expert(id="a", host="h", model="m")]
    with pytest.raises(ConfigError, match="nonsense"):
        build_router(RouterSpec(name="x", kind=kind, options={"nonsense": 1}), experts, Path())


# What is learned


@pytest.mark.parametrize("kind", LEARNING)
def test_specialists_get_their_questions(kind: str, encoder: WordEncoder) -> None:
    router = built(kind, encoder, evidence(encoder))
    assert router.route("add plus total", VIEWS).expert == "adder"
    assert router.route("month week year", VIEWS).expert == "calendar"


@pytest.mark.parametrize("name", [*ESTIMATORS])
def test_estimates_are_probabilities_near_the_truth(name: str, encoder: WordEncoder) -> None:
    estimator = estimator_class(name)().fit(evidence(encoder, 400))
    texts = ["add plus total", "month week year"]
    found = estimator.estimate(texts, encoder.encode(texts))
    assert found.shape == (2, 3)
    assert found[0, 0] == pytest.approx(0.85, abs=0.15)
    assert found[1, 1] == pytest.approx(0.85, abs=0.15)
    assert found[:, 2] == pytest.approx([0.3, 0.3], abs=0.15)
    assert estimator.cross_fitted_.shape == (400, 3)


@pytest.mark.parametrize("name", [*ESTIMATORS])
def test_held_out_estimates_do_not_know_the_outcome(name: str, encoder: WordEncoder) -> None:
    """On outcomes drawn at random nothing can be known, whatever was fitted."""
    known = evidence(encoder)
    noise = (np.random.default_rng(1).random(known.scores.shape) < 0.5).astype(np.float32)
    estimator = estimator_class(name)().fit(replace(known, scores=noise))
    agreement = np.corrcoef(estimator.cross_fitted_.ravel(), noise.ravel())[0, 1]
    assert agreement < 0.15


@pytest.mark.parametrize("name", [*ESTIMATORS])
def test_gaps_in_the_evidence_are_borne(name: str, encoder: WordEncoder) -> None:
    known = evidence(encoder)
    scores = known.scores.copy()
    scores[::3, 1] = np.nan
    scores[:, 2] = np.nan
    counts = np.isfinite(scores).astype(np.float32)
    estimator = estimator_class(name)().fit(replace(known, scores=scores, counts=counts))
    assert np.isfinite(estimator.estimate(["add"], encoder.encode(["add"]))).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["category", "linear", "traits", "blend"])
def test_wording_helps_where_vectors_say_nothing(name: str, encoder: WordEncoder) -> None:
    blind = replace(evidence(encoder, with_features=True), vectors=encoder.encode(["same"] * 160))
    estimator = estimator_class(name)().fit(blind)
    first, second = estimator.estimate(["add plus total", "month week year"], blind.vectors[:2])
    assert first.argmax() == 0
    assert second.argmax() == 1


def test_blend_gives_no_weight_to_what_knows_nothing(encoder: WordEncoder) -> None:
    known = evidence(encoder, 400)
    shuffled = np.random.default_rng(0).permutation(400)
    known = replace(known, categories=tuple(known.categories[i] for i in shuffled))
    blend = BlendEstimator(("category", "knn")).fit(known)
    weights = dict(zip(blend.parts, blend.difference_weights_, strict=True))
    assert weights["knn"] > 2 * weights["category"]


def test_weakest_skill_counts_more_than_the_sum(encoder: WordEncoder) -> None:
    known = evidence(encoder, 400)
    both = encoder.encode(["add plus month week"])
    by_sum = SkillEstimator(most=14, threshold=0.1).fit(known)._score_vectors(both)
    weakest = SkillEstimator(most=14, threshold=0.1, combination="weakest").fit(known)._score_vectors(both)
    assert weakest[0, 0] < by_sum[0, 0]


def test_max_and_mean_are_over_an_experts_own_pilots(encoder: WordEncoder) -> None:
    known = evidence(encoder)
    mean, most = (PilotEstimator(pooling).fit(known) for pooling in ("mean", "max"))  # type: ignore[arg-type]
    assert set(mean.groups_) == {"sums", "dates"}
    vector = encoder.encode(["add plus total"])
    assert (most.similarities(vector) >= mean.similarities(vector) - 1e-6).all()
    assert most.similarities(vector).argmax() == 0
    cosines = most.pilots_ @ vector[0]
    for expert in set(most.owners_.tolist()):
        own = cosines[most.owners_ == expert]
        assert most.similarities(vector)[0, expert] == pytest.approx(own.max())
        assert mean.similarities(vector)[0, expert] == pytest.approx(own.mean())


def test_a_better_expert_takes_pilots_over(encoder: WordEncoder) -> None:
    known = evidence(encoder)
    sums = np.asarray(known.categories) == "sums"
    ace = np.where(sums, 1.0, 0.0).astype(np.float32)[:, None]
    wider = replace(
        known,
        experts=(*known.experts, "ace"),
        scores=np.hstack([known.scores * np.where(sums, 0.5, 1.0)[:, None].astype(np.float32), ace]),
        counts=np.hstack([known.counts, np.ones_like(ace)]),
    )
    found = PilotEstimator().fit(wider)
    owners = {found.groups_[i]: set() for i in range(len(found.groups_))}  # type: dict[str, set[int]]
    for group, owner in zip(found.groups_, found.owners_.tolist(), strict=True):
        owners[group].add(owner)
    assert owners["sums"] == {3}
    assert 1 in owners["dates"]


def test_pilots_of_weak_experts_do_not_sink_a_strong_one(encoder: WordEncoder) -> None:
    """An expert without any speciality, right 60% everywhere, beside two that are right 35%."""
    known = evidence(encoder, 400)
    draws = np.random.default_rng(3)
    scores = (draws.random((400, 3)) < [0.35, 0.35, 0.6]).astype(np.float32)
    for pooling in ("mean", "max"):
        stated = PilotEstimator(pooling).fit(replace(known, scores=scores)).cross_fitted_  # type: ignore[arg-type]
        assert (stated.argmax(axis=1) == 2).mean() > 0.95
        assert np.abs(stated.mean(axis=0) - scores.mean(axis=0)).max() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_gaps_in_the_evidence_are_no_warning(kind: str, encoder: WordEncoder) -> None:
    known = evidence(encoder, with_features=True)
    scores = known.scores.copy()
    scores[::5], scores[:80, 1] = (
        np.nan,
        np.nan,
    )  # questions without any outcome; an expert asked half of them
    gappy = replace(known, scores=scores, counts=np.isfinite(scores).astype(np.float32))
    text = "add plus total"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimator_class(kind)().fit(gappy).estimate([text], encoder.encode([text]))
    assert found[0].argmax() == 0


# Experts without evidence


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEARNING)
def test_newcomer_is_found_by_its_card(kind: str, encoder: WordEncoder) -> None:
    cook = ExpertView("cook", card="bake fry cake egg", usd_per_mtok_out=1.0)
    decision = built(kind, encoder, evidence(encoder)).route("bake cake egg", [*VIEWS, cook])
    assert decision.expert == "cook"
    decision = built(kind, encoder, evidence(encoder)).route("add plus total", [*VIEWS, cook])
    assert decision.expert == "adder"


@pytest.mark.parametrize("kind", [kind for kind in LEARNING if kind != "category"])
def test_without_evidence_cards_decide_and_the_reason_says_what_to_do(
    kind: str, encoder: WordEncoder
) -> None:
    decision = built(kind, encoder, None).route("which month", [ADDER, CALENDAR])
    assert decision.expert == "calendar"
    assert "coe experts profile" in decision.reason


def test_evidence_of_another_encoder_is_refused(encoder: WordEncoder) -> None:
    with pytest.raises(ConfigError, match="another sentence encoder"):
        built("knn", encoder, replace(evidence(encoder), encoder="another"))


# Reasons


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("knn", ["nearest q", "(sums)"]),
        ("skill", ["skills sums"]),
        ("pilot", ["pilot sums"]),
        ("instruction", ["its best questions 0."]),
        ("linear", ["adder right 0.", "runner-up"]),
        ("blend", ["nearest q"]),
        ("category", ["category sums"]),
        ("traits", ["category sums"]),
    ],
)
def test_reason_can_be_read(kind: str, words: list[str], encoder: WordEncoder) -> None:
    reason = built(kind, encoder, evidence(encoder)).route("add plus total", VIEWS).reason
    assert all(word in reason for word in words), reason


@pytest.mark.parametrize("telling", [True, False])
def test_an_instruction_moves_probabilities_as_far_as_cards_have_held_true(
    telling: bool, encoder: WordEncoder
) -> None:
    """Whoever's card a text is near to is not right for that; only where the profiles say so."""
    known = evidence(encoder, 400)
    if not telling:
        draws = np.random.default_rng(2)
        known = replace(known, scores=(draws.random((400, 3)) < [0.3, 0.3, 0.6]).astype(np.float32))
    router: Any = built("instruction", encoder, known)
    for note in (ADDER.card, CALENDAR.card, "add plus number total", "garden"):
        without, with_note = (
            {each.expert: each.probability for each in decision.ranking}
            for decision in (
                router.route_with("w1 w2", VIEWS, RouterText(None)),
                router.route_with("w1 w2", VIEWS, RouterText(note)),
            )
        )
        assert all(0 <= chance <= 1 for chance in with_note.values())
        if not telling:
            assert max(abs(with_note[each] - without[each]) for each in without) < 0.05
        elif note == ADDER.card:
            assert with_note["adder"] - without["adder"] > with_note["calendar"] - without["calendar"]


# A cascade


def test_cascade_keeps_to_the_cheap_expert_unless_it_is_clearly_worse(encoder: WordEncoder) -> None:
    views = [replace(ADDER, usd_per_mtok_out=9.0), CALENDAR, PARROT]
    bold, careful = (built("cascade", encoder, evidence(encoder), give_up=loss) for loss in (0.9, 0.0))
    assert bold.route("add plus total", views).expert == "parrot"
    assert "cheaper" in bold.route("add plus total", views).reason
    assert careful.route("add plus total", views).expert == "adder"


# The pieces


def test_category_map_is_optimal_under_budgets() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.2, 0.5, 0.6]])
    shares = np.array([0.5, 0.5])
    sizes = Sizes(np.array([7.0, 7.0, 7.0]), np.array([7.0, 1.0, 7.0]), np.array([9.0, 1.0, np.nan]))
    assert best_map(scores, shares, sizes, Budget()).tolist() == [0, 2]
    assert best_map(scores, shares, sizes, Budget(total_parameters=14)).tolist() == [0, 2]
    assert best_map(scores, shares, sizes, Budget(total_parameters=7)).tolist() == [0, 0]
    assert best_map(scores, shares, sizes, Budget(average_active=4)).tolist() == [0, 1]
    assert best_map(scores, shares, sizes, Budget(average_price=1)).tolist() == [1, 1]
    with pytest.raises(ConfigError, match="keeps the budget"):
        best_map(scores, shares, sizes, Budget(total_parameters=6))


def test_calibrator_undoes_overconfidence() -> None:
    draws = np.random.default_rng(0)
    truth = draws.uniform(0.2, 0.8, (4000, 2)).astype(np.float32)
    right = (draws.random(truth.shape) < truth).astype(np.float32)
    odds = np.log(truth / (1 - truth))
    shouted = (1 / (1 + np.exp(-3 * odds - 1))).astype(np.float32)
    found = PlattCalibrator().fit(shouted, right, np.ones_like(right)).apply(shouted)
    assert np.abs(found - truth).mean() < 0.03


def test_ridge_leaves_each_row_out_exactly() -> None:
    draws = np.random.default_rng(0)
    inputs, targets = (draws.normal(size=(30, width)).astype(np.float32) for width in (4, 2))
    [fit] = fit_ridge(inputs, targets, [2.0])
    rest = np.arange(1, 30)
    # The closed form keeps the centring of all rows, hence the tolerance.
    [other] = fit_ridge(inputs[rest], targets[rest], [2.0])
    assert fit.left_out[0] == pytest.approx(other.predict(inputs[:1])[0], abs=0.02)


def test_copies_of_a_question_share_a_part() -> None:
    vectors = np.repeat(np.eye(10, dtype=np.float32), 2, axis=0)
    for rows in fold_rows(vectors, 5):
        assert {row // 2 for row in rows} == {row // 2 for row in rows if (row ^ 1) in rows}


def test_missing_scores_are_guessed_from_row_and_column(encoder: WordEncoder) -> None:
    scores = np.array([[1, 1, np.nan], [0, 0, np.nan], [1, 1, 1], [0, 0, 0]] * 10, dtype=np.float32)
    known = replace(evidence(encoder, 40), scores=scores, counts=np.isfinite(scores).astype(np.float32))
    filled = completed(known)
    assert filled[0, 2] > 0.6 > 0.4 > filled[1, 2]


def test_features_tell_form_not_digits() -> None:
    rows = text_features(
        ["What is 12 + 30?\nA. 42\nB. 43", "What is 77 + 10?\nA. 87\nB. 88", "Who was Kant?"]
    )
    assert rows.shape == (3, WORDS + SURFACE)
    words = rows[:, :WORDS].toarray()
    assert words[0] == pytest.approx(words[1])
    assert abs(float(words[0] @ words[2])) < 0.5
    assert len(surface("any")) == SURFACE


def test_category_map_keeps_its_budget_live(encoder: WordEncoder) -> None:
    views = [replace(ADDER, parameters_b=7.0), replace(CALENDAR, parameters_b=9.0), PARROT]
    free, tight = (
        built("category", encoder, evidence(encoder), **budget)
        for budget in ({}, {"total_parameters_b": 8.0})
    )
    assert free.route("month week year", views).expert == "calendar"
    decision = tight.route("month week year", views)
    assert decision.expert in {"adder", "parrot"}
    assert "within the budget" in decision.reason


def test_unsure_of_the_category_the_general_expert_is_asked(encoder: WordEncoder) -> None:
    views = [*VIEWS, ExpertView("general", general=True)]
    router = built("category", encoder, evidence(encoder), low_confidence=1.0)
    assert router.route("add month", views).expert == "general"


# Cost and time


DEAR = ExpertView("dear", usd_per_mtok_out=10.0)
CHEAP = ExpertView("cheap", usd_per_mtok_out=1.0)
DECISION = Decision("r", (Ranked("dear", 0.8), Ranked("cheap", 0.6)), ("dear",), 0.8, "because")


@pytest.mark.parametrize(
    ("preferences", "waits", "expert"),
    [
        (Preferences(), {}, "dear"),
        (Preferences(cost=0.1), {}, "dear"),
        (Preferences(cost=0.5), {}, "cheap"),
        (Preferences(cost=0.5, quality=3.0), {}, "dear"),
        (Preferences(patience_s=10.0), {"dear": 0.0}, "dear"),
        (Preferences(patience_s=10.0), {"dear": 5.0}, "cheap"),
        (Preferences(patience_s=100.0), {"dear": 5.0}, "dear"),
    ],
)
def test_utility_weighs_quality_cost_and_waiting(
    preferences: Preferences, waits: dict[str, float], expert: str
) -> None:
    found = weighed(DECISION, [DEAR, CHEAP], preferences, waits)
    assert found.expert == expert
    assert (found == DECISION) == (expert == "dear")
    assert found.ranking == DECISION.ranking


GENERAL = ExpertView("general", usd_per_mtok_out=5.0, general=True)
HOPELESS = Decision(
    "r", (Ranked("dear", 0.8), Ranked("general", 0.05), Ranked("cheap", 0.0001)), ("dear",), 0.8, "because"
)


@pytest.mark.parametrize(
    ("preferences", "waits", "expert"),
    [
        (Preferences(patience_s=1.0, min_probability=0.1), {"dear": 90.0, "general": 90.0}, "dear"),
        (Preferences(patience_s=1.0, min_probability=0.1), {"dear": 90.0}, "general"),
        (Preferences(cost=9.0, min_probability=0.1), {}, "general"),
        (Preferences(cost=9.0), {}, "cheap"),
        (Preferences(patience_s=1.0), {"dear": 90.0, "general": 90.0}, "cheap"),
    ],
)
def test_no_wish_chooses_an_expert_that_cannot_answer(
    preferences: Preferences, waits: dict[str, float], expert: str
) -> None:
    assert weighed(HOPELESS, [DEAR, CHEAP, GENERAL], preferences, waits).expert == expert


def test_an_unknown_price_counts_as_the_dearest() -> None:
    assert relative_prices([DEAR, CHEAP, PARROT]) == {"dear": 1.0, "cheap": 0.1, "parrot": 1.0}


@pytest.mark.parametrize("kind", LEARNING)
def test_renewed_for_other_experts_it_knows_what_it_knew(kind: str, encoder: WordEncoder) -> None:
    router: Any = built(kind, encoder, evidence(encoder))
    cook = ExpertView("cook", card="bake fry cake egg", usd_per_mtok_out=1.0)
    renewed = router.renewed(Setting(experts=(*VIEWS, cook)))
    assert renewed.route("month week year", [*VIEWS, cook]).expert == "calendar"
    assert renewed.route("bake cake egg", [*VIEWS, cook]).expert == "cook"
