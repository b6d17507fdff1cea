"""What clients get when upstreams misbehave: the whole table of faults through the running service."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from coe.service.registry_file import parse_registry
from coe.service.service import build_service
from tests.support.serving import serving
from tests.support.upstream import FAULTS, STREAMS, Fault, ScriptedUpstream, good, scripted_upstream

REGISTRY = """
pool: {{hosts: [{{id: api, kind: remote, url: "{url}/v1", timeout_s: 0.3, max_failures: 1000}}]}}
experts:
  - {{id: first, host: api, model: first{fallback}}}
  - {{id: second, host: api, model: second}}
routers:
  default: first
  available: [{{name: first, kind: static, options: {{expert: first}}}}]
"""


@dataclass
class World:
    upstream: ScriptedUpstream
    http: httpx.AsyncClient

    async def ask(self, model: str, stream: bool, **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "6 x 7?"}], "stream": stream}
        return await self.http.post("/v1/chat/completions", json={**body, **fields})


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    async with scripted_upstream() as upstream:
        text = REGISTRY.format(url=upstream.url, fallback="")
        registry = parse_registry(text, folder / "experts.yaml")
        service = build_service(registry, folder)
        async with serving(service) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
            yield World(upstream, http)


def text_of(answer: httpx.Response, stream: bool) -> str:
    if not stream:
        return str(answer.json()["choices"][0]["message"]["content"])
    deltas = [choice["delta"] for each in payloads(answer) for choice in each.get("choices", ())]
    return "".join(delta.get("content") or "" for delta in deltas)


def payloads(answer: httpx.Response) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in answer.text.split("\n") if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]


def legs(answer: httpx.Response, stream: bool) -> list[tuple[str, bool]]:
    body = payloads(answer)[-1] if stream else answer.json()
    return [(leg["expert"], leg["outcome"] == "ok") for leg in body["coe"]["legs"]]


def named(fault: Fault) -> str:
    return f"{'stream' if fault.streamed else 'whole'}: {fault.name}"


IN_PARTS = {"content in parts"}
"""passed through as they are: their text is a list"""


@pytest.mark.parametrize("fault", FAULTS, ids=named)
async def test_a_fault_of_the_chosen_expert_ends_in_the_right_answer_or_a_clear_error(
    fault: Fault, tmp_path: Path
) -> None:
    async with world(tmp_path) as w:
        w.upstream.play("first", fault.act)
        answer = await w.ask("coe", fault.streamed)
        if fault.right == "client":
            assert (answer.status_code, w.upstream.asked_of("second")) == (400, 0)
            return
        assert answer.status_code == 200
        if fault.right == "broken":
            assert "error" in payloads(answer)[-1]
            assert "[DONE]" not in answer.text
            return
        outcomes = [("first", True)] if fault.right == "ok" else [("first", False), ("second", True)]
        assert legs(answer, fault.streamed) == outcomes
        if fault.name not in IN_PARTS:
            assert text_of(answer, fault.streamed) == "42"
        if fault.streamed:
            assert answer.text.endswith("data: [DONE]\n\n")
            assert '"usage"' not in answer.text, "nobody asked for it"


SENT_ONCE = [fault for fault in FAULTS if fault.right == "next"]


@pytest.mark.parametrize("fault", SENT_ONCE, ids=named)
async def test_where_nobody_else_can_be_asked_the_error_is_clear_and_nothing_was_sent_twice(
    fault: Fault, tmp_path: Path
) -> None:
    async with world(tmp_path) as w:
        w.upstream.play("first", fault.act)
        answer = await w.ask("first", fault.streamed)
        assert answer.status_code == (fault.status or 502)
        error = answer.json()["error"]
        assert error["message"]
        assert error["source"] == "expert"
        assert error["type"] == ("rate_limit_error" if fault.status == 429 else error["type"])
        assert w.upstream.asked_of("first") == 1, "it may have been paid for"


@pytest.mark.parametrize("fault", [each for each in FAULTS if not each.streamed], ids=named)
async def test_a_proposer_with_a_fault_costs_the_answer_nothing(fault: Fault, tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.upstream.play("first", fault.act)
        answer = await w.ask("coe", False, coe={"experts": 2, "aggregate": "vote"})
        assert answer.status_code == 200
        if fault.name not in IN_PARTS:
            assert text_of(answer, False) == "42"


async def test_the_next_request_after_a_fault_is_answered(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for fault in FAULTS:
            w.upstream.play("first", fault.act, good(fault.streamed))
            await w.ask("first", fault.streamed)
            assert (await w.ask("first", fault.streamed)).status_code == 200, fault.name


BY_LITELLM = """
pool: {hosts: [{id: api, kind: remote, provider: openai, api_key_env: SCRIPTED_KEY, timeout_s: 90}]}
experts: [{id: first, host: api, model: first}]
routers:
  default: first
  available: [{name: first, kind: static, options: {expert: first}}]
"""
BROKEN_BY_PROVIDERS = [
    fault for fault in STREAMS if fault.name in ("well", "no end", "reset", "html", "error in mid-stream")
]


@pytest.mark.parametrize("fault", BROKEN_BY_PROVIDERS, ids=named)
async def test_a_providers_stream_that_breaks_off_is_broken_off_for_the_client(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteLLM ends every stream with "stop", whatever came."""
    monkeypatch.setenv("SCRIPTED_KEY", "sk-none")
    async with scripted_upstream() as upstream:
        monkeypatch.setenv("OPENAI_API_BASE", f"{upstream.url}/v1")
        upstream.play("first", fault.act)
        service = build_service(parse_registry(BY_LITELLM, tmp_path / "experts.yaml"), tmp_path)
        async with serving(service) as url, httpx.AsyncClient(base_url=url, timeout=120) as http:
            answer = await World(upstream, http).ask("coe", True)
    assert upstream.asked_of("first") >= 1
    if fault.right == "ok":
        assert text_of(answer, True) == "42"
        assert answer.text.endswith("data: [DONE]\n\n")
    else:
        assert answer.status_code >= 500 or "error" in payloads(answer)[-1]
        assert "[DONE]" not in answer.text
