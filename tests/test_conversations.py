"""What learning routers make of conversations, system prompts and long texts, and how that is measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coe.core.reading import LONG_CHARS, Reading, read_chat, spans
from coe.core.types import ExpertView
from coe.demo.questions import held_out_questions
from coe.demo.skills import all_skills
from coe.eval.demo import conversation_wordings as wordings
from coe.eval.demo.conversations import GENERAL, Conversation, conversations, judged, lines, shares
from coe.routers.base import Setting
from coe.routers.category import CategoryOptions, CategoryRouter
from coe.routers.encoders.encoder import Encoder, open_encoder
from coe.routers.learning.views import Asked, Turn, asked

VIEWS = [
    ExpertView("base", "General chat.", general=True),
    *(ExpertView(skill.name, skill.card, (skill.name,)) for skill in all_skills()),
]


@pytest.fixture(scope="module")
def static() -> Encoder:
    return open_encoder("static", Path())


@pytest.fixture(scope="module")
def router(static: Encoder) -> CategoryRouter:
    options = CategoryOptions(examples="package:demo", encoder="static")
    return CategoryRouter("category", options, Setting(experts=tuple(VIEWS)), static)


def turns(*said: str, system: str = "") -> list[dict[str, Any]]:
    before = [{"role": "system", "content": system}] if system else []
    return before + [
        {"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(said)
    ]


def expert_for(router: CategoryRouter, messages: list[dict[str, Any]]) -> str:
    return router.route(read_chat(messages), VIEWS).expert


LETTER = (
    "The ferry was late again, so we walked along the harbour and watched the gulls. My aunt bought two"
    " scarves and a lamp. In the evening there was a concert in the old church, and it rained all night. "
)
LOG = "10.0.0.7 - GET /index.html 200 5123 0.004\n10.0.0.9 - POST /login 302 0 0.120\n"


@pytest.mark.parametrize(
    ("said", "expert"),
    [
        (("Which weekday is 3 days after Monday?", "Thursday", "what about 20?"), "calendar"),
        (("How many minutes are in 2 hours?", "120 min", "and 5?"), "units"),
        (("Table users(id, name, age). Names of all users?", "SELECT", "sort them by age"), "sql"),
        (("Regex for three digits?", r"\d{3}", "and then two capital letters?"), "regex"),
        (("What is 7 times 8?", "54", "That's wrong, try again"), "arithmetic"),
        (("Tom is 9. Name and age as JSON.", "{}", "Same for: Eve is 30."), "json"),
        (
            ("Which weekday is 3 days after Monday?", "Thursday", "and 9?", "W", "and 10?", "T", "and 11?"),
            "calendar",
        ),
    ],
)
def test_a_follow_up_stays_with_its_topic(router: CategoryRouter, said: tuple[str, ...], expert: str) -> None:
    assert expert_for(router, turns(*said)) == expert
    assert expert_for(router, turns("Tell me a joke.", "Ha.", *said)) == expert


@pytest.mark.parametrize(
    ("last", "expert"),
    [
        ("What is 9 times 7?", "arithmetic"),
        ("Write a regular expression for two digits.", "regex"),
        ("Table cars(id, model, speed). Write SQL for the fastest car.", "sql"),
        ("What should I cook tonight?", "base"),
    ],
)
def test_a_message_that_stands_alone_is_a_new_topic(router: CategoryRouter, last: str, expert: str) -> None:
    alone = router.route(read_chat(turns(last)), VIEWS)
    after = router.route(read_chat(turns("Sort 5, 3, 9 ascending.", "3, 5, 9", last)), VIEWS)
    assert (alone.expert, after.expert) == (expert, expert)


@pytest.mark.parametrize(
    ("system", "user", "expert"),
    [
        ("You answer every request with an SQL query on pets(id, name, owner).", "all of Eve's", "sql"),
        ("Spell each word you get with hyphens between its letters.", "tomato", "letters"),
        ("Extract name and city and return them as a flat JSON object.", "Lea moved to Bonn.", "json"),
        ("You are a helpful assistant. " * 60 + "Spell each word you get with hyphens.", "tomato", "letters"),
    ],
)
def test_a_task_in_the_system_prompt_counts(
    router: CategoryRouter, system: str, user: str, expert: str
) -> None:
    assert expert_for(router, turns(user)) != expert
    assert expert_for(router, turns(user, system=system)) == expert


@pytest.mark.parametrize(
    "system", ["You are a helpful assistant.", "Be polite. Today is Monday. " * 500, "Answer in French."]
)
def test_a_general_system_prompt_changes_nothing(router: CategoryRouter, system: str) -> None:
    for question in held_out_questions(3):
        messages = turns(question.text)
        assert expert_for(router, messages) == expert_for(router, turns(question.text, system=system))


@pytest.mark.parametrize("filler", [LETTER * 20, LETTER * 1000, LOG * 60], ids=["letter", "book", "log"])
@pytest.mark.parametrize("place", ["{task}\n\n{filler}", "{filler}\n{task}", "{filler} {task}"])
@pytest.mark.parametrize(
    ("task", "expert"),
    [
        ("What is 58 plus 27?", "arithmetic"),
        ("Convert 7000 grams to kilograms.", "units"),
        ("Sort the numbers 19, 4, 33 in ascending order.", "sorting"),
    ],
)
def test_the_task_at_either_end_of_a_long_text_is_found(
    router: CategoryRouter, filler: str, place: str, task: str, expert: str
) -> None:
    text = place.replace("{filler}", filler).replace("{task}", task)
    assert expert_for(router, turns(text)) == expert


def test_a_long_text_without_a_task_is_nobodys_in_particular(router: CategoryRouter) -> None:
    assert expert_for(router, turns(LETTER * 20 + "What do you think about that?")) == "base"


def test_only_long_texts_have_parts_and_these_are_short() -> None:
    assert spans("x " * (LONG_CHARS // 2)) == ()
    for text in (LETTER * 9, LOG * 9, "x" * 100_000, "? " * 1000, "\n" * 1000, "a?\n\n\n" * 400):
        assert all(len(part) <= 300 for part in spans(text))
        assert len(spans(text)) < 10
    assert "Is 3 more than 2?" in spans(LETTER * 20 + "Is 3 more than 2? " + LETTER * 20)


def test_bad_input_has_a_defined_answer(router: CategoryRouter) -> None:
    thousand = turns(*("What is 1 + 2?" for _ in range(999)), "and 3?")
    for messages in (
        thousand,
        turns("", "", ""),
        [{"role": "tool", "content": "42"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
        turns("and?", "?", "and?", system="\n"),
        turns("x", system="x" * 1_000_000),
    ):
        decision = router.route(read_chat(messages), VIEWS)
        assert decision.expert in {view.id for view in VIEWS}
        assert np.isfinite([each.probability for each in decision.ranking]).all()
    assert expert_for(router, thousand) == "arithmetic"


# The one way of seeing a request.


NOWHERE = np.zeros((1, 2), np.float32)


def no_nearness(vectors: Any) -> Any:
    raise AssertionError("nothing to choose from")


def test_a_short_text_alone_costs_its_vector_and_nothing_else(static: Encoder) -> None:
    for text in ("What is 2 + 2?", Reading("What is 2 + 2?", left_out=())):
        seen = asked(text, static, no_nearness)
        assert (seen.texts, seen.turns, seen.task) == (["What is 2 + 2?"], (Turn(0.0),), 0.0)
        assert np.array_equal(seen.vectors, static.encode(["What is 2 + 2?"]))
        assert seen.weights.tolist() == [1.0]
        belief = np.array([[0.2, 0.8]])
        assert np.array_equal(seen.settled(belief, shares=True), belief[0])
        assert np.array_equal(seen.settled(belief, shares=False), belief[0])


@pytest.mark.parametrize("shares", [True, False])
def test_beliefs_are_settled_into_probabilities(shares: bool) -> None:
    rng = np.random.default_rng(0)
    for turn_count in range(5):
        rows = rng.dirichlet(np.ones(4), size=turn_count + 2)
        chain = [Turn(float(rng.choice([0.5, 1.0])), 0.5, bool(rng.integers(2))) for _ in range(turn_count)]
        seen = Asked(
            "x",
            np.zeros((1, 2), np.float32),
            around=("y",) * (turn_count + 1),
            turns=(Turn(0.0), *chain),
            task=0.7,
        )
        settled = seen.settled(rows, shares=shares)
        assert ((settled > 0) & (settled < 1)).all()
        if shares:
            assert settled.sum() == pytest.approx(1)
        assert seen.weights.sum() == pytest.approx(1)


def test_the_mean_of_equal_probabilities_is_that_probability() -> None:
    seen = Asked("x", NOWHERE, around=("y",), turns=(Turn(0.0), Turn(1.0, 0.5)))
    assert seen.settled([[0.3, 0.6], [0.3, 0.6]], shares=False) == pytest.approx([0.3, 0.6])


# The evaluation.


def everything() -> Iterator[Conversation]:
    yield from conversations("design")
    yield from conversations("test")


def test_conversations_are_many_of_every_kind_and_always_the_same() -> None:
    made = conversations("test")
    assert len(made) >= 1000
    assert made == conversations("test")
    kinds = {each.kind for each in made}
    assert {"follow-up", "explain", "thanks", "correction", "topic change", "two tasks", "typos"} <= kinds
    assert {"task in system prompt", "long text", "agent's blocks", "other languages", "off topic"} <= kinds
    known = {GENERAL, *(skill.name for skill in all_skills())}
    for each in everything():
        assert set(each.right) <= known
        assert "{" not in each.kind
        assert each.messages[-1]["role"] == "user"
        json.dumps(each.messages)


def test_the_parts_share_no_wording() -> None:
    waiting: list[Any] = [
        value for name, value in vars(wordings).items() if name.isupper() and name not in ("SLOTS", "NUMBERS")
    ]
    found: dict[str, set[str]] = {"design": set(), "test": set()}
    while waiting:
        table = waiting.pop()
        for part, texts in table.items():
            if part in found:
                found[part] |= {
                    said for text in texts for said in ([text] if isinstance(text, str) else text[:1])
                }
            else:
                waiting.append(texts)
    assert not found["design"] & found["test"]
    assert min(map(len, found.values())) > 100


def test_who_is_right_is_judged_by_skills() -> None:
    mine = Conversation("x", ("sql", GENERAL), ())
    assert [judged(mine, expert).right for expert in ("sql", "base", "json")] == [True, True, False]
    found = shares([judged(mine, "sql"), judged(Conversation("y", (GENERAL,), ()), "sql")])
    assert (found.everything.value, found.specialists.value, found.general.value) == (0.5, 1.0, 0.0)
    assert len(lines(found)) == 5


@pytest.mark.slow
def test_most_conversations_find_their_expert_even_by_the_quickest_encoder(router: CategoryRouter) -> None:
    """The table in the docs is by the default encoder; no kind may break unseen."""
    made = conversations("test", 1)
    found = shares([judged(each, router.route(read_chat(each.messages), VIEWS).expert) for each in made])
    assert found.specialists.value > 0.9
    assert found.by_kind["follow-up"].value > 0.8
    assert found.by_kind["long text"].value > 0.8
    assert found.by_kind["topic change"].value > 0.8
