"""Whom to ask: how many experts a query is worth, budgets, and what each leg is sent."""

from __future__ import annotations

from typing import Any

import pytest

from coe.aggregators import Setting, build_aggregators
from coe.core.types import Decision, Options, Ranked, Request
from coe.pipeline.generation import Generation
from coe.pipeline.plan import Plan, aggregation_request, plan_for, proposal_body
from coe.registry.schema import Registry

CHANCES = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}


def generation(**aggregator: Any) -> Generation:
    price = {"input": 1.0, "output": 10.0}
    registry = Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [{"id": e, "host": "slot", "model": e, "price": price} for e in CHANCES],
            "aggregator": {"kind": "vote", "proposers": 3, **aggregator},
        }
    )
    views = tuple(expert.view() for expert in registry.experts)
    return Generation(1, registry, views, {}, build_aggregators(registry, Setting(views)), 0)


def decision(confidence: float = 0.4, chosen: tuple[str, ...] = ("a",)) -> Decision:
    ranking = tuple(Ranked(expert, chance) for expert, chance in CHANCES.items())
    return Decision("router", ranking, chosen, confidence, "by the test")


def request(body: dict[str, Any] | None = None, **options: Any) -> Request:
    whole = {"model": "coe", "messages": [{"role": "user", "content": "hello"}], **(body or {})}
    return Request("req-1", "chat/completions", "coe", whole, "hello", Options(**options))


def plan(asked: Request, made: Decision, current: Generation) -> Plan | None:
    return plan_for(asked, made, aggregation_request(asked, current), current)


def experts(found: Plan | None) -> list[str]:
    return [] if found is None else [asked.expert for asked in found.asked]


@pytest.mark.parametrize(
    ("confidence", "options", "expected"),
    [
        (0.9, {}, []),
        (0.4, {}, ["a", "b", "c"]),
        (0.4, {"quality": 0.25}, ["a", "b", "c"]),
        (0.4, {"quality": 0.9}, ["a", "b", "c"]),
        (0.9, {"quality": 1.0}, ["a", "b", "c"]),
        (0.4, {"cost": 3.0}, []),
        (0.9, {"experts": 4}, ["a", "b", "c", "d"]),
        (0.9, {"experts": 1}, []),
        (0.9, {"aggregate": "weighted_vote"}, ["a", "b", "c"]),
        (0.4, {"aggregate": "first"}, ["a", "b", "c"]),
    ],
)
def test_confidence_quality_cost_and_the_client_decide_how_many_are_asked(
    confidence: float, options: dict[str, Any], expected: list[str]
) -> None:
    assert experts(plan(request(**options), decision(confidence), generation())) == expected


def test_experts_that_the_router_chose_itself_are_asked() -> None:
    assert experts(plan(request(), decision(0.9, ("a", "d")), generation())) == ["a", "d"]
    assert experts(plan(request(experts=3), decision(0.9, ("a", "d")), generation())) == ["a", "d", "b"]


def test_the_quorum_is_half_unless_the_registry_says_otherwise() -> None:
    def quorum(**aggregator: Any) -> int:
        found = plan(request(experts=3), decision(), generation(**aggregator))
        assert found is not None
        return found.quorum

    assert (quorum(), quorum(quorum=3), quorum(quorum=9), quorum(kind="first")) == (2, 3, 3, 1)


def test_a_price_limit_asks_fewer() -> None:
    body = {"max_tokens": 1000}
    asked = request(body, experts=4)
    dear = plan(asked, decision(), generation(budget={"max_usd": 1.0}))
    cheap = plan(asked, decision(), generation(budget={"max_usd": 0.025}))
    none = plan(asked, decision(), generation(budget={"max_usd": 0.001}))
    assert (len(experts(dear)), len(experts(cheap)), experts(none)) == (4, 2, [])


def test_the_writer_counts_in_the_budget() -> None:
    current = generation(kind="synthesise", budget={"max_experts": 3, "max_tokens": 300})
    found = plan(request(experts=4), decision(), current)
    assert (len(experts(found)), found and found.max_tokens) == (2, 100)


def test_a_leg_is_sent_the_request_without_what_is_not_its_own() -> None:
    asked = request({"stream": True, "stream_options": {}, "n": 1, "top_k": 3, "max_tokens": 50}, experts=2)
    found = plan(asked, decision(), generation(budget={"max_tokens": 60}))
    assert found is not None
    body = proposal_body(asked, found, found.asked[0])
    assert body == {"model": "coe", "messages": asked.body["messages"], "top_k": 3, "max_tokens": 30}
    assert asked.body["max_tokens"] == 50
