"""Experts asked in stages, where the service decides how many: who is asked next, and when it stops."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from coe.aggregators import Picked, Proposing
from coe.aggregators.worth import clear_from, how_many
from coe.core.errors import EngineError
from coe.core.types import Options
from coe.pipeline.generation import Generation
from tests.support.several import Script, generation, get, request


class OneByOne:
    """Takes the first answer that says "sure", asking one after the other."""

    name, max_experts, proposing = "one_by_one", 4, Proposing(at_once=1)

    def __init__(self) -> None:
        self.told: list[tuple[bool, list[str]]] = []

    def writer(self, asked: Any) -> None:
        return None

    async def combine(self, request: Any, answers: Any) -> Picked:
        async for proposal in answers:
            self.told.append((answers.adaptive, [asked.expert for asked in answers.outstanding]))
            if proposal.text == "sure":
                break
        return Picked(proposal, "it is sure")


def one_by_one(**options: Any) -> tuple[Generation, OneByOne]:
    current, made = generation(proposers=4, **options), OneByOne()
    return replace(current, aggregators={**current.aggregators, "vote": made}), made


def names(script: Script) -> list[str]:
    return [expert for expert, _ in script.asked]


async def test_a_vote_asks_two_and_a_third_only_when_they_disagree() -> None:
    agreed = Script({"sums": "4", "words": "4", "base": "5"})
    got = await get(agreed, request())
    assert (names(agreed), got.text) == (["sums", "words"], "4")
    assert [leg.expert for leg in got.receipt.legs] == ["sums", "words"], "who was not asked has no leg"
    divided = Script({"sums": "5", "words": "4", "base": "4"})
    got = await get(divided, request())
    assert (names(divided), got.text) == (["sums", "words", "base"], "4")


async def test_who_asks_for_three_gets_all_of_them_at_once() -> None:
    never = asyncio.Event()
    script = Script({"sums": "4", "words": "4", "base": never})
    got = await get(script, request(experts=3))
    assert sorted(names(script)) == ["base", "sums", "words"]
    assert got.outcomes()["proposer base"] == "not needed"


async def test_each_further_expert_is_asked_when_the_aggregator_reads_on() -> None:
    script = Script({"sums": "perhaps", "words": "sure", "base": "no"})
    current, made = one_by_one()
    got = await get(script, request(), current)
    assert (names(script), got.text) == (["sums", "words"], "sure")
    assert made.told == [(True, ["words", "base", "sql"]), (True, ["base", "sql"])]


async def test_a_leg_that_fails_is_followed_by_the_next() -> None:
    script = Script({"sums": EngineError("lost"), "words": "perhaps", "base": "sure"})
    got = await get(script, request(), one_by_one(quorum=1)[0])
    assert got.text == "sure"
    assert list(got.outcomes()) == ["proposer sums", "proposer words", "proposer base"]


async def test_a_stream_begins_with_the_first_answer_and_stops_as_soon() -> None:
    script = Script({"sums": "perhaps", "words": "sure"})
    got = await get(script, request(body={"stream": True}), one_by_one()[0])
    assert got.streamed.strip() == "sure"
    assert names(script) == ["sums", "words"]


async def test_late_answers_end_the_asking_once_the_quorum_is_there() -> None:
    script = Script({"sums": "perhaps", "words": asyncio.Event()})
    got = await get(script, request(patience_s=0.05), one_by_one(quorum=1)[0])
    assert got.text == "perhaps"
    assert got.outcomes() == {"proposer sums": "ok", "proposer words": "late"}
    assert script.aborted == ["words"]


async def test_not_adaptive_asks_everybody_at_once() -> None:
    script = Script({"sums": "sure"})
    current, made = one_by_one(adaptive=False)
    await get(script, request(), current)
    assert sorted(names(script)) == ["base", "sql", "sums", "words"]
    assert not made.told[0][0]


@pytest.mark.parametrize(
    ("confidence", "at_once", "expected"),
    [(0.7, 2, 1), (0.69, 2, 3), (0.89, 1, 3), (0.9, 1, 1), (0.69, None, 2), (0.2, None, 3)],
)
def test_how_many_a_query_is_worth(confidence: float, at_once: int | None, expected: int) -> None:
    chances = (confidence, 0.3, 0.2, 0.1)
    assert how_many(confidence, chances, 3, at_once, Options()) == expected


def test_quality_raises_the_bar_and_cost_lowers_it() -> None:
    bars = [clear_from(Options(**o)) for o in ({"cost": 1.0}, {}, {"quality": 1.0}, {"quality": 0.0})]
    assert bars == pytest.approx([0.5, 0.7, 1.0, 0.4])
