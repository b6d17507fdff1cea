"""docs/extending.md works as it stands: its files in a folder of their own are checked, tested and served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.docs import files_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
FILES = files_of(PAGE)
PARTS = ("router", "aggregator", "policy", "engine")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of the page, and nothing else."""
    made = tmp_path_factory.mktemp("mine")
    for name, text in FILES.items():
        (made / name).write_text(text.replace("port: 8000", "port: 0"), encoding="utf-8")
    return made


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with CoE installed, as a user has it, in ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_page_has_an_example_and_a_check_for_every_part() -> None:
    assert {f"my_{part}.py" for part in PARTS} < FILES.keys()
    assert {f"test_my_{part}.py" for part in PARTS} < FILES.keys()
    assert {"experts.yaml", "my_service.py"} < FILES.keys()


def test_every_example_keeps_its_contract(folder: Path) -> None:
    ran = python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", ".")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(PARTS)} passed" in ran.stdout


def coe(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "-P", "-c", "from coe.cli import main; main()", *arguments)


def test_the_file_passes_coe_check(folder: Path) -> None:
    checked = coe(folder.parent, "check", str(folder / "experts.yaml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "my_engine:Parrot, 1 at a time" in checked.stdout


def test_the_page_shows_the_error_that_coe_check_prints(folder: Path) -> None:
    wrong = (folder / "experts.yaml").read_text(encoding="utf-8").replace("{formal: [dear", "{frmal: [dear")
    (folder / "wrong.yaml").write_text(wrong, encoding="utf-8")
    checked = coe(folder, "check", "wrong.yaml")
    (shown,) = (line for line in PAGE.read_text(encoding="utf-8").splitlines() if "frmal" in line)
    assert checked.returncode == 1
    assert checked.stderr.splitlines()[0].replace("wrong.yaml", "experts.yaml") == shown


def test_coe_route_asks_the_router(folder: Path) -> None:
    file = str(folder / "experts.yaml")
    routed = coe(folder.parent, "route", "hey party", "--local", "--registry", file)
    assert routed.stdout.startswith("casual: 2 words of its field"), routed.stderr


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """Of the service that my_service.py runs."""
    process = subprocess.Popen(
        [sys.executable, "my_service.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        curl = next(line for line in process.stdout or () if line.startswith("curl"))
        yield curl.split("/v1/")[0].removeprefix("curl -s ")
        process.terminate()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()


def ask(url: str, question: str, **more: Any) -> dict[str, Any]:
    body = {"model": "coe", "messages": [{"role": "user", "content": question}], **more}
    answered = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)
    assert answered.status_code == 200, answered.text
    return dict(answered.json())


def test_the_router_and_the_engine_answer(url: str) -> None:
    formal, casual = ask(url, "dear sir"), ask(url, "hey lol")
    assert formal["choices"][0]["message"]["content"] == "Good day. You wrote: dear sir"
    assert casual["choices"][0]["message"]["content"] == "Hey, you said: hey lol"
    assert (casual["coe"]["router"], casual["coe"]["reason"]) == ("words", "2 words of its field")
    assert casual["coe"]["swap_ms"] > 0, "one expert took the place of the other"


def test_the_aggregator_answers(url: str) -> None:
    both = ask(url, "hey", coe={"experts": 2})
    assert both["coe"]["aggregator"] == "longest"
    assert both["choices"][0]["message"]["content"] == "Good day. You wrote: hey"


def test_the_engine_streams(url: str) -> None:
    body = {"model": "formal", "stream": True, "messages": [{"role": "user", "content": "so it is"}]}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as answered:
        events = [line.removeprefix("data: ") for line in answered.iter_lines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert "".join(deltas) == "Good day. You wrote: so it is"


def test_the_endpoint_answers_and_is_in_the_document(url: str) -> None:
    cards = httpx.get(f"{url}/v1/cards").json()["data"]
    assert [card["id"] for card in cards] == ["formal", "casual"]
    described = httpx.get(f"{url}/openapi.json").json()["paths"]["/v1/cards"]["get"]
    assert described["summary"] == "What each expert is best at"
    assert httpx.post(f"{url}/v1/cards").status_code == 405
