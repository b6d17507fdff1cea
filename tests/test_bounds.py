"""What is not fetched, read or waited for: media by URL, metadata addresses, other folders, slow clients."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp.abc import ResolveResult

from coe.core.addresses import is_metadata
from coe.core.errors import BadRequest, ConfigError, EngineError
from coe.engines.http import HttpClient
from coe.engines.remote import ssrf_guard as guard
from coe.engines.remote.openai_url import api_url
from coe.engines.remote.ssrf_guard import GuardedResolver
from coe.engines.upstream import Upstream
from coe.gateway import requests
from coe.gateway.requests import parse_completion
from coe.profiles.store import ProfileFolder
from coe.registry.schema import Limits, Registry
from coe.registry.service_settings import AdminListener
from coe.service import http_server as listening
from coe.service.service import build_service
from coe.testing.engines import FakeEngine
from tests.support.live import TEXT, live_world
from tests.support.serving import serving, serving_app

TOKEN = "t" * 32


def parse(part: dict[str, Any], role: str = "user", *hosts: str) -> None:
    body = {"model": "coe", "messages": [{"role": role, "content": [part]}]}
    limits = Limits(media_hosts=hosts)
    parse_completion("chat/completions", json.dumps(body).encode(), {}, limits, "r")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "image_url", "image_url": "http://localhost:8001/admin/status"},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": " FILE:/etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "//internal/a"}},
        {"type": "image_url", "image_url": {"url": "/etc/passwd"}},
        {"type": "video_url", "video_url": {"url": "ftp://x/y"}},
        {"type": "audio_url", "audio_url": {"url": "http://x/y"}},
        {"type": "input_image", "image_url": "http://x/y"},
        {"type": "file", "file": {"file_url": "http://x/y"}},
        {"type": "custom", "deep": [{"source": {"where": "http://x/y"}}]},
        {"type": "text", "text": "hi", "image_url": {"url": "http://x/y"}},
        {"type": "image_url", "image_url": {"url": "http://[bad"}},
    ],
)
@pytest.mark.parametrize("role", ["user", "tool"])
def test_media_by_url_is_refused_in_every_role(part: dict[str, Any], role: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(part, role)
    assert (refused.value.code, refused.value.param) == ("remote_media", "messages[0].content[0]")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "text", "text": "see https://example.org and file:///etc/passwd"},
        {"type": "refusal", "refusal": "note: no"},
    ],
)
def test_data_and_words_are_not(part: dict[str, Any]) -> None:
    parse(part)


def test_hosts_of_media_can_be_allowed() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://img.example.org/a.png"}}
    parse(part, "user", "img.example.org")
    parse(part, "user", "*")
    parse(part, "user", "IMG.example.org")
    parse({"type": "image_url", "image_url": "https://img.example.org/@me/a.png"}, "user", "img.example.org")
    for refused in (
        "file:///etc/passwd",
        "https://img.example.org.evil/a",
        "https://evil.example\\@img.example.org/a",  # urllib3 goes to evil.example
        "https://img.example.org@evil.example/a",
        "https://img.example.org/\ta",
    ):
        with pytest.raises(BadRequest):
            parse({"type": "image_url", "image_url": {"url": refused}}, "user", "img.example.org")


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        ("169.254.169.254", True),
        ("169.254.0.1", True),
        ("fe80::1%eth0", True),
        ("::ffff:169.254.169.254", True),
        ("fd00:ec2::254", True),
        ("100.100.100.200", True),
        ("168.63.129.16", True),
        ("169\u3002254\u3002169\u3002254", True),  # ideographic full stops
        ("\uff11\uff16\uff19.254.169.254", True),  # wide digits
        ("169.254.169.254.", True),
        ("%31%36%39.254.169.254", True),
        ("2852039166", True),
        ("0xA9FEA9FE", True),
        ("0251.0376.0251.0376", True),
        ("169.254.43518", True),
        ("[::ffff:a9fe:a9fe]", True),
        ("::169.254.169.254", True),
        ("64:ff9b::a9fe:a9fe", True),  # NAT64
        ("2002:a9fe:a9fe::1", True),  # 6to4
        ("2001:0:a9fe:a9fe::1", True),  # Teredo
        ("2001:db8::5efe:a9fe:a9fe", True),  # ISATAP
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::1", False),
        ("2130706433", False),
        ("a9fea9fe.example", False),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("1.1.1.1", False),
        ("example.org", False),
    ],
)
def test_metadata_addresses_are_known(address: str, is_one: bool) -> None:
    assert is_metadata(address) is is_one


def test_a_remote_host_there_is_refused_unless_it_says_so() -> None:
    for url in ("http://169.254.169.254/v1", "http://169\u3002254\u3002169\u3002254/v1", "http://0xa9fea9fe"):
        with pytest.raises(ConfigError, match="metadata address"):
            api_url(url)
    assert api_url("http://169.254.169.254", link_local=True) == "http://169.254.169.254/v1"


async def test_a_name_that_leads_there_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: Any) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname="a", host="169.254.169.254", port=80, family=socket.AF_INET, proto=0, flags=0
            )
        ]

    monkeypatch.setattr(guard.aiohttp.ThreadedResolver, "resolve", resolve)
    client = HttpClient(Upstream("far", "http://rebound.example", guarded=True))
    try:
        with pytest.raises(EngineError, match="link-local or metadata"):
            await client.ask("/v1/chat/completions", {})
    finally:
        await client.close()


async def test_a_number_that_means_such_an_address_is_seen_through() -> None:
    resolver = GuardedResolver()
    with pytest.raises(OSError, match="link-local or metadata"):
        await resolver.resolve("2852039166", 80)  # 169.254.169.254
    await resolver.close()


def test_a_profile_s_file_stays_in_its_folder(tmp_path: Path) -> None:
    file = ProfileFolder(tmp_path)._file("a/../../../evil")
    assert file.resolve().parent == (tmp_path / "experts").resolve()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["../elsewhere", "/etc", "~/x", "a/../../x"])
async def test_experts_added_over_http_stay_in_the_folder(tmp_path: Path, model: str) -> None:
    entry = {"id": "law", "host": "slot", "model": model}
    for allowed, code in ((False, "outside_folder"), (True, "invalid_registry")):
        folder = tmp_path / str(allowed)
        folder.mkdir()
        service = f"service: {{admin: {{port: 0, token_env: T, any_folder: {str(allowed).lower()}}}}}\n"
        async with live_world(folder, text=TEXT + service) as w:
            app = w.service.admin_gateway(TOKEN).app()
            async with serving_app(app) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
                token = {"Authorization": f"Bearer {TOKEN}"}
                answer = await http.post("/admin/experts", json={"experts": [entry]}, headers=token)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text


def test_the_admin_api_listens_on_loopback_and_a_port_of_its_own_unless_told_otherwise() -> None:
    listener = AdminListener(token_env="T")
    assert (listener.host, listener.port) == ("127.0.0.1", 8001)


async def test_the_public_port_has_no_admin_api(tmp_path: Path) -> None:
    service = "service: {admin: {port: 0, token_env: T}}\n"
    async with live_world(tmp_path, text=TEXT + service) as w:
        answer = await w.http.get("/admin/status", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 404


async def talk(url: str, sent: bytes) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        return await reader.read()
    except ConnectionResetError:  # it hung up with something of ours unread
        return b""
    finally:
        writer.close()


def service() -> Any:
    registry = Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [{"id": "sums", "host": "slot", "model": "m"}],
            "routers": {"default": "random"},
        }
    )
    return build_service(registry, Path(), lambda *_: FakeEngine("slot"))


@pytest.mark.parametrize("head", [b"GET /healthz HTTP/1.1\r\nx: ", b"GET /"])
async def test_headers_without_end_are_cut_off(head: bytes) -> None:
    async with serving(service()) as url:
        answer = await talk(url, head + b"a" * (2 * listening.MAX_HEADER_BYTES))
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
        assert (await talk(url, b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n")).endswith(b'"ok"}')


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route", "/v1/feedback"])
async def test_a_body_that_does_not_come_is_not_waited_for(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "BODY_TIMEOUT_S", 0.0)
    head = f"POST {path} HTTP/1.1\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 9"
    async with serving(service()) as url:
        answer = await talk(url, head.encode() + b"\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body_too_slow" in answer
