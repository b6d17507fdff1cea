"""Executable checks of answers, the sandbox they run in, and the aggregator that uses them."""

from __future__ import annotations

import math
import os
import socket
import time
from pathlib import Path

import pytest

from coe.aggregators import checks, sandbox
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
        ("What is 1,000 + 5?", "1005", True),
        ("What is 1,000 + 5?", "1,005", True),
        ("What is 1,000 + 5?", "5", False),
        ("2 x 3 + 4", "10", True),
        ("2 x 3 + 4", "14", False),
        ("2 ^ 3 + 1", "9", True),
        ("2 ** 3 + 1", "9", True),
        ("10 / 3", "3.33", True),
        ("10 / 3", "3.4", None),
        ("10 / 3", "3.5", False),
        ("7 / 9", "0.778", True),
        ("7 / 9", "0.77", True),
        ("7 / 9", "0.8", None),
        ("What is 1.5 + 2?", "3.5", True),
        ("Read pages 10-20 and tell the main number.", "7", None),
        ("On 2026-11-30, what is the number?", "7", None),
        ("Call 555-1234 and say a number", "3", None),
        ("Why?", "pages 3-4 = 2 pages", None),
        ("What is 3 + 4 of the 9 apples?", "2", None),
        ("Why?", "10 / 3 = 3.33", None),
        ("Why?", "2 * 1,000 = 2,000", None),
        ("Why?", "x = 2 + 3y, 4 * 2a = 5", None),
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
    assert "[]" in shown, "the folder is empty"


def test_a_programme_does_not_see_the_packages_of_the_service() -> None:
    assert not SANDBOX.run("import numpy").ok


TESTED = "Write add(a, b).\nassert add(2, 3) == 5"
RIGHT, WRONG = "def add(a, b):\n    return a + b\n", "def add(a, b):\n    return a * b\n"
ENDS = [
    "import sys\nsys.exit(0)",
    "import os\nos._exit(0)",
    "if __name__ == '__main__':\n    import unittest\n    unittest.main()",
    "raise SystemExit",
    "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "import os\nos.kill(1, 9)\nos.execv('/bin/true', ['true'])",
    "def add(a, b):\n    raise SystemExit(0)",
]


@pytest.mark.parametrize("end", ENDS)
def test_code_that_ends_before_the_tests_ran_does_not_pass(end: str) -> None:
    assert checks.python_tests(TESTED, WRONG + end, SANDBOX) is False


@pytest.mark.parametrize("end", ["import sys\nsys.exit(1)", "raise SystemExit('done')", "print(add(1, 2))"])
def test_right_code_passes_however_it_ends(end: str) -> None:
    assert checks.python_tests(TESTED, RIGHT + end, SANDBOX) is True


def test_an_assert_over_several_lines_is_one_test() -> None:
    question = ">>> assert add(\n...     2,\n...     3,\n... ) == 5\n  assert (add(1, 1)\n      == 2)"
    assert len(checks.asserts(question)) == 2
    assert checks.python_tests(question, RIGHT, SANDBOX) is True
    assert checks.python_tests(question, WRONG, SANDBOX) is False
    assert checks.python_tests("assert that you are well", RIGHT, SANDBOX) is None


def test_what_a_client_wrote_sees_no_keys_and_no_sockets(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text("secret")
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "vllm.sock"))
        engine.listen()
        for line in (
            f"assert open({str(keys)!r}).read()",
            f"assert open({str(keys)!r}, 'w')",
            "assert open('/etc/passwd').read()",
            "assert open('/usr/left', 'w')",
            f"assert not __import__('socket').socket(1).connect({engine.getsockname()!r})",
            "assert __import__('os').listdir('/proc')",
            "assert __import__('os').kill(1, 0) is None and __import__('os').getppid() > 1",
            "assert not __import__('os').chroot('.')",
        ):
            assert checks.python_tests(f"Write it.\n{line}", RIGHT, SANDBOX) is False, line
    assert keys.read_text() == "secret"


def test_no_process_stays_behind() -> None:
    marker = f"{os.getpid()}{time.monotonic_ns()}"
    detached = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execv('/bin/sleep', ['sleep', '9{marker[-6:]}'])\n    os._exit(0)\ntime.sleep(0.3)\n"
    )
    SANDBOX.run(detached)
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if f"9{marker[-6:]}".encode() in command]


def test_where_the_kernel_allows_no_fence_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = sandbox._CHILD.read_text().replace("_must(_libc.unshare(_NAMESPACES))", "raise OSError(1, 'no')")
    (tmp_path / "child.py").write_text(child)
    monkeypatch.setattr(sandbox, "_CHILD", tmp_path / "child.py")
    assert checks.python_tests(TESTED, RIGHT, SANDBOX) is None
    assert SANDBOX.run("print('ran')").output.startswith("no namespaces")


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
