"""The API as the real openai client sees it: uvicorn on a socket, the real pool, a scripted engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from coe.core.errors import EngineError, ExpertRefused
from coe.testing.engines import Script
from tests.support.gateway import ASK, EXPERTS, world
from tests.support.waiting import until


def receipt(thing: Any) -> dict[str, Any]:
    found = thing.model_extra["coe"]
    assert isinstance(found, dict)
    return found


async def test_an_answer_comes_with_a_receipt_in_body_and_headers() -> None:
    async with world() as w:
        raw = await w.client.chat.completions.with_raw_response.create(model="coe", messages=ASK)
        answer = raw.parse()
    assert answer.choices[0].message.content == "The answer of sums."
    assert answer.model == "sums"
    account = receipt(answer)
    assert (account["expert"], account["router"], account["generation"]) == ("sums", "static", 1)
    assert account["runner_up"] in ("words", "base")
    assert account["reason"] == "always sums"
    (leg,) = account["legs"]
    assert (leg["expert"], leg["role"], leg["tokens"], leg["outcome"]) == ("sums", "answer", 4, "ok")
    headers = raw.headers
    assert headers["x-coe-request-id"] == account["request_id"]
    assert (headers["x-coe-expert"], headers["x-coe-router"], headers["x-coe-generation"]) == (
        "sums",
        "static",
        "1",
    )
    assert float(headers["x-coe-queue-ms"]) == pytest.approx(account["queue_ms"], abs=0.1)
    assert float(headers["x-coe-swap-ms"]) == pytest.approx(account["swap_ms"], abs=0.1)


async def test_a_stream_ends_with_the_receipt_and_done() -> None:
    async with world() as w:
        stream = await w.client.chat.completions.create(model="coe", messages=ASK, stream=True)
        chunks = [chunk async for chunk in stream]
        raw = await w.http.post(
            "/v1/chat/completions", json={"model": "coe", "messages": ASK, "stream": True}
        )
    *words, last = chunks
    assert "".join(c.choices[0].delta.content or "" for c in words) == "The answer of sums."
    assert last.choices[0].delta.content is None
    assert last.object == "chat.completion.chunk"
    assert receipt(last)["expert"] == "sums"
    assert receipt(last)["legs"][0]["outcome"] == "ok"
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.headers["x-coe-expert"] == "sums"
    events = raw.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert raw.text.count("[DONE]") == 1
    assert '"coe"' in events[-3]


async def test_usage_in_a_stream_comes_from_the_engine_and_is_in_the_receipt() -> None:
    async with world() as w:
        stream = await w.client.chat.completions.create(
            model="coe", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    usage = [chunk.usage for chunk in chunks if chunk.usage]
    assert [u.completion_tokens for u in usage] == [4]
    assert receipt(chunks[-1])["legs"][0]["tokens"] == 4


async def test_the_client_s_own_stream_accumulator_takes_the_receipt_event() -> None:
    async with world() as w, w.client.chat.completions.stream(model="coe", messages=ASK) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "The answer of sums."
    assert final.choices[0].finish_reason == "stop"


async def test_plain_completions_work_both_ways() -> None:
    async with world() as w:
        whole = await w.client.completions.create(model="coe", prompt="2+2=")
        stream = await w.client.completions.create(model="coe", prompt=["2+2=", "3+3="], stream=True)
        chunks = [chunk async for chunk in stream]
    assert whole.choices[0].text == "The answer of sums."
    assert receipt(whole)["expert"] == "sums"
    texts = ["", ""]
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["The answer of sums."] * 2
    assert receipt(chunks[-1])["expert"] == "sums"


async def test_several_choices_come_back() -> None:
    async with world() as w:
        answer = await w.client.chat.completions.create(model="coe", messages=ASK, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


async def test_known_and_unknown_fields_reach_the_engine_and_coe_does_not() -> None:
    tool: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    fields: dict[str, Any] = {
        "temperature": 0.3,
        "top_p": 0.9,
        "max_tokens": 7,
        "max_completion_tokens": 8,
        "stop": ["\n"],
        "seed": 4,
        "tools": [tool],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"5": -1},
    }
    extra = {"top_k": 3, "chat_template_kwargs": {"x": [1, None]}, "coe": {"deadline_class": "batch"}}
    async with world() as w:
        await w.client.chat.completions.create(model="coe", messages=ASK, extra_body=extra, **fields)
    (body,) = w.engine.bodies
    assert body == {
        "model": "coe",
        "messages": ASK,
        **fields,
        "top_k": 3,
        "chat_template_kwargs": {"x": [1, None]},
    }


async def test_content_parts_route_by_their_text_and_pass_through() -> None:
    parts: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    async with world() as w:
        await w.client.chat.completions.create(model="coe", messages=[{"role": "user", "content": parts}])
    assert w.engine.bodies[0]["messages"][0]["content"] == parts


async def test_a_named_expert_is_pinned() -> None:
    async with world() as w:
        answer = await w.client.chat.completions.create(model="words", messages=ASK)
    account = receipt(answer)
    assert (account["router"], account["expert"], account["confidence"]) == ("pinned", "words", None)


async def test_an_expert_that_fails_before_its_first_byte_is_replaced() -> None:
    script = Script()
    script.fail("ask", "it broke")
    async with world(script) as w:
        answer = await w.client.chat.completions.create(model="coe", messages=ASK)
    account = receipt(answer)
    assert account["expert"] != "sums"
    assert [leg["outcome"] for leg in account["legs"]] == ["failed: engine_failed", "ok"]
    assert "sums could not answer" in account["reason"]


async def test_a_pinned_expert_s_failure_is_a_502_in_the_envelope() -> None:
    script = Script()
    script.fail("ask", "it broke")
    async with world(script) as w:
        with pytest.raises(openai.InternalServerError) as caught:
            await w.client.chat.completions.create(model="sums", messages=ASK)
    assert caught.value.status_code == 502
    assert isinstance(caught.value.body, dict)
    assert (caught.value.body["source"], caught.value.code) == ("expert", "engine_failed")
    assert caught.value.response.headers["x-coe-request-id"].startswith("req-")


async def test_errors_become_the_client_s_own_exceptions() -> None:
    async with world() as w:
        with pytest.raises(openai.NotFoundError, match='did you mean "words"') as missing:
            await w.client.chat.completions.create(model="word", messages=ASK)
        with pytest.raises(openai.BadRequestError, match="messages must not be empty") as empty:
            await w.client.chat.completions.create(model="coe", messages=[])
        with pytest.raises(openai.BadRequestError, match="does not exist") as router:
            await w.client.chat.completions.create(
                model="coe", messages=ASK, extra_body={"coe": {"router": "statik"}}
            )
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert (empty.value.type, empty.value.param) == ("invalid_request_error", "messages")
    assert router.value.param == "coe.router"


async def test_an_expert_s_refusal_keeps_its_status_and_code() -> None:
    async with world() as w:
        w.engine.refusal = ExpertRefused(400, "the prompt is too long", code="context_length_exceeded")
        with pytest.raises(openai.BadRequestError, match="too long") as caught:
            await w.client.chat.completions.create(model="coe", messages=ASK)
    assert caught.value.code == "context_length_exceeded"


async def test_models_are_the_routed_name_and_every_expert() -> None:
    async with world() as w:
        models = [model async for model in await w.client.models.list()]
        one = await w.client.models.retrieve("words")
        with pytest.raises(openai.NotFoundError):
            await w.client.models.retrieve("ghost")
    assert [model.id for model in models] == ["coe", *EXPERTS]
    assert (one.id, one.object) == ("words", "model")
    assert one.model_extra is not None
    assert one.model_extra["skills"] == ["words"]


async def test_a_dry_run_ranks_all_experts_and_asks_none() -> None:
    async with world() as w:
        by_text = (await w.http.post("/v1/route", json={"input": "2+2?"})).json()
        by_chat = (await w.http.post("/v1/route", json={"messages": ASK, "router": "static"})).json()
    assert (by_text["router"], by_text["expert"], by_text["reason"]) == ("static", "sums", "always sums")
    assert by_text["confidence"] == 1.0
    assert {ranked["expert"] for ranked in by_text["experts"]} == set(EXPERTS)
    assert all(ranked["expected_wait_s"] >= 0 for ranked in by_text["experts"])
    assert by_chat["expert"] == "sums"
    assert w.engine.called("ask") == []


async def test_the_health_of_experts_is_told_one_by_one() -> None:
    script = Script()
    async with world(script) as w:
        well = await w.http.get("/healthz/experts")
        script.fail("ensure_ready", *["no memory"] * 20)
        for _ in range(8):
            await w.http.post("/v1/completions", json={"model": "words", "prompt": "a"})
        some = await w.http.get("/healthz/experts")
        w.engine.crash("killed")
        none = await w.http.get("/healthz/experts")
    assert (well.status_code, well.json()["status"]) == (200, "ok")
    assert (some.status_code, some.json()["status"]) == (200, "degraded")
    assert some.json()["experts"]["words"] == {"state": "quarantined", "can_answer": False}
    assert (none.status_code, none.json()["status"]) == (503, "failed")


async def test_alive_at_once_ready_when_the_engine_is() -> None:
    script = Script()
    gate = script.hold("start")
    async with world(script) as w:
        alive, early = await w.http.get("/healthz"), await w.http.get("/readyz")
        gate.set()
        await until(lambda: w.service.readiness().ready)
        late = await w.http.get("/readyz")
    assert alive.status_code == 200
    assert early.status_code == 503
    assert early.json()["reasons"] == ["engine slot is starting"]
    assert late.json() == {"status": "ready", "reasons": []}


async def test_an_engine_that_died_is_started_again_though_no_request_comes() -> None:
    """Whoever looks at readiness sends none while nobody can answer."""
    async with world() as w:
        await until(lambda: w.service.readiness().ready)
        w.engine.crash("killed")
        dead = await w.http.get("/readyz")
        await until(lambda: w.service.readiness().ready)
        alive = await w.http.get("/readyz")
    assert (dead.status_code, alive.status_code) == (503, 200)
    assert "killed" in dead.json()["reasons"][0]


async def test_metrics_count_requests_answers_and_engines() -> None:
    async with world() as w:
        await w.client.chat.completions.create(model="coe", messages=ASK)
        with pytest.raises(openai.NotFoundError):
            await w.client.chat.completions.create(model="ghost", messages=ASK)
        text = await w.metrics()
    assert 'coe_requests_total{endpoint="/v1/chat/completions",status="200"} 1.0' in text
    assert 'coe_requests_total{endpoint="/v1/chat/completions",status="404"} 1.0' in text
    assert 'coe_answers_total{expert="sums",router="static"} 1.0' in text
    assert 'coe_completion_tokens_total{expert="sums"} 4.0' in text
    assert 'coe_engine_ready{engine="slot"} 1.0' in text
    assert 'coe_expert_awake{expert="sums"} 1.0' in text
    assert 'coe_requests_in_flight{endpoint="/v1/chat/completions"} 0.0' in text


async def test_errors_are_counted_by_who_failed_also_inside_streams() -> None:
    script = Script()
    async with world(script) as w:
        w.engine.breaks_with = EngineError("the engine died")
        await w.http.post("/v1/completions", json={"model": "words", "prompt": "a", "stream": True})
        await w.http.post("/v1/completions", json={"model": "nobody", "prompt": "a"})
        text = (await w.http.get("/metrics")).text
    assert 'coe_errors_total{source="expert",type="expert_error"} 1.0' in text
    assert 'coe_errors_total{source="router",type="invalid_request_error"} 1.0' in text
    assert 'coe_swap_seconds_count{expert="words",tier="cold"}' in text
    assert "coe_gpu_seconds_total" in text


async def test_an_unexpected_error_tells_the_client_its_request_id_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as w:
        w.engine.refusal = ZeroDivisionError("secret")
        raw = await w.http.post("/v1/chat/completions", json={"model": "coe", "messages": ASK})
    assert raw.status_code == 500
    assert "secret" not in raw.text
    assert raw.headers["x-coe-request-id"] in raw.json()["error"]["message"]
    assert any(
        record.exc_info and raw.headers["x-coe-request-id"] in record.message for record in caplog.records
    )


async def test_requests_under_way_survive_a_stop_and_those_in_the_queue_are_told() -> None:
    async with world(Script(text="a b c d e f", chunk_s=0.05)) as w:
        stream = await w.client.chat.completions.create(model="sums", messages=ASK, stream=True)
        events = aiter(stream)
        await anext(events)
        waiting = asyncio.create_task(w.client.chat.completions.create(model="words", messages=ASK))
        await until(lambda: w.service.pool.snapshot().queued == 1)
        stopping = asyncio.create_task(w.service.stop())
        with pytest.raises(openai.InternalServerError, match="shutting down"):
            await waiting
        rest = [chunk async for chunk in events]
        await stopping
    assert receipt(rest[-1])["legs"][0]["outcome"] == "ok"


async def test_the_openapi_document_describes_every_path_and_its_answers() -> None:
    import jsonschema

    async with world() as w:
        document = (await w.http.get("/openapi.json")).json()
        answer = (await w.http.post("/v1/chat/completions", json={"model": "coe", "messages": ASK})).json()
        answers = {
            "/v1/chat/completions": answer,
            "/v1/models": (await w.http.get("/v1/models")).json(),
            "/v1/models/{id}": (await w.http.get("/v1/models/sums")).json(),
            "/v1/route": (await w.http.post("/v1/route", json={"input": "x"})).json(),
            "/healthz": (await w.http.get("/healthz")).json(),
            "/healthz/experts": (await w.http.get("/healthz/experts")).json(),
            "/readyz": (await w.http.get("/readyz")).json(),
        }
        error = (await w.http.post("/v1/route", json={})).json()
    for path, body in answers.items():
        (operation,) = document["paths"][path].values()
        jsonschema.validate(body, _schema(document, operation["responses"]["200"]))
    jsonschema.validate(
        error, _schema(document, document["paths"]["/v1/route"]["post"]["responses"]["default"])
    )
    asked = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    jsonschema.validate({"model": "coe", "messages": ASK, "top_k": 3}, _schema(document, asked))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"model": "coe", "messages": ASK, "n": 0}, _schema(document, asked))
    assert set(document["paths"]) == {
        *answers,
        "/v1/completions",
        "/v1/feedback",
        "/metrics",
        "/openapi.json",
    }


def _schema(document: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    schema = described["content"]["application/json"]["schema"]
    return {**json.loads(json.dumps(schema)), "components": document["components"]}
