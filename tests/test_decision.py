"""Why an expert is chosen and who may take its place: the one constructor of decisions."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.core.decision import PLAUSIBLE, before_all, decide, settled, with_ranking
from coe.core.types import Decision, Ranked, Rule


def ranking(*chances: float) -> tuple[Ranked, ...]:
    return tuple(Ranked(name, p) for name, p in zip("abcd", chances, strict=False))


CLOSE = ranking(0.6, 0.58, 0.3, 0.02)


def made(rule: Rule | None = None, of: tuple[Ranked, ...] = CLOSE) -> Decision:
    return decide("r", of, "because", rule, "sums")


def test_the_best_may_be_replaced_by_those_ranked_below_at_their_loss() -> None:
    decision = made()
    assert (decision.expert, decision.why, decision.confidence, decision.reason) == (
        "a",
        "best",
        0.6,
        "because",
    )
    assert [s.expert for s in decision.substitutes] == ["b", "c", "d"]
    assert [s.loss for s in decision.substitutes] == pytest.approx([0.02, 0.3, 0.58])
    assert decision.substitutes_on("awake", within=0.05) == ("b",)
    assert decision.substitutes_on("failure") == ("b",)
    assert decision.substitutes_on("panel") == ("b", "c", "d")


FIXED = partial(before_all, ("c",))


@pytest.mark.parametrize(
    ("rule", "expert", "why", "reason"),
    [
        (Rule(general=("c",), unsure_below=0.7), "c", "unsure", "unsure, so the general expert c (because)"),
        (
            Rule(general=("c",), unsure_below=0.3, sure=0.2, doubt="far off"),
            "c",
            "unsure",
            "far off, so the general",
        ),
        (
            Rule(prefers=FIXED, why="cost", phrase="{expert} at {probability}"),
            "c",
            "cost",
            "c at 0.30; because",
        ),
        (Rule(prefers=FIXED, why="random", fixed=True), "c", "random", "because"),
        (Rule(among=frozenset("cd")), "c", "budget", "because"),
        (
            Rule(among=frozenset("cd"), general=("a", "d"), unsure_below=0.9),
            "d",
            "unsure",
            "unsure, so the general",
        ),
        (Rule(among=frozenset("ac"), general=("d",), unsure_below=0.9), "a", "best", "because"),
    ],
)
def test_who_was_chosen_on_purpose_is_never_replaced_by_who_is_awake(
    rule: Rule, expert: str, why: str, reason: str
) -> None:
    decision = made(rule)
    assert (decision.expert, decision.why) == (expert, why)
    assert decision.reason.startswith(reason)
    assert decision.confidence == {r.expert: r.probability for r in CLOSE}[expert]
    assert decision.substitutes_on("awake", within=1.0) == ()


@pytest.mark.parametrize("general", [(), ("a",), ("b", "d")])
def test_the_sure_and_the_general_best_stay(general: tuple[str, ...]) -> None:
    unsure_below = 0.9 if general == ("a",) else 0.5
    assert made(Rule(general=general, unsure_below=unsure_below)).why == "best"


@pytest.mark.parametrize(
    ("chances", "general", "next_one"),
    [
        ((0.6, 0.06, 0.01), ("c",), ("b",)),
        ((0.6, 0.05, 0.01), ("c",), ("c",)),
        ((0.6, 0.05, 0.01), (), ()),
        ((1.0, 0.0, 0.0), (), ("b",)),
        ((0.6,), (), ()),
    ],
)
def test_after_a_failure_the_next_plausible_one_else_a_general_one(
    chances: tuple[float, ...], general: tuple[str, ...], next_one: tuple[str, ...]
) -> None:
    assert made(Rule(general=general), ranking(*chances)).substitutes_on("failure") == next_one


def test_a_budget_for_one_expert_a_question_has_no_panel() -> None:
    assert made(Rule(among=frozenset("ab"), alone=True)).substitutes_on("panel") == ()


@pytest.mark.parametrize(("chosen", "why"), [(("a",), "best"), (("b",), "own"), (("a", "c"), "best")])
def test_a_decision_that_a_router_made_by_itself_is_kept(chosen: tuple[str, ...], why: str) -> None:
    own = Decision("mine", CLOSE, chosen, 0.9, "of my own")
    found = settled(own)
    assert (found.chosen, found.why, found.confidence, found.reason) == (chosen, why, 0.9, "of my own")
    assert bool(found.substitutes_on("awake")) == (chosen == ("a",))
    assert not set(chosen) & set(found.substitutes_on("panel"))
    assert settled(found) is found


chances = st.floats(0.001, 0.999)
rules: st.SearchStrategy[Rule] = st.builds(
    Rule,
    general=st.lists(st.sampled_from("abcd"), unique=True).map(tuple),
    unsure_below=st.floats(0, 1),
    sure=st.none() | chances,
    among=st.none() | st.frozensets(st.sampled_from("abcd"), min_size=1),
    alone=st.booleans(),
    prefers=st.none() | st.just(partial(before_all, ())),
    why=st.sampled_from(["best", "cost"]),
)


@given(st.lists(chances, min_size=4, max_size=4), st.lists(chances, min_size=4, max_size=4), rules)
def test_a_rule_holds_for_whatever_probabilities(first: list[float], then: list[float], rule: Rule) -> None:
    decision: Any = made(rule, ranking(*sorted(first, reverse=True)))
    for found in (decision, with_ranking(decision, ranking(*then))):
        known = {r.expert: r.probability for r in found.ranking}
        top = found.ranking[0].expert
        asked = {found.expert, *(s.expert for s in found.substitutes)}
        assert asked == (set(rule.among) if rule.among else set("abcd"))
        assert found.confidence == known[found.expert]
        assert all(s.loss == pytest.approx(found.confidence - known[s.expert]) for s in found.substitutes)
        assert (found.why == "best") == (found.expert == top)
        if found.why == "unsure":
            assert found.expert in rule.general
        if found.substitutes_on("awake"):
            assert found.expert == top
            assert rule.among is None
        plausible = found.substitutes_on("failure")
        assert all(e in rule.general or known[e] >= PLAUSIBLE * found.confidence for e in plausible)
