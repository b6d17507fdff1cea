"""Traces: one span for each hop, under the caller's, by OpenTelemetry's own exporters."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from coe.core.errors import ConfigError
from coe.core.types import EngineAnswer, EngineCall
from coe.engines.http import HttpClient
from coe.engines.upstream import Upstream
from coe.engines.vllm.proxy import door_app
from coe.gateway.middlewares import without_access
from coe.observe import otel as telemetry
from coe.observe.otel import RequestTracer, open_tracer
from coe.observe.tracing import TRACER, begin, headers_under, hop
from coe.registry.schema import Registry
from coe.service.service import build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.serving import serving

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1"}


class Engine(FakeEngine):
    """Notes the trace headers that it is asked with."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__("slot", script, capacity=None)
        self.told: list[Mapping[str, str]] = []

    async def ask(self, expert: str, call: EngineCall) -> EngineAnswer:
        self.told.append(call.trace)
        return await super().ask(expert, call)


@dataclass
class World:
    http: httpx.AsyncClient
    engine: Engine
    spans: InMemorySpanExporter

    async def ask(self, path: str = "chat/completions", **fields: Any) -> httpx.Response:
        body = {"model": "coe", "messages": [{"role": "user", "content": "a secret question"}], **fields}
        return await self.http.post(f"/v1/{path}", json=body, headers=PARENT, timeout=30)

    async def ended(self, count: int) -> dict[str, ReadableSpan]:
        """By name, once there are ``count`` of them."""
        async with asyncio.timeout(10):
            while len(self.spans.get_finished_spans()) < count:  # noqa: ASYNC110 (nobody tells us)
                await asyncio.sleep(0.01)
        found = self.spans.get_finished_spans()
        assert len(found) == count, [span.name for span in found]
        return {span.name: span for span in found}


def registry(**fields: Any) -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot", "max_running": 4, "memory_gb": 100}], "min_residency_s": 0},
            "experts": [{"id": name, "host": "slot", "model": name} for name in ("sums", "words")],
            "routers": {
                "default": "static",
                "available": [{"name": "static", "kind": "static", "options": {"expert": "sums"}}],
            },
            **fields,
        }
    )


@asynccontextmanager
async def world(
    script: Script | None = None, tracer: RequestTracer | None = None, **fields: Any
) -> AsyncIterator[World]:
    from coe.pipeline.generation import Generations
    from coe.service.service import LocalService

    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    engine = Engine(script)
    plain = build_service(registry(**fields), Path(), lambda *_: engine)
    middlewares = replace(without_access(), tracer=tracer or RequestTracer(provider))
    generations = Generations(plain.generations.current)
    service = LocalService(generations, plain.registry_pool, Path(), middlewares)
    async with serving(service) as url, httpx.AsyncClient(base_url=url) as http:
        yield World(http, engine, spans)


