"""What routers read of a request: the ask, the task, the turns before, and what is left out."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from coe.core.reading import LeftOut, Reading, read_chat, read_text, unwrapped
from coe.core.types import Request
from coe.gateway.requests import parse_completion, parse_route
from coe.registry.schema import Limits

LIMITS = Limits()
JSON_HEADERS = {b"content-type": b"application/json"}


def said(*turns: str) -> list[dict[str, Any]]:
    """``user`` and ``assistant`` in turns, the user first; ``role: text`` names another role."""
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns)]


def test_a_reading_is_the_last_user_message_with_task_and_turns() -> None:
    reading = read_chat([{"role": "system", "content": " Be brief. "}, *said("one?", "1", "and two?")])
    assert reading == "and two?"
    assert isinstance(reading, str)
    assert (reading.task, reading.earlier, reading.left_out) == ("Be brief.", ("one?",), ())
    assert reading.follow_up


def test_developer_messages_are_the_task_wherever_they_stand() -> None:
    messages = [*said("one?", "1"), {"role": "developer", "content": "Count."}, *said("two?")]
    assert read_chat(messages).task == "Count."


@pytest.mark.parametrize(
    ("messages", "text", "task"),
    [
        ([{"role": "system", "content": "be brief"}], "be brief", ""),
        ([{"role": "assistant", "content": "go on"}], "go on", ""),
        ([{"role": "tool", "tool_call_id": "1", "content": "42"}], "42", ""),
        ([{"role": "system", "content": "sum"}, {"role": "tool", "content": "42"}], "42", "sum"),
        ([{"role": "user", "content": ""}, {"role": "user", "content": " \n"}], "", ""),
        ([{"role": "user", "content": None}], "", ""),
        ([{"role": "user", "content": []}], "", ""),
        ([{"role": "assistant", "tool_calls": []}], "", ""),
        (said("one", "1", ""), "one", ""),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}], "", ""),
    ],
)
def test_requests_without_an_ask_are_read_by_what_there_is(messages: Any, text: str, task: str) -> None:
    reading = read_chat(messages)
    assert (str(reading), reading.task, reading.earlier) == (text, task, ())
    assert not reading.follow_up


def test_results_of_tools_are_left_out_wherever_they_are() -> None:
    parts = [
        {"type": "tool_result", "tool_use_id": "1", "content": "Monday"},
        {"type": "text", "text": "What is 2 + 2?"},
        {"type": "image_url", "image_url": {"url": "data:"}},
    ]
    messages = [*said("weekday?"), {"role": "tool", "content": "x" * 70}, {"role": "user", "content": parts}]
    reading = read_chat(messages)
    assert reading == "What is 2 + 2?"
    assert reading.left_out == (
        LeftOut("tool result", 70),
        LeftOut("tool result", 6),
        LeftOut("image_url", 0),
    )


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("12 + 30?\n<system-reminder>Today's date is Monday.</system-reminder>", "12 + 30?"),
        ("<system-reminder>\na\n</system-reminder>\n12 + 30?", "12 + 30?"),
        ("12 + 30? <env_details>Monday</env_details>", "12 + 30?"),
        ("<environment>cwd: /</environment>\n<files path='a'>b</files>\n12 + 30?", "12 + 30?"),
        ("<context>\nlong\n</context><task>12 + 30?</task>", "12 + 30?"),
        ("<user_query>12 + 30?</user_query>", "12 + 30?"),
        ("<note>12 + 30?</note>", "12 + 30?"),
        ("<a-b><note>12 + 30?</note></a-b>", "12 + 30?"),
        ("<Reminder>x</Reminder>\n12 + 30?", "12 + 30?"),
    ],
)
def test_what_an_agent_adds_is_left_out(text: str, asked: str) -> None:
    assert unwrapped(text) == asked
    assert str(read_text(text)) == asked


@pytest.mark.parametrize(
    "text",
    [
        "What does <b>bold</b> do in HTML?",
        "<p>Is this\na paragraph?</p>",
        "Is 3 < 5 and 5 > 3?",
        "Is a <b and c </b",
        "Use a Map<K, V> here: <K>",
        "The name is <name>Tom</name>, extract it.",
        "</closed> before <closed> opened",
        "<unclosed> 12 + 30?",
        "<></>",
        "",
    ],
)
def test_what_the_user_writes_stays(text: str) -> None:
    assert unwrapped(text) == text


@pytest.mark.parametrize("piece", ["<a>", "</a>", "<x-y>", "<a></b>", "<a b='c'>", "<", "</"])
def test_no_text_takes_long_to_unwrap(piece: str) -> None:
    """Quadratic ones would take minutes here."""
    assert unwrapped(piece * 100_000)


def test_a_task_longer_than_what_is_read_of_it_keeps_its_head_and_tail() -> None:
    huge = {"role": "system", "content": f"Sort. {'x' * 300_000} Alphabetically."}
    task = read_chat([huge, *said("b, a")]).task
    assert (task[:6], task[-16:], len(task) < 2100) == ("Sort. ", " Alphabetically.", True)


@pytest.mark.parametrize(
    "told",
    [
        "Today is Monday.",
        "Today's date: 2026-11-30",
        "Current date: Friday, 9 May.",
        "The current time is 12:30.",
    ],
)
def test_the_date_is_no_part_of_the_task(told: str) -> None:
    assert read_chat([{"role": "system", "content": f"{told}\nSort."}, *said("b, a")]).task == "Sort."


def test_a_thousand_turns_are_read() -> None:
    reading = read_chat(said(*(f"What is {n} + 1?" for n in range(1000)), "and 3?"))
    assert (len(reading.earlier), reading) == (500, "and 3?")


@pytest.mark.parametrize(
    "last",
    [
        "and 15?",
        "what about 20?",
        "thanks!",
        "sort them by age",
        "now in SQL",
        "und 15?",
        "No, 3 hours.",
        "why",
    ],
)
def test_messages_that_lean_on_the_one_before(last: str) -> None:
    assert read_chat(said("What is 12 + 30?", "42", last)).follow_up
    assert not read_chat(said(last)).follow_up


@pytest.mark.parametrize(
    "last",
    [
        "Write a regular expression for two digits and a dash.",
        "Table cars(id, model, speed). Write SQL for the fastest car.",
        "Which of the following is a prime number: 4, 6, 7 or 9, and why is it one?" * 3,
    ],
)
def test_messages_that_stand_alone(last: str) -> None:
    assert not read_chat(said("What is 12 + 30?", "42", last)).follow_up


def test_a_reading_stays_whole_between_processes() -> None:
    reading = Reading("b", "task", ["a"], [LeftOut("<x>", 3)])
    copy = pickle.loads(pickle.dumps(reading))
    assert vars(copy) == vars(reading)
    assert (copy, type(copy)) == ("b", Reading)


def test_text_that_utf8_cannot_write_is_replaced_everywhere() -> None:
    messages = [{"role": "system", "content": "t\ud800"}, *said("a\ud800", "x", "b\udfff")]
    reading = read_chat(messages)
    assert (reading, reading.task, reading.earlier) == ("b?", "t?", ("a?",))


# One reading for every endpoint.


def completion(endpoint: Any = "chat/completions", **body: Any) -> Request:
    raw = json.dumps({"model": "coe", **body}).encode()
    return parse_completion(endpoint, raw, JSON_HEADERS, LIMITS, "1")


MESSAGES = [{"role": "system", "content": "Sort."}, *said("b, a", "a, b", "and <x-y>z</x-y> c too")]


def test_chats_and_dry_runs_are_read_alike() -> None:
    chat = completion(messages=MESSAGES).reading
    dry = parse_route(json.dumps({"messages": MESSAGES}).encode(), LIMITS, "1", "coe").reading
    assert vars(chat) == vars(dry)
    assert chat == dry
    assert chat.as_json() == {
        "task": "Sort.",
        "turns": ["b, a"],
        "last": "and  c too",
        "follow_up": True,
        "left_out": [{"what": "<x-y>", "chars": 12}],
    }


@pytest.mark.parametrize(("prompt", "text"), [("2+2=", "2+2="), (["a", "b"], "a\nb"), ([1, 2], "")])
def test_prompts_are_read_as_a_text(prompt: Any, text: str) -> None:
    reading = completion("completions", prompt=prompt).reading
    assert (reading, reading.earlier, reading.task) == (text, (), "")


def test_a_request_keeps_its_text_whole() -> None:
    """Combining answers and the cache need every word that was said."""
    request = completion(messages=said("2 + 2?\n<x-y>z</x-y>"))
    assert (request.text, str(request.reading)) == ("2 + 2?\n<x-y>z</x-y>", "2 + 2?")
