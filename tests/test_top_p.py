"""How many experts by top-p with a null expert: the rule's properties, and requests that are asked by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.aggregators.top_p import Mass, top_p
from coe.aggregators.worth import CLEAR
from coe.core.errors import BadRequest
from coe.core.types import ByTopP, Decision, ExpertView
from coe.registry.aggregation_settings import TopP
from tests.support.several import EXPERTS, Ranking, Script, generation, get, request

CHANCES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)
LIMIT = st.integers(1, 8)
P = st.floats(0.01, 1.0)
BAR = st.floats(0.05, 0.95)
steady = settings(max_examples=100, deadline=None, derandomize=True)


@steady
@given(CHANCES, LIMIT, P, BAR)
def test_at_least_one_is_asked_and_never_more_than_the_limit(
    chances: list[float], limit: int, p: float, clear: float
) -> None:
    assert 1 <= top_p(chances, limit, p, clear).count <= min(limit, len(chances))


@steady
@given(CHANCES, LIMIT, P, BAR)
def test_the_masses_are_a_distribution_and_nobody_likelier_is_left_out(
    chances: list[float], limit: int, p: float, clear: float
) -> None:
    mass = top_p(chances, limit, p, clear)
    assert sum(mass.taken) + sum(mass.left) + mass.null == pytest.approx(1.0)
    order = [*mass.taken, *mass.left]
    assert order == sorted(order, reverse=True)
    assert mass == top_p(chances[::-1], limit, p, clear), "listed in any order"


@steady
@given(CHANCES, LIMIT, P, P, BAR)
def test_a_higher_p_never_asks_fewer(
    chances: list[float], limit: int, one: float, other: float, clear: float
) -> None:
    fewer, more = (top_p(chances, limit, p, clear).count for p in sorted((one, other)))
    assert fewer <= more


@steady
@given(CHANCES, LIMIT, P, BAR, BAR)
def test_a_higher_bar_never_asks_fewer(
    chances: list[float], limit: int, p: float, one: float, other: float
) -> None:
    fewer, more = (top_p(chances, limit, p, clear).count for clear in sorted((one, other)))
    assert fewer <= more


@steady
@given(CHANCES, LIMIT, LIMIT, P, BAR)
def test_a_higher_limit_never_asks_fewer(
    chances: list[float], one: int, other: int, p: float, clear: float
) -> None:
    fewer, more = (top_p(chances, limit, p, clear).count for limit in sorted((one, other)))
    assert fewer <= more


@steady
@given(st.lists(st.floats(0.1, 5.0), min_size=1, max_size=8), st.integers(11, 100), LIMIT, P, BAR)
def test_a_question_that_is_easier_for_everybody_never_asks_more(
    odds: list[float], tenths: int, limit: int, p: float, clear: float
) -> None:
    hard, easy = ([o * f / (1 + o * f) for o in odds] for f in (1.0, tenths / 10))
    # By a hair, where two experts' shares are at p alike, rounding may decide: p is moved by that hair.
    assert top_p(easy, limit, p, clear).count <= top_p(hard, limit, min(1.0, p + 1e-9), clear).count


@steady
@given(st.floats(CLEAR, 1.0), st.integers(1, 8))
def test_one_is_enough_from_the_bar_on_however_good_the_others_are(best: float, limit: int) -> None:
    assert top_p([best] * 8, limit, 1.0, CLEAR).count == 1


def test_what_the_null_expert_leaves_is_shared_by_odds() -> None:
    mass = top_p([0.5, 0.5, 0.2], 3, 0.6, 0.75)
    third = 1 / 3
    assert mass.null == pytest.approx(third / (2.25 + third))
    assert mass == Mass((mass.taken[0],) * 2, (pytest.approx(mass.taken[0] / 4),), mass.null)
    assert top_p([0.5, 0.5, 0.2], 3, 1.0, 0.75).count == 2, "the null expert comes before the third"
    assert str(top_p([0.5], 3, 1.0, 0.5)) == "0.50; null 0.50; not asked none"


def test_the_usual_bar_is_that_of_asking_in_stages() -> None:
    assert TopP().clear == CLEAR


async def test_a_request_is_asked_by_top_p_and_the_receipt_explains_it() -> None:
    few, more = Script(dict.fromkeys(EXPERTS, "4")), Script(dict.fromkeys(EXPERTS, "4"))
    current = generation(top_p={"p": 0.9, "clear": 0.8})
    got = await get(few, request(experts=ByTopP(0.5)), current)
    assert [expert for expert, _ in few.asked] == ["sums"]
    assert "; top-p 0.5 asks 1 by 0.54; null 0.13; not asked 0.23, 0.10" in got.receipt.reason
    got = await get(more, request(experts=ByTopP(0.8)), current)
    assert sorted(expert for expert, _ in more.asked) == ["sums", "words"]
    assert "; top-p 0.8 asks 2 by 0.54, 0.23; null 0.13; not asked 0.10" in got.receipt.reason


async def test_experts_yaml_may_ask_by_top_p_and_weights_move_its_bar() -> None:
    usual, careful, frugal, named = (Script(dict.fromkeys(EXPERTS, "4")) for _ in range(4))
    current = generation(proposers=4, top_p={"p": 0.9, "clear": 0.8})
    await get(usual, request(), current)
    await get(careful, request(quality=1.0), current)
    await get(frugal, request(cost=2.0), current)
    await get(named, request(experts=4), current)
    assert [len(script.asked) for script in (usual, careful, frugal, named)] == [2, 3, 1, 4]


async def test_a_named_expert_answers_alone_and_nothing_is_said_of_masses() -> None:
    script = Script({"words": "4"})
    got = await get(script, request(model="words", experts=ByTopP(1.0)))
    assert [expert for expert, _ in script.asked] == ["words"]
    assert "top-p" not in got.receipt.reason


async def test_a_router_that_ranks_nobody_is_followed() -> None:
    class Chooser(Ranking):
        def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
            return replace(super().route(text, experts), ranking=())

    script, usual = Script({"sums": "4"}), generation(top_p={})
    got = await get(script, request(), replace(usual, routers={"ranking": Chooser()}))
    assert [expert for expert, _ in script.asked] == ["sums"]
    assert "; top-p 0.6 asks 1 by 0.70; null 0.30; not asked none" in got.receipt.reason


async def test_a_request_that_cannot_be_combined_says_so_under_top_p_too() -> None:
    with pytest.raises(BadRequest, match="n = 1"):
        await get(Script({}), request(body={"n": 2}, experts=ByTopP(0.9)), generation(top_p={"clear": 0.8}))
