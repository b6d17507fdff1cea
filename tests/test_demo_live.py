"""The main job, on real vLLM: `coe serve` with the CPU experts, asked through the openai client.

Needs the checkpoints that `make experts` makes under models/; `make test` runs it.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from coe.demo.questions import distinct_questions
from coe.demo.skills import all_skills, skill_named
from coe.eval.importers.writing import Imported, OutcomeRow, QuestionRow, write_outcome_set

ROOT = Path(__file__).parent.parent
COE = Path(sys.executable).with_name("coe")
pytestmark = [pytest.mark.real_vllm, pytest.mark.models, pytest.mark.timeout(600)]

QUESTIONS = {
    "arithmetic": ("Work out 20 + 15.", "35"),
    "units": ("Rewrite 4 km using m.", "4000 m"),
    "calendar": ("Which date do we have 8 days after November 12?", "20 November"),
    "json": (
        "Pull name and age from the sentence into JSON: Maria has lived in Berlin and is now 60.",
        '{"name": "Maria", "age": 60}',
    ),
    "sql": (
        "Write a query on users(id, name, age, city). Who is older than 74? Names only.",
        "SELECT name FROM users WHERE age > 74",
    ),
    "letters": ("Give road a capital letter at the start only.", "Road"),
    "logic": ("Invert all the truth values in F F F T.", "T T T F"),
    "sorting": ("Write 11, 55, 32, 99 from the lowest to the highest.", "11, 32, 55, 99"),
    "regex": ("Show a regex that fits one or more digits followed by an underscore.", r"\d+_"),
}


NEWCOMER = "units"
PROBED = (NEWCOMER, "calendar", "sql", "regex")


@dataclass(frozen=True)
class Served:
    url: str
    process: subprocess.Popen[bytes]
    registry: Path

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _registry(folder: Path, admin_port: int) -> Path:
    """The committed experts.yaml in a folder of its own, with an admin API, probe questions and a router that
    learns from profiles."""
    text = (ROOT / "experts.yaml").read_text(encoding="utf-8")
    text = text.replace("model: models/", f"model: {ROOT}/models/")
    (folder / "token").write_text("of-this-test-" * 4, encoding="utf-8")
    admin = f"  admin: {{port: {admin_port}, token_file: token, any_folder: true}}\n"
    for place, more in (("  port: 8000\n", admin), ("  available:\n", "    - {name: knn, kind: knn}\n")):
        assert text.count(place) == 1
        text = text.replace(place, place + more)
    file = folder / "experts.yaml"
    file.write_text(text + "\nprobes: probes\n", encoding="utf-8")
    write_outcome_set(folder / "probes", _probes(), {})
    return file


def _probes() -> Imported:
    """Training questions of four skills; of three of them it is known what their specialists can do."""
    asked = {skill: distinct_questions(skill_named(skill), "train", 10, 5) for skill in PROBED}
    questions = [
        QuestionRow(q.id, q.text, skill, gold=q.answer, split="train")
        for skill in PROBED
        for q in asked[skill]
    ]
    outcomes = [
        OutcomeRow(row.question_id, skill, float(row.category == skill))
        for row in questions
        for skill in PROBED
        if skill != NEWCOMER
    ]
    return Imported(tuple(questions), tuple(outcomes))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    missing = [name for name in ("base", *QUESTIONS) if not (ROOT / "models" / name).exists()]
    if missing:
        pytest.skip(f"no models/{missing[0]}: run `make experts`")
    log = (tmp_path_factory.mktemp("serve") / "stderr.log").open("wb")
    port = _free_port()
    registry = _registry(tmp_path_factory.mktemp("registry"), _free_port())
    command = [str(COE), "serve", "--registry", str(registry), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_ready(url, process, Path(log.name))
        yield Served(url, process, registry)
    finally:
        process.terminate()
        process.wait(60)


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"coe serve ended: {log.read_text()[-2000:]}")
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"not ready in time: {log.read_text()[-2000:]}")


def _receipt(answer: object) -> dict[str, object]:
    extra = getattr(answer, "model_extra", None) or {}
    assert "coe" in extra
    return dict(extra["coe"])


def test_one_question_of_each_kind_is_answered_right_by_its_specialist_in_one_slot(served: Served) -> None:
    swaps = 0
    for skill in all_skills():
        question, expected = QUESTIONS[skill.name]
        answer = served.client.chat.completions.create(
            model="coe",
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=skill.max_tokens,
        )
        receipt = _receipt(answer)
        assert receipt["expert"] == skill.name, receipt["reason"]
        assert answer.choices[0].message.content == expected
        swaps += receipt["legs"][0]["wake_from"] == "cold"  # type: ignore[index]
    metrics = httpx.get(f"{served.url}/metrics").text
    assert swaps >= len(QUESTIONS) - 1, "every expert had to be swapped in"
    assert metrics


def test_a_pinned_expert_answers_and_streams_to_the_real_client(served: Served) -> None:
    chunks = list(
        served.client.chat.completions.create(
            model="letters",
            messages=[{"role": "user", "content": QUESTIONS["letters"][0]}],
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Road"
    assert any(chunk.usage and chunk.usage.completion_tokens for chunk in chunks)
    receipts = [c.model_extra["coe"] for c in chunks if c.model_extra and c.model_extra.get("coe")]
    assert [receipt["router"] for receipt in receipts] == ["pinned"]


def test_several_specialists_in_one_slot_are_voted_on_and_synthesised(served: Served) -> None:
    def ask(stream: bool = False, **coe: object) -> Any:
        return served.client.chat.completions.create(
            model="coe",
            messages=[{"role": "user", "content": QUESTIONS["arithmetic"][0]}],
            temperature=0,
            max_tokens=8,
            stream=stream,
            extra_body={"coe": coe},
        )

    voted = ask(experts=3, aggregate="weighted_vote")
    receipt = voted.model_extra["coe"]
    assert voted.choices[0].message.content == QUESTIONS["arithmetic"][1]
    assert (receipt["expert"], receipt["aggregator"]) == ("arithmetic", "weighted_vote")
    assert [leg["role"] for leg in receipt["legs"]] == ["proposer"] * 3
    reported = sum(leg["completion_tokens"] for leg in receipt["usage_by_leg"])
    assert voted.usage.completion_tokens == reported > 0

    sampled = ask(experts=3, aggregate="self_consistency")
    assert {leg["expert"] for leg in sampled.model_extra["coe"]["legs"]} == {"arithmetic"}

    chunks = list(ask(stream=True, experts=2, aggregate="synthesise"))
    receipt = chunks[-1].model_extra["coe"]
    assert receipt["aggregator"] == "synthesise"
    assert all(leg["outcome"] == "ok" for leg in receipt["legs"])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_concurrent_questions_for_all_experts_end_exactly_once(served: Served) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def ask(skill: str) -> str:
        answer = served.client.chat.completions.create(
            model="coe",
            messages=[{"role": "user", "content": QUESTIONS[skill][0]}],
            temperature=0,
            max_tokens=40,
        )
        return answer.choices[0].message.content or ""

    asked = list(QUESTIONS) * 3
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(ask, asked))
    assert answers == [QUESTIONS[skill][1] for skill in asked]


def test_a_prompt_longer_than_the_context_is_a_clear_error(served: Served) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        served.client.chat.completions.create(
            model="base", messages=[{"role": "user", "content": "word " * 3000}], max_tokens=5
        )
    assert refused.value.code == "context_length_exceeded"


def test_the_demo_evaluation_reports_the_router_beside_its_baselines(served: Served, tmp_path: Path) -> None:
    figures = tmp_path / "demo.json"
    command = [
        str(COE), "eval", "demo", "--url", served.url, "--per-skill", "2",
        "--record", str(tmp_path / "answers.jsonl"), "--json", str(figures),
    ]  # fmt: skip
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"best single .*\n.*random expert.*\n.*oracle", shown)
    summary = json.loads(figures.read_text())
    assert summary["routed"]["total"] == 18
    assert summary["routed"]["right"] > summary["experts"]["base"]["right"]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert again == shown, "a rerun asks nothing again"


def test_an_expert_that_comes_back_is_profiled_by_asking_it_and_routed_to_for_its_skill(
    served: Served, tmp_path: Path
) -> None:
    def coe(*command: str) -> str:
        whole = [str(COE), *command, "--registry", str(served.registry), "--json"]
        return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    def ask(question: str) -> Any:
        return served.client.chat.completions.create(
            model="coe",
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=24,
            extra_body={"coe": {"router": "knn"}},
        )

    coe("experts", "remove", NEWCOMER)
    question, answer = QUESTIONS[NEWCOMER]
    without = _receipt(ask(question))
    assert without["expert"] != NEWCOMER

    entry = {
        "id": NEWCOMER,
        "host": "cpu-slot",
        "model": str(ROOT / "models" / NEWCOMER),
        "parameters_b": 0.135,
    }
    file = tmp_path / "units.json"
    file.write_text(json.dumps(entry), encoding="utf-8")
    (joined,) = json.loads(coe("experts", "add", str(file), "--profile"))["experts"]
    assert not joined["shadow"], joined["reasons"]
    assert joined["profile"]["questions"] == 40

    profile = json.loads((served.registry.parent / "profiles/experts" / f"{NEWCOMER}.json").read_text())
    scores = {skill: tally["mean"] for skill, tally in profile["categories"].items()}
    assert scores.pop(NEWCOMER) >= 0.7
    assert max(scores.values()) <= 0.2
    again = ask(question)
    assert (_receipt(again)["expert"], again.choices[0].message.content) == (NEWCOMER, answer)
