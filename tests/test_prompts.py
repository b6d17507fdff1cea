"""Many prompts in one request: one answer for the client, and turns with everybody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from coe.access.api_keys import Holder, KeyLimits, digest
from coe.core.types import EngineAnswer, EngineCall
from coe.engines.text import text_body
from coe.gateway import middlewares as building
from coe.registry.schema import Registry
from coe.service.service import LocalService, build_service
from coe.state.memory import MemoryStore
from coe.testing.engines import FakeAnswer, FakeEngine, Script
from tests.support.serving import serving
from tests.support.waiting import until

KEY = "coe-secret"


class Echo(FakeEngine):
    """Answers with the prompt that it was asked, and after ``silent_after`` of them no more. ``most``: of its
    answers at once."""

    most = 0
    silent_after = 10_000

    async def ask(self, expert: str, call: EngineCall) -> EngineAnswer:
        silent = len(self.called("ask")) >= self.silent_after
        answer = await super().ask(expert, call)
        if silent:
            await asyncio.Event().wait()
        if not isinstance(answer, FakeAnswer):
            raise TypeError(answer)
        prompt = call.body.get("prompt", "a chat")
        answer._body = text_body(expert, call, f"<{prompt}> is it")
        self.most = max(self.most, self.answering[expert])
        return answer


@dataclass
class World:
    http: httpx.AsyncClient
    engine: Echo
    service: LocalService
    store: MemoryStore

    async def ask(self, prompt: Any, **fields: Any) -> httpx.Response:
        body = {"model": "sums", "prompt": prompt, **fields}
        headers = {"Authorization": f"Bearer {KEY}"}
        return await self.http.post("/v1/completions", json=body, headers=headers)

    async def used(self) -> dict[str, float]:
        """Once nothing runs any more."""
        await until(lambda: not self.service.pool.snapshot().running and not self.store._reserved)
        (used,) = [*self.store._totals.values()] or [{}]
        return used

    def queued(self) -> int:
        return sum(each.queued for each in self.service.pool.snapshot().experts)


@asynccontextmanager
async def world(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: Script | None = None,
    max_running: int = 4,
    allowed: KeyLimits = KeyLimits(tokens_per_month=1e9),  # noqa: B008
    **limits: Any,
) -> AsyncIterator[World]:
    holder = Holder(id="alice", sha256=digest(KEY), limits=allowed)
    (folder / "keys.yaml").write_text(
        json.dumps({"keys": [holder.model_dump(mode="json", exclude_none=True)]})
    )
    registry = Registry.model_validate(
        {
            "access": {"keys_file": "keys.yaml"},
            "pool": {"hosts": [{"id": "slot", "max_running": max_running}]},
            "experts": [{"id": name, "host": "slot", "model": name} for name in ("sums", "words")],
            "routers": {
                "default": "static",
                "available": [{"name": "static", "kind": "static", "options": {"expert": "words"}}],
            },
            "limits": limits,
        }
    )
    engine, store = Echo("slot", script), MemoryStore()
    monkeypatch.setattr(building, "open_store", lambda _: store)
    service = build_service(registry, folder, lambda *_: engine)
    async with serving(service) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        yield World(http, engine, service, store)
        await until(lambda: not service.pool.snapshot().running)
    assert engine.violations == []


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n") if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def streamed(answer: httpx.Response) -> dict[int, str]:
    texts: dict[int, str] = {}
    for chunk in events(answer):
        for choice in () if "coe" in chunk else chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


@pytest.mark.parametrize("model", ["sums", "coe"])
@pytest.mark.parametrize(
    "prompts",
    [["one", "two"], [f"p{number}" for number in range(20)], ["alone"], ["same", "same", "same"]],
    ids=["two", "twenty", "one", "equal"],
)
async def test_each_prompt_has_its_answer_at_its_place(
    model: str, prompts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch) as w:
        whole = await w.ask(prompts, model=model)
        stream = await w.ask(prompts, model=model, stream=True, stream_options={"include_usage": True})
        used = await w.used()
    body = whole.json()
    shown = [str(prompts) if len(prompts) == 1 else prompt for prompt in prompts]
    assert [(c["index"], c["text"]) for c in body["choices"]] == [
        (place, f"<{prompt}> is it") for place, prompt in enumerate(shown)
    ]
    assert streamed(stream) == {place: f"<{prompt}> is it" for place, prompt in enumerate(shown)}
    assert stream.text.endswith("data: [DONE]\n\n")
    assert len({chunk["id"] for chunk in events(stream) if "coe" not in chunk}) == 1
    tokens = sum(len(f"<{prompt}> is it".split(" ")) for prompt in shown)
    assert body["usage"]["completion_tokens"] == tokens
    (usage,) = [chunk["usage"] for chunk in events(stream) if chunk.get("usage")]
    assert usage == body["usage"]
    legs = body["coe"]["legs"]
    assert [leg["outcome"] for leg in legs] == ["ok"] * len(prompts)
    assert {leg["expert"] for leg in legs} == {"words" if model == "coe" else "sums"}
    assert (used["requests"], used["tokens"]) == (2 * len(prompts), 2 * body["usage"]["total_tokens"])


async def test_lists_of_token_ids_are_prompts_and_token_ids_alone_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch) as w:
        many, one = await w.ask([[1, 2], [3]]), await w.ask([1, 2, 3])
    assert [choice["text"] for choice in many.json()["choices"]] == ["<[1, 2]> is it", "<[3]> is it"]
    assert [choice["text"] for choice in one.json()["choices"]] == ["<[1, 2, 3]> is it"]


async def test_several_answers_to_each_prompt_are_numbered_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch) as w:
        whole = (await w.ask(["a", "b", "c"], n=2)).json()
        stream = await w.ask(["a", "b", "c"], n=2, stream=True)
        used = await w.used()
    texts = {place: f"<{prompt}> is it" for place, prompt in enumerate("aabbcc")}
    assert {choice["index"]: choice["text"] for choice in whole["choices"]} == streamed(stream) == texts
    assert used["requests"] == 12


@pytest.mark.parametrize(("max_running", "most"), [(1, 1), (2, 1), (4, 2), (16, 8)])
async def test_a_request_holds_half_of_an_experts_places_at_most(
    max_running: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(chunk_s=0.01)
    async with world(tmp_path, monkeypatch, script, max_running) as w:
        assert (await w.ask([f"p{number}" for number in range(20)])).status_code == 200
        assert w.engine.most == most


@pytest.mark.parametrize("stream", [False, True])
async def test_others_are_served_between_the_prompts(
    stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(first_byte_s=0.005)
    gate = script.hold("ask")
    async with world(tmp_path, monkeypatch, script, max_running=2) as w:
        many = asyncio.create_task(w.ask([f"p{number}" for number in range(60)], stream=stream))
        await until(lambda: w.engine.called("ask"))
        other = asyncio.create_task(w.ask("other", model="words"))
        await until(lambda: w.queued() == 1)
        same = asyncio.create_task(w.ask("same"))
        await until(lambda: len(w.engine.called("ask")) + w.queued() == 3)
        gate.set()
        answers = await asyncio.gather(many, other, same)
        asked = w.engine.called("ask")
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len(asked) == 62
    assert 0 < asked.index("words") < 60, "while prompts were left"
    assert (len(streamed(answers[0])) if stream else len(answers[0].json()["choices"])) == 60


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_prompt_that_nobody_can_answer_ends_the_request(
    stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(first_byte_s=0.002)
    script.fail("ask", None, None, None, None, None, "broken")
    async with world(tmp_path, monkeypatch, script) as w:
        answer = await w.ask([f"p{number}" for number in range(20)], stream=stream)
        used = await w.used()
        asked = len(w.engine.called("ask"))
    if stream:
        assert answer.status_code == 200
        assert events(answer)[-1]["error"]["code"] == "engine_failed"
        assert "[DONE]" not in answer.text
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_failed")
    assert 6 <= asked <= 8
    assert used["requests"] == asked


async def test_an_error_of_the_first_prompts_is_no_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script()
    script.fail("ask", "broken", "broken")
    async with world(tmp_path, monkeypatch, script) as w:
        answer = await w.ask(["a", "b", "c"], stream=True)
    assert (answer.status_code, answer.headers["content-type"]) == (502, "application/json")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_pays_for_the_prompts_that_were_asked(
    stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch) as w:
        w.engine.silent_after = 5
        asking = asyncio.create_task(w.ask([f"p{number}" for number in range(40)], stream=stream))
        await until(lambda: len(w.engine.called("ask")) == 7)
        asking.cancel()
        used = await w.used()
        w.engine.answering.clear()
    assert used["requests"] == 7
    assert used["gpu_seconds"] > 0


# What counts


@pytest.mark.parametrize("prompts", [["p"] * 4, [[1]] * 4, ["p"] * 50])
async def test_more_prompts_than_the_limit_are_a_400(
    prompts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch, max_prompts=3) as w:
        answer = await w.ask(prompts)
        fitting = await w.ask(prompts[:3])
    assert (answer.status_code, fitting.status_code) == (400, 200)
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("too_many_prompts", "prompt")
    assert f"{len(prompts)} prompts" in error["message"]


async def test_the_usual_bound_on_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, monkeypatch) as w:
        assert (await w.ask(["p"] * 257)).json()["error"]["code"] == "too_many_prompts"
        assert len((await w.ask(["p"] * 256)).json()["choices"]) == 256


@pytest.mark.parametrize(
    "fields", [{"prompt": ["p"] * 4}, {"prompt": "p", "n": 4}, {"prompt": "p", "best_of": 4}]
)
async def test_prompts_and_choices_count_to_the_rate(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch, allowed=KeyLimits(requests_per_minute=10)) as w:
        statuses = [(await w.ask(**fields)).status_code for _ in range(3)]
        never = await w.ask(["p"] * 11)
        still = await w.ask("p")
    assert statuses == [200, 200, 429]
    assert (never.status_code, never.json()["error"]["code"]) == (400, "too_many_prompts")
    assert still.status_code == 200, "a refused request takes nothing"


async def test_prompts_count_to_the_months_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, monkeypatch, allowed=KeyLimits(requests_per_month=10)) as w:
        first = await w.ask(["p"] * 8)
        await w.used()
        third, second, last = await w.ask(["p"] * 3), await w.ask(["p"] * 2), await w.ask("p")
    assert [each.status_code for each in (first, third, second, last)] == [200, 429, 200, 429]
    assert "has no 3 left" in third.json()["error"]["message"]
    assert "used up" in last.json()["error"]["message"]
