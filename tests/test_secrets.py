"""No secret is ever told: sentinels wherever one is held, and all that the service says is searched."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from aiohttp import web
from pydantic import ValidationError

from coe.core.errors import ConfigError
from coe.engines.address import Address
from coe.engines.upstream import Upstream
from coe.gateway.middlewares import open_store
from coe.registry.service_settings import State
from coe.service.live_registry import RegistryFile
from coe.service.service import build_service
from tests.support.serving import serving, serving_app

CLIENT, REMOTE, ADMIN, REDIS = (
    f"coe-SENTINEL-{name}-{'x' * 24}" for name in ("client", "remote", "admin", "r")
)
SECRETS = {"the client's key": CLIENT, "the remote's key": REMOTE, "the admin token": ADMIN, "Redis": REDIS}


@dataclass
class CapturedExchange:
    """All that came out of the service."""

    texts: list[str] = field(default_factory=list)

    def hear(self, answer: httpx.Response) -> httpx.Response:
        self.texts += [answer.text, repr(answer.headers)]
        return answer

    def leaks(self) -> list[str]:
        everything = "\n".join(self.texts)
        return [name for name, secret in SECRETS.items() if secret in everything]


class Quoting:
    """Quotes the key that it is sent, as some servers do."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.sent.append(repr(dict(request.headers)) + await request.text())
        body = json.loads(await request.text())
        quoted = f"Incorrect API key provided: {request.headers['Authorization']}"
        if body["model"] == "refuses":
            return web.json_response({"error": {"message": quoted}}, status=401)
        if body["model"] == "blames":
            return web.json_response({"error": {"message": quoted, "param": quoted}}, status=400)
        if body["model"] == "breaks":
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'data: {"choices": []}\n\n')
            await response.write(b"data: " + json.dumps({"error": {"message": quoted}}).encode() + b"\n\n")
            return response
        choice = {"index": 0, "message": {"role": "assistant", "content": "four"}}
        return web.json_response({"id": "c", "choices": [choice]})


@dataclass
class World:
    public: httpx.AsyncClient
    admin: httpx.AsyncClient
    told: CapturedExchange
    upstream: Quoting

    async def ask(self, model: str = "good", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "2+2?"}], **fields}
        return self.told.hear(await self.public.post("/v1/chat/completions", json=body))


@asynccontextmanager
async def world(folder: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    upstream, told = Quoting(), CapturedExchange()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    patch.setenv("TEST_REMOTE", REMOTE)
    patch.setenv("TEST_REDIS", f"redis://:{REDIS}@127.0.0.1:9/0")  # nobody is there: its errors are told too
    (folder / "keys.yaml").write_text(
        json.dumps(
            {
                "keys": [
                    {
                        "id": "alice",
                        "sha256": hashlib.sha256(CLIENT.encode()).hexdigest(),
                        "limits": {"requests_per_minute": 1000},
                    }
                ]
            }
        )
    )
    text = json.dumps(
        {
            "service": {"port": 0, "admin": {"port": 0, "token_env": "TEST_ADMIN"}},
            "pool": {
                "hosts": [
                    {
                        "id": "far",
                        "kind": "remote",
                        "url": f"http://127.0.0.1:{runner.addresses[0][1]}",
                        "api_key_env": "TEST_REMOTE",
                        "max_failures": 100,
                    }
                ]
            },
            "experts": [
                {"id": name, "host": "far", "model": name} for name in ("good", "refuses", "blames", "breaks")
            ],
            "routers": {"default": "random"},
            "access": {"keys_file": "keys.yaml"},
            "cache": {"ttl_s": 60},
            "state": {"redis_url_env": "TEST_REDIS"},
            "observe": {"capture": {}},
        }
    )
    path = folder / "experts.yaml"
    path.write_text(text)
    file = RegistryFile(path, text)
    service = build_service(file.registry(), folder, file=file)
    key, token = {"Authorization": f"Bearer {CLIENT}"}, {"Authorization": f"Bearer {ADMIN}"}
    try:
        async with (
            serving(service) as url,
            serving_app(service.admin_gateway(ADMIN).app()) as admin_url,
            httpx.AsyncClient(base_url=url, headers=key, timeout=30) as public,
            httpx.AsyncClient(base_url=admin_url, headers=token, timeout=30) as admin,
        ):
            yield World(public, admin, told, upstream)
    finally:
        await runner.cleanup()


async def test_nothing_that_the_service_says_or_writes_has_a_secret_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with world(tmp_path, monkeypatch) as w:
        statuses = [(await w.ask()).status_code, (await w.ask("refuses")).status_code]
        statuses += [(await w.ask("blames")).status_code, (await w.ask(temperature=0)).status_code]
        broken = await w.ask("breaks", stream=True)
        await w.ask("no such model")
        w.told.hear(
            await w.public.post("/v1/chat/completions", content=b"{", headers={"content-type": "a/b"})
        )
        wrong = {"Authorization": f"Bearer {CLIENT}x"}
        w.told.hear(await w.public.get("/v1/models", headers=wrong))
        w.told.hear(await w.public.post("/v1/route", json={"input": "2+2?"}))
        for path in ("/v1/models", "/metrics", "/readyz", "/healthz", "/openapi.json", "/nowhere"):
            w.told.hear(await w.public.get(path))
        for path in ("status", "experts", "experts/good", "registry/history?compare=1", "openapi.json", "x"):
            w.told.hear(await w.admin.get(f"/admin/{path}"))
        w.told.hear(await w.admin.get("/admin/status", headers={"Authorization": f"Bearer {ADMIN}x"}))
        w.told.hear(await w.admin.post("/admin/experts", json={"yaml": "id: ["}))
        w.told.hear(await w.admin.post("/admin/reload"))
    assert statuses == [200, 502, 400, 200]
    assert "Incorrect API key provided: Bearer [key]" in broken.text
    written = _written(tmp_path)
    w.told.texts += [*written.values(), caplog.text]
    assert "prompts.jsonl" in written
    assert "Redis" in caplog.text, "its failure was told"
    assert w.told.leaks() == []


def _written(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()}


async def test_an_expert_is_sent_its_own_key_and_none_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch) as w:
        await w.ask()
    (sent,) = w.upstream.sent
    assert REMOTE in sent
    assert CLIENT not in sent


def test_what_holds_a_token_does_not_show_it() -> None:
    assert REMOTE not in repr(Address("http://a", "m", token=REMOTE))
    assert REMOTE not in repr(Upstream("a", "http://a", api_key=REMOTE))


def test_a_url_of_redis_with_a_password_is_refused_in_the_file_and_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValidationError, match="holds a password"):
        State(redis_url=f"redis://:{REDIS}@redis:6379/0")
    monkeypatch.setenv("TEST_REDIS", f"redys://:{REDIS}@redis")
    with pytest.raises(ConfigError) as refused:
        open_store(State(redis_url_env="TEST_REDIS"))
    assert REDIS not in f"{refused.value} {refused.value.hint}"


@pytest.mark.slow
async def test_the_token_of_a_door_is_in_no_command_line(tmp_path: Path) -> None:
    from coe.cluster.proxies import Proxies

    proxies = Proxies("127.0.0.1")
    try:
        address = await proxies.through(Address("http://vllm", "m", socket=str(tmp_path / "s")))
        listed = await asyncio.to_thread(_command_lines)
    finally:
        await proxies.close()
    assert address.token
    assert "coe.engines.vllm.proxy" in listed
    assert address.token not in listed


def _command_lines() -> str:
    return "\n".join(" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"]))
