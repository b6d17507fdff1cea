"""Answers of several experts as the real openai client sees them: the real pool, a scripted engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from coe.registry.schema import Registry
from coe.service.service import LocalService, build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.serving import serving
from tests.support.waiting import until

ASK: list[Any] = [{"role": "user", "content": "What is 2+2?"}]
EXPERTS = ("sums", "words", "base")
THREE = {"coe": {"experts": 3}}


class SpeakingEngine(FakeEngine):
    """Each expert says its own text."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__("slot", Script())
        self._texts = texts

    async def ask(self, expert: str, call: Any) -> Any:
        self.script.text = self._texts.get(expert, "no idea what to say")
        return await super().ask(expert, call)


@dataclass
class World:
    client: AsyncOpenAI
    http: httpx.AsyncClient
    engine: SpeakingEngine
    service: LocalService

    async def ask(self, **fields: Any) -> Any:
        return await self.client.chat.completions.create(
            **{"model": "coe", "messages": ASK, "extra_body": THREE, **fields}
        )


def registry(**aggregator: Any) -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}], "min_residency_s": 0},
            "experts": [{"id": name, "host": "slot", "model": name, "skills": [name]} for name in EXPERTS],
            "routers": {
                "default": "static",
                "available": [{"name": "static", "kind": "static", "options": {"expert": "sums"}}],
            },
            "aggregator": {"kind": "vote", **aggregator},
            "routes": [{"model": "coe-three", "experts": 3, "description": "asks three"}],
        }
    )


@asynccontextmanager
async def world(engine: SpeakingEngine, **aggregator: Any) -> AsyncIterator[World]:
    service = build_service(registry(**aggregator), Path(), lambda *_: engine)
    async with (
        serving(service) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        httpx.AsyncClient(base_url=url) as http,
    ):
        yield World(client, http, engine, service)
    assert engine.violations == []
    assert engine.answering.total() == 0, "every leg ended"


def legs(answer: Any) -> dict[str, str]:
    return {f"{leg['role']} {leg['expert']}": leg["outcome"] for leg in answer.model_extra["coe"]["legs"]}


