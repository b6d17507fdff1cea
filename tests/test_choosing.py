"""The synthetic test of aggregators and the live comparison: items, marks, figures, records; no model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from coe.core.errors import ConfigError, ExpertUnavailable
from coe.demo.skills import skill_named
from coe.eval.demo.aggregation import Arm, ask_all, lines, table, tasks
from coe.eval.demo.choosing import (
    by_expert,
    choose_all,
    chosen_place,
    demo_items,
    read_items,
)
from coe.outcomes.statistics import Share
from coe.profiles.aggregating import best_aggregators, keep
from coe.registry.schema import Registry
from tests.support.serving import serving_app

Says = Callable[[dict[str, Any]], str]


@asynccontextmanager
async def service(says: Says) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A service whose every model answers what ``says`` makes of the body."""
    bodies: list[dict[str, Any]] = []

    async def complete(request: Request) -> JSONResponse:
        body = await request.json()
        bodies.append(body)
        message = {"role": "assistant", "content": says(body)}
        leg = {"expert": "e0", "role": "answer", "outcome": "ok"}
        return JSONResponse(
            {
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 3},
                "coe": {"expert": "e0", "legs": [leg]},
            }
        )

    app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
    async with serving_app(app) as url:
        yield url, bodies


def test_items_of_the_demonstration_have_one_right_and_two_wrong_answers() -> None:
    items = demo_items(2)
    assert len({item.id for item in items}) == len(items) == 18
    for item in items:
        assert len({item.right, *item.wrong}) == 3
        assert [item.answers(place).index(item.right) for place in range(3)] == [0, 1, 2]


def test_no_item_is_among_the_questions_that_are_measured() -> None:
    measured = {question.text for task in tasks(20, 20) for question in task.parts}
    assert not measured & {item.question for item in demo_items(4)}


@pytest.mark.parametrize(
    ("said", "place"),
    [("2", 1), ("Answer 3.", 2), (" 1\n", 0), ("the first", None), ("", None), ("3.14", None)],
)
def test_the_place_is_the_first_whole_number(said: str, place: int | None) -> None:
    assert chosen_place(said) == place


def _sees_right_answer(body: dict[str, Any]) -> str:
    """Knows the sums: looks for the answer that is right."""
    prompt = body["messages"][0]["content"]
    if body["model"] != "clever":
        return "1"
    item = next(item for item in demo_items(1) if item.question in prompt)
    return next(str(n) for n in (1, 2, 3) if f"Answer {n}:\n{item.right}\n" in prompt)


async def test_who_sees_the_right_answer_is_told_from_who_names_a_fixed_place(tmp_path: Path) -> None:
    record = tmp_path / "rows.jsonl"
    async with service(_sees_right_answer) as (url, bodies):
        rows = [row async for row in choose_all(url, ["clever", "dull"], demo_items(1), record)]
        asked = len(bodies)
        again = [row async for row in choose_all(url, ["clever", "dull"], demo_items(1), record)]
        assert len(bodies) == asked, "a rerun asks nothing twice"
    found = by_expert(rows)
    assert by_expert(again) == found
    assert (found["clever"]["all"].value, found["dull"]["all"].value) == (1.0, pytest.approx(1 / 3))


def test_items_of_a_file_are_read_and_faults_name_the_line(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    row = {"question": "2+2?", "right": "4", "wrong": ["3", "5"]}
    file.write_text(json.dumps(row) + "\n")
    (item,) = read_items(file)
    assert (item.right, item.wrong, item.category) == ("4", ("3", "5"), "all")
    file.write_text(json.dumps(row) + "\n" + json.dumps({**row, "wrong": ["3"]}))
    with pytest.raises(ConfigError, match=r"items.jsonl:2: two wrong answers"):
        read_items(file)


def registry() -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [{"id": name, "host": "slot", "model": name} for name in ("clever", "dull")],
            "profiles": ["profiles"],
        }
    )


def test_figures_stand_in_the_profiles_and_only_the_better_than_guessing_are_advised(tmp_path: Path) -> None:
    keep(registry(), tmp_path, "clever", {"sums": Share(30, 40), "all": Share(60, 90)}, "a test")
    keep(registry(), tmp_path, "dull", {"sums": Share(15, 40), "all": Share(30, 90)}, "a test")
    assert best_aggregators(registry(), tmp_path) == {"sums": "clever", "all": "clever"}
    keep(registry(), tmp_path, "clever", {"all": Share(2, 5)}, "a smaller test")
    assert best_aggregators(registry(), tmp_path) == {}


def test_two_skill_questions_are_right_when_both_answers_stand_in_the_output() -> None:
    pair = next(task for task in tasks(1, 3) if task.kind == "two skills")
    first, second = (question.answer for question in pair.parts)
    assert pair.check(f"1. {first}\n2. {second}")
    assert not pair.check(first)
    single = next(task for task in tasks(1, 3) if task.kind == "one skill")
    assert skill_named(single.parts[0].skill).check(single.parts[0], single.parts[0].answer)


async def test_arms_are_compared_on_common_questions_and_a_rerun_goes_on(tmp_path: Path) -> None:
    questions = tasks(1, 1)
    answers = {task.text: "\n".join(q.answer for q in task.parts) for task in questions}

    def says(body: dict[str, Any]) -> str:
        return answers[body["messages"][0]["content"]] if "aggregate" in body["coe"] else "no idea"

    arms = [Arm("alone", {}), Arm("together", {"experts": 2, "aggregate": "vote"})]
    record = tmp_path / "rows.jsonl"
    async with service(says) as (url, bodies):
        rows = [row async for row in ask_all(url, arms[:1], questions, record)]
        rows = [row async for row in ask_all(url, arms, questions, record)]
        assert len(bodies) == 2 * len(questions)
    alone, together = lines(rows, ["alone", "together"])
    assert (alone.accuracy.value, together.accuracy.value, alone.gain) == (0.0, 1.0, None)
    assert together.gain is not None
    assert (together.gain.mean, together.completion_tokens) == (1.0, 3.0)
    assert "| together | 1.000" in table([alone, together])


async def test_a_refusal_ends_the_run_with_the_service_s_message() -> None:
    async def refuse(request: Request) -> JSONResponse:
        return JSONResponse({"error": {"message": "no such aggregator"}}, status_code=400)

    app = Starlette(routes=[Route("/v1/chat/completions", refuse, methods=["POST"])])
    async with serving_app(app) as url:
        with pytest.raises(ExpertUnavailable, match="400: no such aggregator"):
            _ = [row async for row in ask_all(url, [Arm("a", {})], tasks(1, 1), None)]
