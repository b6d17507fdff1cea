"""Executable checks of answers, the sandbox they run in, and the aggregator that uses them."""

from __future__ import annotations

import math

import pytest

from coe.aggregators import (
    checks,
)
from coe.aggregators.best_of import chance_of_yes
from coe.aggregators.sandbox import Bounds, Sandbox
from coe.testing.conformance_aggregator import (
    ScriptedAnswers,
    panel,
    proposal,
    request,
)
from tests.support.combining import built


@pytest.mark.parametrize(
    ("question", "text", "expected"),
    [
        ("What is 12 + 30?", "42", True),
        ("What is 12 + 30?", "The answer is 43.", False),
        ("What is (2 + 3) * 4?", "20", True),
        ("Why?", "2 + 2 = 5, so it is odd", False),
        ("Write a poem", "The sea", None),
        ("What is 1 / 0?", "0", None),
        ("Is 3 - 1 more than 2 - 1?", "yes", None),
    ],
)
def test_arithmetic_is_recomputed(question: str, text: str, expected: bool | None) -> None:
    assert checks.arithmetic(question, text) is expected


@pytest.mark.parametrize("expression", ["9**9**9", "__import__('os')", "1 if 2 else 3", "(" * 300, "2 +"])
def test_only_arithmetic_is_evaluated(expression: str) -> None:
    assert checks.evaluate(expression) is None


def test_json_is_checked_against_its_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert checks.json_form(wanted, '{"a": 1}') is True
    assert checks.json_form(wanted, '{"a": "1"}') is False
    assert checks.json_form({"type": "json_object"}, "[1]") is False
    assert checks.json_form(None, "{}") is None


SANDBOX = Sandbox(Bounds(seconds=2.0, memory_mb=256))


def test_unit_tests_of_the_question_run_on_the_code_of_the_answer() -> None:
    question = "Write double(x).\nassert double(2) == 4\nassert double(0) == 0"
    assert checks.python_tests(question, "```python\ndef double(x):\n    return 2 * x\n```", SANDBOX) is True
    assert checks.python_tests(question, "```python\ndef double(x):\n    return x\n```", SANDBOX) is False
    assert checks.python_tests("Write a poem", "The sea", SANDBOX) is None


def test_a_programme_is_bounded_in_time_memory_and_files() -> None:
    quick = Sandbox(Bounds(seconds=0.5, memory_mb=256, file_mb=1))
    assert not quick.run("while True: pass").ok
    assert not quick.run("x = bytearray(10**9)").ok
    assert not quick.run("open('big', 'wb').write(b'x' * 10**7)").ok
    shown = SANDBOX.run("import os; print(sorted(os.environ), os.listdir('.'))").output
    assert "COE_DATA" not in shown
    assert "programme.py" in shown


def test_a_programme_does_not_see_the_packages_of_the_service() -> None:
    assert not SANDBOX.run("import numpy").ok


async def test_an_answer_that_passes_its_check_is_taken_at_once() -> None:
    answers = ScriptedAnswers(panel("5", "4", "3"))
    verdict = await built("best_of", checks=["arithmetic"]).combine(request(), answers)
    assert verdict.proposal.text == "4"
    assert len(answers.read) == 2


async def test_checks_are_off_by_default() -> None:
    verdict = await built("best_of").combine(request(), ScriptedAnswers(panel("5", "4")))
    assert verdict.proposal.text == "5"


async def test_a_verifier_says_which_answer_it_trusts() -> None:
    answers = ScriptedAnswers(panel("5", "4"), replies=["No.", "Yes"])
    verdict = await built("best_of", expert="e3").combine(request(), answers)
    assert verdict.proposal.text == "4"
    assert {expert for expert, _ in answers.asks} == {"e3"}


def test_the_verifier_s_log_probabilities_count_where_they_are_given() -> None:
    said = proposal("e0", "yes")
    tops = [{"token": " Yes", "logprob": math.log(0.2)}, {"token": "no", "logprob": math.log(0.6)}]
    said.body["choices"][0]["logprobs"] = {"content": [{"token": "no", "top_logprobs": tops}]}
    assert chance_of_yes(said) == pytest.approx(0.25)
    assert chance_of_yes(proposal("e0", "No, it is not")) == 0.0