async def test_a_vote_in_one_slot_ends_every_leg_and_sums_usage() -> None:
    async with world(SpeakingEngine({"sums": "5", "words": "4", "base": "4"})) as w:
        raw = await w.client.chat.completions.with_raw_response.create(
            model="coe", messages=ASK, extra_body=THREE
        )
        answer = raw.parse()
        assert w.service.pool.snapshot().running == 0
    assert answer.choices[0].message.content == "4"
    receipt = (answer.model_extra or {})["coe"]
    assert (answer.model, receipt["expert"], receipt["aggregator"]) == ("words", "words", "vote")
    assert raw.headers["x-coe-expert"] == "words"
    assert set(legs(answer).values()) == {"ok"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert [leg["completion_tokens"] for leg in receipt["usage_by_leg"]] == [1, 1, 1]


async def test_early_stop_withdraws_the_swap_of_the_leg_that_is_not_needed() -> None:
    async with world(SpeakingEngine({"sums": "4", "words": "4", "base": "5"})) as w:
        answer = await w.ask()
        loaded = list(w.engine.called("ensure_ready"))
        assert w.service.pool.snapshot().queued == 0
        follow_up = await w.ask(extra_body={"coe": {"experts": 1, "aggregate": "first"}})
    assert answer.choices[0].message.content == "4"
    assert legs(answer)["proposer base"] == "not needed"
    assert "base" not in loaded, "nothing was swapped in for a vote that could not matter"
    assert follow_up.choices[0].message.content == "4"


async def test_the_client_s_stream_takes_progress_comments_and_the_replayed_answer() -> None:
    async with world(SpeakingEngine({"sums": "it is four", "words": "it is four", "base": "no"})) as w:
        stream = await w.ask(stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        body = {"model": "coe-three", "messages": ASK, "stream": True}
        raw = (await w.http.post("/v1/chat/completions", json=body)).text
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "it is four"
    usage = [chunk.usage for chunk in chunks if chunk.usage]
    assert [u.completion_tokens for u in usage] == [6], "of the legs that answered"
    assert raw.startswith(": coe proposer sums done\n\n")
    assert ": coe proposer words done\n\n" in raw
    assert raw.index(": coe") < raw.index("data:")
    assert raw.count("[DONE]") == 1
    assert legs(chunks[-1])["proposer sums"] == "ok"


async def test_a_written_answer_streams_through_the_client_s_accumulator() -> None:
    engine = SpeakingEngine({"sums": "5", "words": "4", "base": "I think it is four"})
    async with (
        world(engine, kind="synthesise", options={"expert": "base"}) as w,
        w.client.chat.completions.stream(
            model="coe", messages=ASK, extra_body={"coe": {"experts": 2}}
        ) as stream,
    ):
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "I think it is four"
    assert final.choices[0].finish_reason == "stop"
    assert engine.called("ask") == ["sums", "words", "base"]


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_cancels_all_legs(stream: bool) -> None:
    engine = SpeakingEngine({})
    engine.script.hold("ask")
    async with world(engine) as w:
        asking = asyncio.create_task(w.ask(stream=stream))
        await until(lambda: w.engine.called("ask") == ["sums"])
        assert w.service.pool.snapshot().queued == 2
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: w.service.pool.snapshot().queued + w.service.pool.snapshot().running == 0)
        assert w.engine.called("ensure_ready") == ["sums"]


async def test_too_few_answers_are_a_503_that_names_each_leg() -> None:
    engine = SpeakingEngine({})
    engine.script.fail("ask", "it broke", "it broke too")
    async with world(engine) as w:
        with pytest.raises(
            openai.InternalServerError, match="sums: failed: engine_failed, it broke"
        ) as caught:
            await w.ask()
        await until(lambda: w.service.pool.snapshot().queued + w.service.pool.snapshot().running == 0)
    assert (caught.value.status_code, caught.value.code) == (503, "quorum_missed")


async def test_unknown_names_are_a_400_with_the_nearest_and_routes_are_listed() -> None:
    async with world(SpeakingEngine({})) as w:
        with pytest.raises(openai.BadRequestError, match='did you mean "weighted_vote"') as caught:
            await w.ask(extra_body={"coe": {"aggregate": "weigted_vote"}})
        listed = [model.id async for model in w.client.models.list()]
        with pytest.raises(openai.NotFoundError, match='did you mean "coe-three"'):
            await w.ask(model="coe-thre")
    assert caught.value.param == "coe.aggregate"
    assert listed[:2] == ["coe", "coe-three"]


async def test_plain_completions_are_voted_on_and_chat_only_aggregators_say_so() -> None:
    async with world(SpeakingEngine({"sums": "5", "words": "4", "base": "4"})) as w:
        whole = await w.client.completions.create(model="coe", prompt="2+2=", extra_body=THREE)
        stream = await w.client.completions.create(model="coe", prompt="2+2=", stream=True, extra_body=THREE)
        streamed = "".join([c.choices[0].text async for c in stream if c.choices])
        with pytest.raises(openai.BadRequestError, match="chat completions only"):
            await w.client.completions.create(
                model="coe", prompt="2+2=", extra_body={"coe": {"aggregate": "synthesise"}}
            )
    assert whole.choices[0].text == streamed == "4"


async def test_metrics_count_every_leg() -> None:
    async with world(SpeakingEngine({"sums": "4", "words": "5", "base": "6"})) as w:
        await w.ask()
        shown = (await w.http.get("/metrics")).text
    assert 'coe_completion_tokens_total{expert="base"} 1.0' in shown
    assert 'coe_merged_answers_total{aggregator="vote"} 1.0' in shown
    assert 'coe_legs_total{outcome="ok",role="proposer"} 3.0' in shown
