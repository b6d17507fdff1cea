"""Requests that end early: refused, too slow, left by their client, or broken off by the expert."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from coe.core.errors import EngineError
from coe.testing.engines import Script
from tests.support.gateway import ASK, world
from tests.support.waiting import until


async def test_a_full_queue_is_a_rate_limit_error_with_retry_after() -> None:
    script = Script()
    gate = script.hold("ensure_ready")
    async with world(script, max_queue=1) as w:
        waiting = asyncio.create_task(w.client.chat.completions.create(model="coe", messages=ASK))
        await until(lambda: w.service.pool.snapshot().queued == 1)
        with pytest.raises(openai.RateLimitError) as caught:
            await w.client.chat.completions.create(model="coe", messages=ASK)
        gate.set()
        await waiting
    assert caught.value.code == "queue_full"
    assert int(caught.value.response.headers["retry-after"]) >= 1


async def test_a_request_that_takes_too_long_is_a_504_and_is_aborted() -> None:
    script = Script()
    script.hold("ask")
    async with world(script, request_timeout_s=0.2) as w:
        with pytest.raises(openai.InternalServerError, match=r"within 0.2 s") as caught:
            await w.client.chat.completions.create(model="coe", messages=ASK)
        await until(lambda: w.service.pool.snapshot().running == 0)
    assert caught.value.status_code == 504


async def test_a_stream_that_takes_too_long_ends_with_an_error_event() -> None:
    async with world(Script(text="word " * 500, chunk_s=0.02), request_timeout_s=0.3) as w:
        stream = await w.client.chat.completions.create(model="coe", messages=ASK, stream=True)
        with pytest.raises(openai.APIError, match="no complete answer"):
            async for _ in stream:
                pass
        await until(lambda: w.service.pool.snapshot().running == 0)


async def test_a_wait_beyond_the_client_s_patience_is_refused() -> None:
    script = Script()
    script.hold("ensure_ready")
    async with world(script) as w:
        with pytest.raises(openai.InternalServerError) as caught:
            await w.client.chat.completions.create(
                model="coe", messages=ASK, extra_body={"coe": {"patience_s": 0.1}}
            )
        assert caught.value.code == "expert_timeout"
        script.gates["ensure_ready"].set()


async def test_leaving_a_stream_aborts_the_generation() -> None:
    async with world(Script(text="word " * 5000, chunk_s=0.01)) as w:
        stream = await w.client.chat.completions.create(model="coe", messages=ASK, stream=True)
        await anext(aiter(stream))
        assert w.engine.answering["sums"] == 1
        await stream.close()
        await until(lambda: w.engine.answering["sums"] == 0)
        await until(lambda: w.service.pool.snapshot().running == 0)
        assert 'coe_requests_total{endpoint="/v1/chat/completions",status="499"} 1.0' in await w.metrics()


@pytest.mark.parametrize("where", ["ensure_ready", "ask"])
async def test_leaving_a_request_that_waits_frees_its_place(where: Any) -> None:
    script = Script()
    gate = script.hold(where)
    async with world(script) as w:
        asking = asyncio.create_task(w.client.chat.completions.create(model="coe", messages=ASK))
        await until(lambda: w.engine.called(where) == ["sums"])
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: w.service.pool.snapshot().queued + w.service.pool.snapshot().running == 0)
        gate.set()


async def test_a_stream_that_breaks_ends_with_an_error_event_that_the_client_raises() -> None:
    async with world() as w:
        w.engine.breaks_with = EngineError("the engine died")
        stream = await w.client.chat.completions.create(model="coe", messages=ASK, stream=True)
        with pytest.raises(openai.APIError, match="the engine died") as caught:
            async for _ in stream:
                pass
        await until(lambda: w.service.pool.snapshot().running == 0)
        text = await w.metrics()
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["source"] == "expert"
    assert 'coe_requests_total{endpoint="/v1/chat/completions",status="502"} 1.0' in text


async def test_a_stream_that_just_ends_is_told_from_one_that_is_complete() -> None:
    async with world() as w:
        w.engine.breaks_with = None
        stream = await w.client.chat.completions.create(model="coe", messages=ASK, stream=True)
        with pytest.raises(openai.APIError, match="sums broke off its answer"):
            async for _ in stream:
                pass
