"""Budgets of the category map: obeyed whatever it is made from, refused where nothing keeps them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coe.core.errors import ConfigError, RoutingError
from coe.core.types import ExpertView
from coe.registry.schema import Registry
from coe.routers.base import Setting
from coe.routers.category import CategoryOptions, CategoryRouter
from coe.service.check import explain
from tests.support.choices import EXPERTS, VIEWS, WordEncoder, evidence, files, registry

MADE_FROM = ("profiles", "cards", "examples")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files(tmp_path)
    return tmp_path


def built(
    made_from: str, folder: Path, views: tuple[ExpertView, ...] = VIEWS, **budget: Any
) -> CategoryRouter:
    encoder = WordEncoder()
    options: dict[str, Any] = budget | {"examples": "examples.jsonl"} if made_from == "examples" else budget
    known = evidence(encoder) if made_from == "profiles" else None
    return CategoryRouter("mine", CategoryOptions(**options), Setting(views, folder, known), encoder)


@pytest.mark.parametrize("made_from", MADE_FROM)
@pytest.mark.parametrize(
    ("budget", "may"),
    [
        ({"total_parameters_b": 10.0}, {"sums", "base"}),
        ({"total_parameters_b": 12.0}, {"words", "base"}),
        ({"total_parameters_b": 3.0}, {"base"}),
        ({"average_price": 1.0}, {"base"}),
        ({"average_active_b": 3.5}, {"base"}),
        ({"total_parameters_b": 12.0, "average_price": 11.0}, {"words", "base"}),
    ],
)
def test_a_budget_is_obeyed_whatever_the_map_is_made_from(
    made_from: str, budget: dict[str, Any], may: set[str], folder: Path
) -> None:
    router = built(made_from, folder, **budget)
    asked = set()
    for text in ("add plus total", "month week day", "hello", "poem number", "sea", "day add"):
        decision = router.route(text, VIEWS)
        asked |= {decision.expert, *(each.expert for each in decision.substitutes)}
        alone = budget.keys() & {"average_price", "average_active_b"}
        assert not (alone and decision.substitutes_on("panel"))
    assert asked <= may or (budget["total_parameters_b"] == 12.0 and asked <= {"sums", "base"})
    assert sum(view.parameters_b or 0 for view in VIEWS if view.id in asked) <= budget.get(
        "total_parameters_b", 99
    )


@pytest.mark.parametrize("made_from", MADE_FROM)
def test_without_a_budget_each_specialist_is_asked_about_its_own(made_from: str, folder: Path) -> None:
    router = built(made_from, folder)
    assert router.route("add plus total", VIEWS).expert == "sums"
    assert router.route("month week day", VIEWS).expert == "words"


@pytest.mark.parametrize("made_from", MADE_FROM)
def test_within_a_budget_the_map_s_expert_is_asked_and_the_reason_says_so(
    made_from: str, folder: Path
) -> None:
    decision = built(made_from, folder, total_parameters_b=6.0).route("month week day", VIEWS)
    assert (decision.expert, decision.ranking[0].expert, decision.why) == ("base", "words", "budget")
    assert "within the budget" in decision.reason


UNKNOWN = tuple(replace(view, parameters_b=None) for view in VIEWS)


@pytest.mark.parametrize("made_from", MADE_FROM)
@pytest.mark.parametrize(
    ("views", "budget"),
    [
        (VIEWS, {"total_parameters_b": 2.9}),
        (VIEWS, {"average_active_b": 1.0}),
        (VIEWS, {"average_price": 0.5}),
        (UNKNOWN, {"total_parameters_b": 1000.0}),
    ],
)
def test_a_budget_that_nothing_keeps_is_refused_when_the_router_is_built(
    made_from: str, views: tuple[ExpertView, ...], budget: dict[str, Any], folder: Path
) -> None:
    with pytest.raises(ConfigError, match="no map from categories to experts keeps the budget"):
        built(made_from, folder, views, **budget)


@pytest.mark.parametrize("made_from", MADE_FROM)
def test_an_edit_after_which_nothing_keeps_the_budget_is_refused_and_no_client_s_fault(
    made_from: str, folder: Path
) -> None:
    router, large = built(made_from, folder, total_parameters_b=5.0), VIEWS[:2]
    with pytest.raises(ConfigError, match="keeps the budget"):
        router.renewed(Setting(large, folder))
    with pytest.raises(RoutingError, match="keeps the budget"):
        router.route("add plus", large)
    assert router.renewed(Setting(VIEWS, folder)).route("add plus", VIEWS).expert == "base"


def with_router(**options: Any) -> Registry:
    spec = {"name": "mine", "kind": "category", "options": options}
    base = registry().model_dump(exclude_none=True)
    return Registry.model_validate({**base, "routers": {"default": "mine", "available": [spec]}})


@pytest.mark.parametrize("examples", [{}, {"examples": "examples.jsonl"}])
@pytest.mark.parametrize(
    ("budget", "keeps"),
    [
        ({"total_parameters_b": 2.9}, False),
        ({"total_parameters_b": 3.0}, True),
        ({"average_price": 0.9}, False),
        ({"average_price": 1.0}, True),
        ({"average_active_b": 3.0, "total_parameters_b": 2.0}, False),
    ],
)
def test_coe_check_refuses_a_budget_that_nothing_keeps(
    examples: dict[str, str], budget: dict[str, Any], keeps: bool, folder: Path
) -> None:
    found = [
        issue
        for issue in explain(with_router(**examples, **budget), folder).errors
        if "budget" in issue.message
    ]
    assert (not found) == keeps
    assert all(issue.loc == ("routers", "available", 0) and issue.hint for issue in found)


def test_a_general_expert_outside_the_budget_does_not_take_what_is_unsure(folder: Path) -> None:
    views = tuple(replace(view, parameters_b=50.0 if view.general else view.parameters_b) for view in VIEWS)
    for made_from in MADE_FROM:
        router = built(made_from, folder, views, total_parameters_b=20.0, low_confidence=1.0)
        decision = router.route("hello sea", views)
        assert decision.expert in ("sums", "words"), made_from
        assert "general expert" not in decision.reason
    assert [each["id"] for each in EXPERTS if each.get("general")] == ["base"]
