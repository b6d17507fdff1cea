"""Aggregators: the contract of the built-ins, syntheses, and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coe.aggregators import (
    AGGREGATOR_KIND,
    BUILT_IN,
    Asked,
    Picked,
    Proposing,
    Setting,
    Write,
    build_aggregator,
    build_aggregators,
)
from coe.aggregators.prompts import shortened, synthesis_body
from coe.core.errors import ConfigError
from coe.core.types import ExpertView
from coe.registry.aggregation_settings import AggregatorSpec
from coe.registry.schema import Registry
from coe.testing.conformance_aggregator import (
    AggregatorContractError,
    ScriptedAnswers,
    check_aggregator,
    panel,
    proposal,
    request,
)
from tests.support.combining import VIEWS, built, fitted


@pytest.mark.parametrize("kind", BUILT_IN)
async def test_built_ins_keep_the_contract(kind: str, tmp_path: Path) -> None:
    options = {"path": str(fitted(tmp_path / "combiner.json"))} if kind == "learned" else {}
    await check_aggregator(built(kind, **options))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("synthesise", {"expert": "e4"}),
        ("self_moa_seq", {"expert": "e4", "window": 2}),
        ("best_of", {"expert": "e4", "checks": ["arithmetic", "json"]}),
    ],
)
async def test_built_ins_that_ask_an_expert_keep_the_contract(kind: str, options: dict[str, Any]) -> None:
    aggregator = built(kind, **options)
    await check_aggregator(aggregator)
    assert aggregator.writer([Asked("e0", 0.5, 0)]) == "e4"


async def test_a_plug_in_keeps_the_contract_and_is_built_like_a_built_in() -> None:
    kind = "coe.aggregators.vote:MajorityVote"
    await check_aggregator(build_aggregator(AggregatorSpec(name="mine", kind=kind)))


async def test_the_check_finds_what_is_broken() -> None:
    class Invents:
        name, max_experts, proposing = "invents", 5, Proposing()

        def writer(self, asked: Any) -> None:
            return None

        async def combine(self, request: Any, answers: Any) -> Picked:
            return Picked(proposal("nobody", "made up"), "because")

    with pytest.raises(AggregatorContractError, match="one that was read"):
        await check_aggregator(Invents())


# ---------------------------------------------------------------- synthesis


async def test_a_synthesis_is_written_by_the_expert_that_the_test_chose() -> None:
    setting = Setting(VIEWS, best_aggregators={"all": "e3"})
    aggregator = build_aggregator(AggregatorSpec(kind="synthesise"), setting)
    verdict = await aggregator.combine(request(), ScriptedAnswers(panel("4", "5")))
    assert isinstance(verdict, Write)
    assert verdict.expert == "e3"
    assert verdict.otherwise.expert == "e0"


def test_the_prompt_keeps_the_system_message_the_form_and_the_bounds() -> None:
    body = {
        "model": "coe",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}],
        "temperature": 0.2,
        "response_format": {"type": "json_object"},
        "tools": [],
        "stream": True,
    }
    made = synthesis_body(body, ["4", "x" * 900], max_chars=300)
    assert made["messages"][0]["content"].startswith("Be brief.\n\n")
    assert made["messages"][1:] == body["messages"][1:]  # type: ignore[index]
    assert len(made["messages"][0]["content"]) < 1_200
    assert (made["temperature"], made["response_format"]) == (0.2, {"type": "json_object"})
    assert not {"tools", "stream", "model"} & set(made)


def test_a_long_answer_keeps_its_head_and_its_tail() -> None:
    text = "begin " + "x" * 1000 + " end"
    assert len(shortened(text, 200)) <= 200
    assert shortened(text, 200).startswith("begin")
    assert shortened(text, 200).endswith("end")


# ---------------------------------------------------------------- building


def test_a_registry_s_aggregators_stand_beside_the_built_ins() -> None:
    registry = Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [{"id": "e0", "host": "slot", "model": "x"}],
            "aggregator": {"name": "mine", "kind": "vote"},
            "aggregators": [{"kind": "synthesise", "options": {"expert": "e0"}}],
        }
    )
    found = build_aggregators(registry, Setting((ExpertView("e0"),)))
    assert {"mine", "synthesise", "vote", "first", "self_moa"} <= set(found)
    assert "learned" not in found, "it needs a file"
    assert found["mine"].name == "mine"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "vot"}, 'did you mean "vote"'),
        ({"kind": "no.such:Class"}, "cannot be imported"),
        ({"kind": "coe.core.types:Options"}, "no aggregator class"),
        ({"kind": "synthesise", "options": {"exprt": "e0"}}, "exprt"),
        ({"kind": "synthesise", "options": {"expert": "e9"}}, 'no expert "e9"'),
        ({"kind": "learned"}, "nothing taught it yet"),
        ({"kind": "learned", "options": {"path": "nowhere.json"}}, "no fitted combiner"),
    ],
)
def test_what_cannot_be_built_is_a_clear_error(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_aggregator(AggregatorSpec.model_validate(spec), Setting(VIEWS))


def test_built_in_classes_are_found_without_building_them() -> None:
    assert all(AGGREGATOR_KIND.find(kind).options_type for kind in BUILT_IN)