def parent(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def own(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def noted(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_request_has_one_span_for_each_hop_under_its_caller_s() -> None:
    async with world() as w:
        answer = await w.ask(max_tokens=5, temperature=0, stop=["x"])
        spans = await w.ended(5)
    gateway, leg = spans["POST /v1/chat/completions"], spans["chat sums"]
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}
    assert parent(gateway) == CALLER
    assert {parent(spans[name]) for name in ("route", "queue sums", "chat sums")} == {own(gateway)}
    assert parent(spans["swap sums"]) == own(spans["queue sums"])
    assert (gateway.kind.name, leg.kind.name) == ("SERVER", "CLIENT")
    assert w.engine.told == [{"traceparent": f"00-{TRACE}-{own(leg)}-01", "tracestate": "vendor=1"}]
    assert noted(gateway) | {"coe.confidence": 1.0} == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "coe",
        "gen_ai.request.model": "coe",
        "gen_ai.request.stream": False,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0,
        "gen_ai.response.model": "sums",
        "gen_ai.response.id": "chatcmpl-fake",
        "gen_ai.usage.input_tokens": 1,
        "gen_ai.usage.output_tokens": 4,
        "coe.request_id": answer.headers["x-coe-request-id"],
        "coe.generation": 1,
        "coe.router": "static",
        "coe.why": "fixed",
        "coe.confidence": 1.0,
        "coe.legs": 1,
    }
    assert noted(leg)["gen_ai.request.model"] == noted(leg)["gen_ai.response.model"] == "sums"
    assert (noted(leg)["coe.host"], noted(leg)["coe.outcome"]) == ("slot", "ok")
    assert noted(spans["queue sums"])["coe.wake_from"] == "cold"
    assert noted(spans["route"])["coe.experts"] == ("sums",)
    assert noted(spans["route"])["coe.why"] == "fixed"


async def test_no_words_of_prompts_or_answers_are_in_a_span() -> None:
    async with world() as w:
        await w.ask()
        spans = await w.ended(5)
    told = "".join(span.to_json() for span in spans.values())
    assert "secret question" not in told
    assert "The answer of" not in told


async def test_a_stream_s_span_ends_with_its_last_event() -> None:
    async with world() as w:
        answer = await w.ask(stream=True, stream_options={"include_usage": True})
        assert "[DONE]" in answer.text
        spans = await w.ended(5)
    gateway, leg = spans["POST /v1/chat/completions"], spans["chat sums"]
    assert noted(gateway)["gen_ai.usage.output_tokens"] == 4
    assert noted(leg)["gen_ai.request.stream"] is True
    assert noted(leg)["gen_ai.response.time_to_first_chunk"] >= 0
    assert (gateway.end_time or 0) >= (leg.end_time or 1)


async def test_a_failed_leg_and_the_one_that_took_over_are_both_there() -> None:
    script = Script()
    script.fail("ask", "it broke")
    async with world(script) as w:
        assert (await w.ask()).json()["model"] == "words"
        spans = await w.ended(8)
    assert noted(spans["chat sums"])["error.type"] == "engine_failed"
    assert spans["chat sums"].status.status_code.name == "ERROR"
    assert spans["chat words"].status.status_code.name == "UNSET"
    assert spans["POST /v1/chat/completions"].status.status_code.name == "UNSET"


async def test_an_error_of_ours_fails_the_gateway_s_span_and_a_client_s_does_not() -> None:
    script = Script()
    script.fail("ask", *["it broke"] * 4)
    async with world(script) as w:
        assert (await w.ask()).status_code == 502
        assert (await w.ask(model="nobody")).status_code == 404
        ended = [span for span in w.spans.get_finished_spans() if span.name.startswith("POST")]
    assert [noted(span).get("error.type") for span in ended] == ["engine_failed", None]


async def test_several_experts_are_legs_and_what_combines_them_is_a_hop() -> None:
    fields = {"aggregator": {"kind": "vote", "proposers": 2}}
    async with world(**fields) as w:
        assert (await w.ask(coe={"experts": 2})).status_code == 200
        spans = {span.name: span for span in w.spans.get_finished_spans()}
    gateway = own(spans["POST /v1/chat/completions"])
    assert {parent(spans[name]) for name in ("chat sums", "queue words", "aggregate vote")} == {gateway}
    assert noted(spans["POST /v1/chat/completions"])["coe.aggregator"] == "vote"
    assert noted(spans["chat sums"])["coe.role"] == "proposer"
    assert noted(spans["queue words"])["error.type"] == "CancelledError"  # the vote was decided without it


async def test_a_client_that_hangs_up_leaves_no_span_open() -> None:
    script = Script()
    script.hold("ask")
    async with world(script) as w:
        with pytest.raises(httpx.ReadTimeout):
            await w.http.post(
                "/v1/chat/completions",
                json={"model": "coe", "messages": [{"role": "user", "content": "?"}]},
                timeout=0.2,
            )
        spans = await w.ended(5)
    assert noted(spans["chat sums"])["error.type"] == "CancelledError"
    assert noted(spans["POST /v1/chat/completions"])["http.response.status_code"] == 499


async def test_without_a_tracer_nothing_is_noted_and_experts_are_told_nothing() -> None:
    engine = Engine()
    service = build_service(registry(), Path(), lambda *_: engine)
    async with serving(service) as url, httpx.AsyncClient(base_url=url) as http:
        body = {"model": "coe", "messages": [{"role": "user", "content": "?"}]}
        assert (await http.post("/v1/chat/completions", json=body, headers=PARENT)).status_code == 200
    assert engine.told == [{}]
    assert TRACER.get() is None
    assert headers_under(begin("a")) == {}
    with hop("c") as span:
        assert headers_under(begin("b")) == headers_under(span) == {}


async def test_spans_arrive_at_a_collector_by_otlp_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, ExportTraceServiceRequest]] = []

    async def collect(request: web.Request) -> web.Response:
        received.append((request.path, ExportTraceServiceRequest.FromString(await request.read())))
        return web.Response(content_type="application/x-protobuf")

    async with _collector(collect) as url:
        monkeypatch.setenv("OTEL_SERVICE_NAME", "my-router")
        async with world(tracer=open_tracer(url)) as w:
            await w.ask()
    spans = [
        span
        for _, sent in received
        for resource in sent.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert {path for path, _ in received} == {"/v1/traces"}
    assert {span.name for span in spans} >= {"POST /v1/chat/completions", "chat sums"}
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    resource = {a.key: a.value.string_value for a in received[0][1].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "my-router"


@asynccontextmanager
async def _collector(handler: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def test_a_collector_that_never_answers_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "CLOSE_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracer = open_tracer(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert tracer is not None
        tracer.begin("GET /", {}).end()
        tracer.close()
        assert [thread for thread in threading.enumerate() if thread.name == "last spans"]


def test_traces_are_off_unless_an_option_or_the_environment_names_a_collector() -> None:
    assert open_tracer(None, {}) is None
    on = open_tracer(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert on is not None
    on.close()


@pytest.mark.parametrize("url", ["collector:4318", "ftp://c", "http://user:pw@c:4318"])
def test_what_is_no_collector_is_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        open_tracer(url, {})
    assert "pw" not in str(refused.value)


async def test_the_client_of_engines_and_the_door_pass_the_trace_on(tmp_path: Path) -> None:
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("traceparent"))
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    server = web.AppRunner(app, access_log=None)
    await server.setup()
    socket = tmp_path / "vllm.sock"
    await web.UnixSite(server, str(socket)).start()
    door = web.AppRunner(door_app(str(socket), "token"), access_log=None)
    await door.setup()
    await web.TCPSite(door, "127.0.0.1", 0).start()
    client = HttpClient(Upstream("door", f"http://127.0.0.1:{door.addresses[0][1]}", api_key="token"))
    try:
        for trace in (PARENT, None):
            got = await client.ask("/v1/chat/completions", {}, headers=trace)
            await got.aclose()
    finally:
        await client.close()
        await door.cleanup()
        await server.cleanup()
    assert seen == [PARENT["traceparent"], None]
