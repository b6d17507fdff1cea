"""Across the parts: whatever happens to a request, the choice that was made on purpose is kept.

Every kind of router, through the real pipeline, with a wish of the client (quality, cost, patience), clients'
marks, another expert awake, one that fails, or a panel. What must hold is worked out here from the router's
own ranking and the experts' prices and sizes, not from the decision.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coe.core.decision import settled
from coe.core.errors import EngineError
from coe.core.types import Decision, Receipt, Router
from coe.pipeline.feedback import Feedback, Rating
from tests.support.choices import (
    BUDGET_B,
    KINDS,
    PLAIN,
    PRICE,
    SIZE,
    VIEWS,
    WORDS,
    World,
    files,
    router,
)

WITHIN = 0.05
"""pool.reroute_within as it is by default"""
ids = st.sampled_from(sorted(SIZE))
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(
    lambda words: " ".join(words).strip() or "?"
)
wishes = st.sampled_from(
    [
        {},
        {"quality": 1.0},
        {"cost": 0.3},
        {"cost": 5.0},
        {"patience_s": 2.0},
        {"cost": 1.0, "patience_s": 2.0},
    ]
)
marks = st.lists(st.tuples(ids, st.sampled_from([0.0, 1.0]), st.integers(1, 60)), max_size=2)
calm = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def routers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Router]:
    folder = tmp_path_factory.mktemp("routers")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    files(folder)
    found = {kind: router(kind, folder) for kind in KINDS}
    patch.undo()
    return found


def chances(decision: Decision, feedback: Feedback) -> dict[str, float]:
    """The router's probabilities as marks move them."""
    found = {}
    for ranked in decision.ranking:
        p, step = ranked.probability, feedback.step(decision.category or "", ranked.expert)
        inside = 0.0 < p < 1.0 and step
        found[ranked.expert] = 1 / (1 + math.exp(-math.log(p / (1 - p)) - step)) if inside else p
    return found


def marked(decision: Decision, given_marks: list[tuple[str, float, int]]) -> Feedback:
    feedback = Feedback()
    for expert, score, count in given_marks:
        for number in range(count):
            feedback.replay(Rating(f"{expert}{number}", decision.category or "", expert, score))
    return feedback


def wished(wish: dict[str, Any], known: dict[str, float], among: set[str], chosen: str, expert: str) -> float:
    """Utility, the router's own choice counting as the likeliest of those that a budget allows."""
    chance = max(known[each] for each in among) if expert == chosen else known[expert]
    wait = 0.0 if expert == "sums" else 1.5
    patience, quality = float(wish.get("patience_s", math.inf)), float(wish.get("quality", 0.5))
    return quality / 0.5 * chance - float(wish.get("cost", 0.0)) * PRICE[expert] - wait / patience


def first_choice(
    kind: str, text: str, feedback: Feedback, subject: Router
) -> tuple[Decision, dict[str, float]]:
    """What the router decides of this text, and the probabilities that marks make of it."""
    if kind == "random":  # its draws are counted, and this one must not count
        return Decision("mine", (), (), 1 / 3, "drawn"), dict.fromkeys(SIZE, 1 / 3)
    decision = subject.route(text, VIEWS)
    return decision, chances(decision, feedback)


@pytest.mark.parametrize("kind", KINDS)
@calm
@given(
    text=texts,
    wish=wishes,
    given_marks=marks,
    awake=st.frozensets(ids),
    failing=st.frozensets(ids, max_size=1),
    panel=st.sampled_from([0, 0, 2, 3]),
)
def test_whatever_happens_the_choice_is_kept_and_the_receipt_is_true(
    kind: str,
    routers: dict[str, Router],
    text: str,
    wish: dict[str, Any],
    given_marks: list[tuple[str, float, int]],
    awake: frozenset[str],
    failing: frozenset[str],
    panel: int,
) -> None:
    decision = Decision("mine", (), (), 0, "") if kind == "random" else routers[kind].route(text, VIEWS)
    feedback = Feedback() if kind == "random" else marked(decision, given_marks)
    _, known = first_choice(kind, text, feedback, routers[kind])
    world = World(routers[kind], feedback, awake, failing)
    several = {"experts": panel, "aggregate": "vote"} if panel else {}
    try:
        receipt = world.ask(text, **wish, **several)
    except EngineError:
        assert set(world.asked) <= failing | {"sums"}
        assert len(allowed(kind, decision)) == 1 or not plausible(known, failing)
        return
    check(kind, decision, known, wish, world, receipt)


def plausible(known: dict[str, float], failing: frozenset[str]) -> bool:
    """Whether anybody might have stepped in for the one that failed."""
    return any(p >= 0.1 * known[next(iter(failing))] for e, p in known.items() if e not in failing)


def allowed(kind: str, decision: Decision) -> set[str]:
    """Whom the budget allows: of 10 billion parameters sums and base take 7 and 3, and words 9."""
    if kind == "average":
        return {e for e in SIZE if SIZE[e] <= SIZE[decision.expert]}
    return {"sums", "base"} if "budget" in kind else set(SIZE)


