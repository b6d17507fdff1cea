"""Remote experts: keys, URLs, what upstream's errors mean, and LiteLLM kept on a short rein."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from coe.core.errors import CoeError, ConfigError, EngineError, ExpertRefused
from coe.core.types import Engine, EngineCall
from coe.engines import build_engine
from coe.engines.http import Rename
from coe.engines.remote.litellm import import_litellm
from coe.engines.remote.openai_url import api_url
from coe.registry.hosts import RemoteHost, VllmHost
from coe.registry.schema import Expert
from tests.support.fake_vllm import FakeVllm
from tests.support.tiny_models import TinyFamily

CALL = EngineCall("chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "model": "coe"})
EXPERTS = (Expert(id="far-expert", host="far", model="upstream-model"),)


@dataclass
class Api:
    """A scripted upstream: answers with ``status`` and ``body``, or by ``script``; keeps what it got."""

    status: int = 200
    body: Any = field(default_factory=lambda: {"model": "upstream-model", "choices": []})
    headers: dict[str, str] = field(default_factory=dict)
    script: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    requests: list[web.Request] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.json())
        if self.script is not None:
            return await self.script(request)
        return web.json_response(self.body, status=self.status, headers=self.headers)


@pytest_asyncio.fixture
async def api() -> AsyncIterator[Api]:
    script = Api()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.answer)
    server = TestServer(app)
    await server.start_server()
    script.url = str(server.make_url("/v1"))
    yield script
    await server.close()


@pytest_asyncio.fixture
async def engine(api: Api, tmp_path: Path) -> AsyncIterator[Engine]:
    engine = build_engine(RemoteHost(id="far", kind="remote", url=api.url), EXPERTS, tmp_path)
    await engine.ensure_ready("far-expert")
    yield engine
    await engine.stop()


async def whole(engine: Engine, call: EngineCall = CALL) -> bytes:
    answer = await engine.ask("far-expert", call)
    try:
        return b"".join([chunk async for chunk in answer.chunks()])
    finally:
        await answer.aclose()


async def test_the_body_is_passed_on_with_the_upstreams_model_name(api: Api, engine: Engine) -> None:
    body = {**CALL.body, "temperature": 0.5, "tools": [{"type": "function"}], "unknown_extra": 1}
    answer = json.loads(await whole(engine, EngineCall("chat/completions", body)))
    assert api.bodies == [{**body, "model": "upstream-model"}]
    assert api.requests[0].path == "/v1/chat/completions"
    assert answer["model"] == "far-expert"


async def test_a_remote_server_is_told_of_private_requests_and_of_no_others(api: Api, engine: Engine) -> None:
    await whole(engine)
    await whole(engine, replace(CALL, private=True))
    assert [request.headers.get("Cache-Control") for request in api.requests] == [None, "no-store"]
    assert api.bodies[0] == api.bodies[1]


async def test_the_key_comes_from_a_file_and_goes_into_the_header(api: Api, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-secret\n")
    host = RemoteHost(id="far", kind="remote", url=api.url, api_key_file="key")
    engine = build_engine(host, EXPERTS, tmp_path)
    await engine.ensure_ready("far-expert")
    await whole(engine)
    assert api.requests[0].headers["Authorization"] == "Bearer sk-secret"
    await engine.stop()


async def test_a_missing_key_says_where_it_was_looked_for(tmp_path: Path) -> None:
    host = RemoteHost(id="far", kind="remote", url="http://localhost:9/v1", api_key_env="COE_NO_SUCH_KEY")
    engine = build_engine(host, EXPERTS, tmp_path)
    with pytest.raises(EngineError, match="COE_NO_SUCH_KEY") as missing:
        await engine.start()
    assert missing.value.code == "key_missing"
    assert engine.stats().state == "failed"


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, {"error": {"message": "bad", "code": "bad_value", "param": "n"}}, ExpertRefused, "bad_value"),
        (
            400,
            {"error": {"message": "maximum context length is 8"}},
            ExpertRefused,
            "context_length_exceeded",
        ),
        (422, {"message": "no"}, ExpertRefused, "invalid_request"),
        (429, {"error": {"message": "slow down"}}, ExpertRefused, "rate_limit_exceeded"),
        (401, {"error": "Unauthorized"}, EngineError, "engine_failed"),
        (404, {"error": {"message": "no such model"}}, EngineError, "engine_failed"),
        (500, {"error": {"message": "boom"}}, EngineError, "engine_failed"),
        (302, {}, EngineError, "engine_failed"),
    ],
)
async def test_an_upstream_error_is_the_clients_only_if_the_client_can_mend_it(
    api: Api, engine: Engine, status: int, body: Any, kind: type[CoeError], code: str
) -> None:
    api.status, api.body = status, body
    api.headers = {"Retry-After": "7", "Location": "http://127.0.0.1:9/elsewhere"}
    with pytest.raises(kind) as failed:
        await whole(engine)
    assert type(failed.value) is kind
    assert failed.value.code == code
    assert len(api.requests) == 1, "redirects are not followed"
    if kind is ExpertRefused:
        assert (failed.value.http_status, failed.value.retry_after_s) == (status, 7.0)


async def test_an_error_body_that_is_no_json_is_shown_as_text(api: Api, engine: Engine) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(status=503, text="<html>Service Unavailable</html>")

    api.script = page
    with pytest.raises(EngineError, match="Service Unavailable"):
        await whole(engine)


async def test_a_server_that_is_not_there_is_an_engine_error(tmp_path: Path) -> None:
    host = RemoteHost(id="far", kind="remote", url="http://127.0.0.1:9/v1")
    engine = build_engine(host, EXPERTS, tmp_path)
    await engine.ensure_ready("far-expert")
    with pytest.raises(EngineError, match="did not answer") as failed:
        await whole(engine)
    assert "experts.yaml" in str(failed.value.hint)
    await engine.stop()


async def test_a_vllm_server_of_others_that_went_away_is_noticed_and_found_again(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    server = TestServer(FakeVllm("theirs", str(tiny_family.a)).application())
    await server.start_server()
    host = VllmHost(id="far", url=str(server.make_url("/")), device="cpu")
    engine = build_engine(host, (Expert(id="a", host="far", model="theirs"),), tmp_path)
    port = server.port
    await engine.ensure_ready("a")
    call = EngineCall("completions", {"prompt": "Once"})
    await (await engine.ask("a", call)).aclose()
    await server.close()
    with pytest.raises(EngineError, match="did not answer"):
        await engine.ask("a", call)
    assert (engine.stats().state, engine.stats().awake) == ("failed", ())
    with pytest.raises(EngineError, match="did not answer"):
        await engine.ensure_ready("a")
    again = TestServer(FakeVllm("theirs", str(tiny_family.a)).application(), port=port)
    await again.start_server()
    await engine.ensure_ready("a")
    await (await engine.ask("a", call)).aclose()
    await engine.stop()
    await again.close()


async def test_a_vllm_server_of_others_with_another_model_is_refused(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    server = TestServer(FakeVllm("theirs", str(tiny_family.a)).application())
    await server.start_server()
    host = VllmHost(id="far", url=str(server.make_url("/v1")), device="cpu")
    engine = build_engine(host, (Expert(id="b", host="far", model=str(tiny_family.b)),), tmp_path)
    with pytest.raises(EngineError, match="serves theirs, not"):
        await engine.start()
    await engine.stop()
    await server.close()


async def test_a_server_that_says_nothing_for_too_long_is_an_engine_error(api: Api, tmp_path: Path) -> None:
    async def silence(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    api.script = silence
    host = RemoteHost(id="far", kind="remote", url=api.url, timeout_s=0.3)
    engine = build_engine(host, EXPERTS, tmp_path)
    await engine.ensure_ready("far-expert")
    with pytest.raises(EngineError, match="did not answer"):
        await whole(engine)
    await engine.stop()


async def test_closing_a_stream_early_ends_it_upstream(api: Api, engine: Engine) -> None:
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b'data: {"model":"upstream-model"}\n\n')
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    api.script = endless
    answer = await engine.ask("far-expert", EngineCall("chat/completions", {"stream": True}))
    assert await anext(answer.chunks()) == b'data: {"model":"far-expert"}\n\n'
    await answer.aclose()
    async with asyncio.timeout(10):
        await ended.wait()


async def test_a_model_name_split_over_two_packets_is_still_replaced(api: Api, engine: Engine) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (b'data: {"model":"upstr', b'eam-model","x":1}\n\ndata: [DO', b"NE]\n\n"):
            await response.write(part)
            await asyncio.sleep(0.05)
        return response

    api.script = slow
    assert await whole(engine) == b'data: {"model":"far-expert","x":1}\n\ndata: [DONE]\n\n'


def test_only_the_model_field_is_replaced_not_what_an_answer_says() -> None:
    rename = Rename("up", "far")
    said = json.dumps({"model": "up", "content": '{"model": "up"}'}).encode()
    assert json.loads(rename.apply(said)) == {"model": "far", "content": '{"model": "up"}'}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.example.com", "https://api.example.com/v1"),
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("http://10.0.0.1:8000/openai/v1", "http://10.0.0.1:8000/openai/v1"),
    ],
)
def test_the_url_is_taken_as_an_openai_client_takes_it(url: str, expected: str) -> None:
    assert api_url(url) == expected


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "unix:///run/x", "api.example.com", "ftp://x/y", "http://", "http://u:p@x/v1"],
)
def test_other_urls_are_refused_when_the_engine_is_built(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        build_engine(RemoteHost(id="far", kind="remote", url=url), EXPERTS, tmp_path)
    assert refused.value.hint
    assert "u:p" not in refused.value.message


async def through_litellm(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("OPENAI_BASE_URL", api.url)
    monkeypatch.setenv("COE_TEST_KEY", "sk-test")
    host = RemoteHost(id="far", kind="remote", provider="openai", api_key_env="COE_TEST_KEY")
    engine = build_engine(host, EXPERTS, tmp_path)
    await engine.ensure_ready("far-expert")
    return engine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, {"error": {"message": "bad temperature"}}, ExpertRefused, "invalid_request"),
        (
            400,
            {"error": {"message": "This model's maximum context length is 8 tokens."}},
            ExpertRefused,
            "context_length_exceeded",
        ),
        (429, {"error": {"message": "slow down"}}, ExpertRefused, "rate_limit_exceeded"),
        (401, {"error": {"message": "wrong key"}}, EngineError, "engine_failed"),
        (500, {"error": {"message": "boom"}}, EngineError, "engine_failed"),
    ],
)
async def test_litellm_errors_mean_the_same(
    api: Api,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    body: Any,
    kind: type[CoeError],
    code: str,
) -> None:
    api.status, api.body = status, body
    engine = await through_litellm(api, tmp_path, monkeypatch)
    with pytest.raises(kind) as failed:
        await whole(engine)
    assert type(failed.value) is kind
    assert failed.value.code == code
    assert body["error"]["message"] in failed.value.message
    assert "litellm" not in failed.value.message.lower()
    assert len(api.requests) == 1, "errors are not retried behind our back"
    assert api.requests[0].headers["Authorization"] == "Bearer sk-test"
    await engine.stop()


TRACE = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"}
SAID = {"index": 0, "text": "Hi", "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}


@pytest.mark.parametrize("call", [CALL, EngineCall("completions", {"prompt": "Hi"})], ids=["chat", "text"])
async def test_a_provider_is_told_of_our_span_and_only_where_there_is_one(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: EngineCall
) -> None:
    api.body = {"id": "c", "model": "upstream-model", "choices": [SAID]}
    engine = await through_litellm(api, tmp_path, monkeypatch)
    await whole(engine, replace(call, trace=TRACE))
    await whole(engine, call)
    traced, untraced = api.requests
    assert {name: traced.headers.get(name) for name in TRACE} == TRACE
    assert traced.headers["Authorization"] == "Bearer sk-test"
    assert [name for name in TRACE if name in untraced.headers] == []
    assert api.bodies[0] == api.bodies[1], "the body says nothing of it"
    await engine.stop()


async def test_headers_that_litellm_was_given_for_all_requests_stay_as_they_are(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.body = {"id": "c", "model": "upstream-model", "choices": [SAID]}
    theirs = {"x-team": "sums", "tracestate": "theirs=1"}
    monkeypatch.setattr(import_litellm(), "headers", dict(theirs))
    engine = await through_litellm(api, tmp_path, monkeypatch)
    await whole(engine, replace(CALL, trace=TRACE))
    await whole(engine)
    traced, untraced = ({name: r.headers.get(name) for name in (*TRACE, "x-team")} for r in api.requests)
    assert traced == {**TRACE, **theirs}
    assert untraced == {"traceparent": None, **theirs}
    assert import_litellm().headers == theirs
    await engine.stop()
