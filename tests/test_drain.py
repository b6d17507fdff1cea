"""`coe serve` is told to stop while it works: the real command, a real upstream, real signals. And a gateway
of a cluster learns that its service ends."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from coe.cluster.gateway_replica import GatewayReplica
from coe.registry.schema import Registry
from tests.support.command import ServeCommand, serve_command
from tests.support.owners import NoOwners
from tests.support.serving import serving_app
from tests.support.waiting import until

ASK = {"model": "sums", "messages": [{"role": "user", "content": "count"}]}
WORDS = ("one", " two", " three")


@dataclass
class Upstream:
    """Answers half, and the rest when it is let go on."""

    asked: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        response = web.StreamResponse()
        if body.get("stream"):
            pieces = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in WORDS]
            lines = [*(f"data: {json.dumps(piece)}\n\n" for piece in pieces), "data: [DONE]\n\n"]
        else:
            whole = {"message": {"role": "assistant", "content": "".join(WORDS)}, "index": 0}
            text = json.dumps({"id": "c", "choices": [whole]})
            lines = [text[:20], text[20:]]
        await response.prepare(request)
        await response.write(lines[0].encode())
        self.asked.release()
        await self.go_on.wait()
        await response.write("".join(lines[1:]).encode())
        return response


@asynccontextmanager
async def upstream() -> AsyncIterator[tuple[Upstream, str]]:
    what = Upstream()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", what.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield what, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        what.go_on.set()
        await runner.cleanup()


@asynccontextmanager
async def serving(folder: Path, url: str, drain_s: float) -> AsyncIterator[ServeCommand]:
    """Two requests at once; a third one waits."""
    registry = {
        "service": {"port": 0, "drain_s": drain_s},
        "pool": {"hosts": [{"id": "far", "kind": "remote", "url": url, "max_running": 2}]},
        "experts": [{"id": "sums", "host": "far", "model": "m"}],
        "routers": {"default": "random"},
    }
    async with serve_command(folder, registry) as service:
        yield service


@pytest.mark.slow
async def test_what_is_under_way_ends_whole_what_is_new_is_refused_and_the_exit_is_clean(
    tmp_path: Path,
) -> None:
    async with (
        upstream() as (expert, far),
        serving(tmp_path, far, drain_s=60) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60) as http,
        httpx.AsyncClient(base_url=service.url, timeout=60) as idle,
    ):
        assert (await idle.get("/healthz")).status_code == 200  # leaves a connection open
        whole = asyncio.create_task(http.post("/v1/chat/completions", json=ASK))
        stream = asyncio.create_task(http.post("/v1/chat/completions", json={**ASK, "stream": True}))
        await expert.asked.acquire()
        await expert.asked.acquire()
        waiting = asyncio.create_task(http.post("/v1/chat/completions", json=ASK))
        await until_queued(idle)

        service.process.send_signal(signal.SIGTERM)
        await service.logged("stopping")
        refused = await waiting
        await until_closed(service.url)
        with pytest.raises(httpx.TransportError):
            await idle.get("/healthz")
        assert not whole.done()
        assert not stream.done()

        expert.go_on.set()
        answer, events = await whole, await stream
        code = await service.ended()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
    assert int(refused.headers["retry-after"]) >= 1
    assert answer.json()["choices"][0]["message"]["content"] == "one two three"
    assert answer.json()["coe"]["legs"][0]["outcome"] == "ok"
    assert events.text.count('"content": ') == 3
    assert events.text.endswith("data: [DONE]\n\n")
    assert code == 0
    assert "Traceback" not in "".join(service.log)


@pytest.mark.slow
async def test_what_does_not_end_in_time_is_ended_with_an_error(tmp_path: Path) -> None:
    async with (
        upstream() as (expert, far),
        serving(tmp_path, far, drain_s=0.5) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60) as http,
    ):
        whole = asyncio.create_task(http.post("/v1/chat/completions", json=ASK))
        stream = asyncio.create_task(http.post("/v1/chat/completions", json={**ASK, "stream": True}))
        await expert.asked.acquire()
        await expert.asked.acquire()
        service.process.send_signal(signal.SIGTERM)
        answer, events = await whole, await stream
        code = await service.ended()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
    last = json.loads(events.text.strip().rsplit("data: ", 1)[1])
    assert last["error"]["code"] == "stopping"
    assert "[DONE]" not in events.text
    assert code == 0
    assert "Traceback" not in "".join(service.log)


async def until_queued(http: httpx.AsyncClient) -> None:
    async def queued() -> bool:
        return 'coe_expert_queued{expert="sums"} 1.0' in (await http.get("/metrics")).text

    await until(queued)


async def until_closed(url: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                async with httpx.AsyncClient() as fresh:
                    await fresh.get(f"{url}/healthz")
            except httpx.TransportError:
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_clusters_gateway_refuses_who_waits_and_gives_up_what_does_not_end(
    tmp_path: Path, stream: bool
) -> None:
    async with upstream() as (expert, far):
        host = {"id": "far", "kind": "remote", "url": far, "max_running": 1}
        registry = Registry.model_validate(
            {
                "service": {"drain_s": 0.5},
                "pool": {"hosts": [host]},
                "experts": [{"id": "sums", "host": "far", "model": "m"}],
                "routers": {"default": "random"},
            }
        )
        replica = await asyncio.to_thread(
            GatewayReplica, "gateway-1", "here", NoOwners(), 1, registry, tmp_path
        )
        await replica.start()
        async with (
            serving_app(replica.app) as url,
            httpx.AsyncClient(base_url=url, timeout=60) as http,
        ):
            running = asyncio.create_task(http.post("/v1/chat/completions", json={**ASK, "stream": stream}))
            await expert.asked.acquire()
            waiting = asyncio.create_task(http.post("/v1/chat/completions", json=ASK))
            await until_queued(http)
            replica.end()
            replica.end()
            refused = await waiting
            assert not replica.readiness().ready
            late = await http.post("/v1/chat/completions", json=ASK)
            given_up = await running
        await replica.stop(0.1)
    assert [(r.status_code, r.json()["error"]["code"]) for r in (refused, late)] == [(503, "stopping")] * 2
    last = json.loads(given_up.text.strip().rsplit("data: ", 1)[-1])
    assert last["error"]["code"] == "stopping"
    assert given_up.status_code == (200 if stream else 503)