def check(
    kind: str,
    decision: Decision,
    known: dict[str, float],
    wish: dict[str, Any],
    world: World,
    receipt: Receipt,
) -> None:
    expert, why, weighs = receipt.expert, receipt.why, bool(wish.keys() - {"quality"})
    assert expert is not None
    # The confidence is that of the expert who answered.
    assert receipt.confidence == pytest.approx(known[expert])
    assert set(world.asked) <= allowed(kind, decision)
    if "budget" in kind:
        assert sum(SIZE[each] for each in set(world.asked)) <= BUDGET_B
    if kind == "average":
        assert receipt.aggregator is None
    best = max(known.values())
    if why == "best":
        assert known[expert] == best
    elif why == "unsure":
        assert expert == "base"
        assert "so the general expert base" in receipt.reason
    elif why == "awake":
        assert expert in world.awake
        assert best - WITHIN <= known[expert] <= best
        assert kind in (*PLAIN, "category", "category by cards", "category by examples")
        assert "cost" not in wish
        assert "nearly as good" in receipt.reason
    elif why in ("cost", "patience"):
        assert weighs or kind == "cascade"
        assert known[expert] <= best
    elif why == "failure":
        assert receipt.legs[0].expert in world.failing
        assert "could not answer" in receipt.reason
    elif why == "panel":
        assert receipt.aggregator == "vote"
        assert len(set(world.asked)) == len(world.asked) > 1
    else:
        assert why == {"random": "random", "static": "fixed", "own": "own"}.get(kind, "budget")
    asked_first = receipt.legs[0].expert
    if (
        weighs
        and kind not in ("random", "static", "cascade", "own")
        and why in ("cost", "patience", "unsure", "budget")
    ):
        # Who is chosen after marks and before wishes is not seen from here: one of these two.
        among = allowed(kind, decision) & known.keys()
        chosen = {decision.expert, max(among, key=known.__getitem__)}
        assert any(
            wished(wish, known, among, own, asked_first)
            >= max(wished(wish, known, among, own, e) for e in among) - 1e-9
            for own in chosen
        )


@pytest.mark.parametrize("kind", KINDS)
@calm
@given(text=texts, awake=st.frozensets(ids))
def test_who_is_awake_takes_the_place_of_the_best_only(
    kind: str, routers: dict[str, Router], text: str, awake: frozenset[str]
) -> None:
    if kind == "random":
        return
    decision = routers[kind].route(text, VIEWS)
    receipt = World(routers[kind], awake=awake).ask(text)
    if receipt.expert != decision.expert:
        assert receipt.why == "awake"
        assert decision.expert == decision.ranking[0].expert
        assert decision.expert not in awake or receipt.expert in awake
    if (
        kind in ("own", "static", "cascade")
        or decision.expert != decision.ranking[0].expert
        or "budget" in kind
    ):
        assert receipt.expert == decision.expert


def test_random_is_random_whoever_is_awake_and_whatever_is_wished(tmp_path: Path) -> None:
    world, alone = World(router("random", tmp_path), awake=frozenset({"base"})), router("random", tmp_path)
    drawn = [alone.route("hello", VIEWS).expert for _ in range(40)]
    wishes: list[dict[str, Any]] = [{}, {"cost": 9.0}, {"patience_s": 0.1}, {"cost": 1.0, "quality": 0.0}]
    receipts = [world.ask("hello", **wishes[number % 4]) for number in range(40)]
    assert [receipt.expert for receipt in receipts] == drawn
    assert len(set(drawn)) == 3
    assert {receipt.why for receipt in receipts} == {"random"}
    assert "do not count" in receipts[1].reason
    assert "do not count" not in receipts[0].reason


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "budget" in kind])
def test_a_budget_holds_on_every_path_and_over_all_questions(kind: str, routers: dict[str, Router]) -> None:
    world = World(routers[kind])
    for text in ("add plus", "month week", "hello sea", "number", "year poem"):
        for failing in (frozenset(), frozenset({"base"}), frozenset({"sums"}), frozenset({"words"})):
            world.failing, world.awake = failing, frozenset(SIZE) - failing
            for options in ({}, {"cost": 5.0}, {"experts": 3, "aggregate": "vote"}):
                try:
                    receipt = world.ask(text, **options)
                except EngineError:
                    continue
                if "experts" in options:
                    assert "of 3 experts" in receipt.reason
    assert sum(SIZE[expert] for expert in set(world.asked)) <= BUDGET_B


@pytest.mark.parametrize("expert", sorted(SIZE))
@pytest.mark.parametrize("kind", ["unsure", "cascade", "budget", "static", "random", "own"])
def test_marks_undo_no_choice(kind: str, routers: dict[str, Router], expert: str) -> None:
    """They do where the rule itself says so: a cascade asks the cheapest of those that are good enough."""
    for text in ("add plus", "month"):
        decision = settled(routers[kind].route(text, VIEWS))
        feedback = marked(decision, [(expert, 1.0, 50)])
        found = feedback.applied("r", decision)
        assert found.confidence == pytest.approx(chances(decision, feedback)[found.expert])
        if kind == "cascade":
            moved = chances(decision, feedback)
            enough = [e for e in moved if moved[e] >= max(moved.values()) - 0.2]
            assert found.expert == min(enough, key=PRICE.__getitem__)
            continue
        assert found.expert == decision.expert
        now_best = kind not in ("static", "random") and found.expert == found.ranking[0].expert
        assert found.why == ("best" if now_best else decision.why)
