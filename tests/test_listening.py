"""The servers of `coe serve`: TLS by files, slow clients, and logs that programs can read."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import resource
import socket
import ssl
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from coe.core.errors import ConfigError
from coe.observe.logs import REQUEST, JsonLines
from coe.service import http_server as listening
from coe.service.http_server import Listener, Tls
from tests.support.serving import serving_app


async def test_a_client_that_never_finishes_its_headers_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "HEADER_TIMEOUT_S", 0.0)
    async with serving_app(PlainTextResponse("hello")) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nhost: ")
        assert await reader.read() == b"", "the connection ends without an answer"
        writer.close()


async def test_a_whole_request_ends_the_wait_for_headers() -> None:
    async with serving_app(PlainTextResponse("hello")) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"hello")
        writer.close()


def test_files_that_are_no_certificate_are_refused_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"cert\.pem") as refused:
        Tls(tmp_path / "cert.pem").check()
    assert "--tls-cert" in (refused.value.hint or "")


def test_a_log_line_is_one_json_object_with_its_request() -> None:
    record = logging.LogRecord("coe.x", logging.WARNING, "", 0, "%s broke\nhere", ("it",), None)
    token = REQUEST.set("req-7")
    try:
        line = JsonLines().format(record)
    finally:
        REQUEST.reset(token)
    entry = json.loads(line)
    assert "\n" not in line
    assert (entry["level"], entry["message"], entry["request_id"]) == ("warning", "it broke\nhere", "req-7")


def test_outside_a_request_a_log_line_names_none() -> None:
    record = logging.LogRecord("coe.x", logging.INFO, "", 0, "up", (), None)
    assert "request_id" not in json.loads(JsonLines().format(record))


async def test_with_a_certificate_the_service_speaks_https(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="makes the certificate of this test")
    certificate, key = make_certificate(tmp_path)
    tls = Tls(certificate, key)
    tls.check()
    listener = socket.create_server(("127.0.0.1", 0))
    server = listening.http_server(PlainTextResponse("safe"), 1.0, tls)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    trusting = ssl.create_default_context(cafile=str(certificate))
    port = listener.getsockname()[1]
    assert Listener(server, listener).url == f"https://127.0.0.1:{port}"
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trusting, server_hostname="localhost"
    )
    writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    assert (await reader.read()).endswith(b"safe")
    writer.close()
    server.should_exit = True
    await running


def make_certificate(folder: Path) -> tuple[Path, Path]:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    certificate, secret = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, secret


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the bytes of the body; GET is answered at once."""
    body = await Request(scope, receive).body() if scope["method"] == "POST" else b"hello"
    await PlainTextResponse(body)(scope, receive, send)


async def exchange(url: str, *parts: bytes) -> bytes:
    """All that the server sends until it closes; ``parts`` are sent one after the other."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


UPGRADES = (
    b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n",
    b"UPGRADE:h2c\r\nconnection: upgrade, close\r\n",
    b"Connection: upgrade, close\r\nupgrade: TLS/1.0\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Key: x\r\n",
)


@pytest.mark.parametrize("offer", UPGRADES)
async def test_an_offer_to_speak_another_protocol_loses_no_body(offer: bytes) -> None:
    async with serving_app(echo) as url:
        head = b"POST / HTTP/1.1\r\nhost: x\r\n" + offer + b"content-length: 5\r\n\r\n"
        whole = await exchange(url, head + b"12345")
        assert whole.startswith(b"HTTP/1.1 200")
        assert whole.endswith(b"12345")
        in_pieces = await exchange(url, head[:40], head[40:], b"123", b"45")
        assert in_pieces.endswith(b"12345")


async def test_requests_in_one_piece_keep_their_headers() -> None:
    async def shown(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        await PlainTextResponse(dict(scope["headers"])[b"x-name"])(scope, receive, send)

    first = b"POST / HTTP/1.1\r\nhost: x\r\nx-name: first\r\ncontent-length: 2\r\n\r\nab"
    second = b"GET / HTTP/1.1\r\nhost: x\r\nx-name: second\r\nconnection: close\r\n\r\n"
    async with serving_app(shown) as url:
        answers = await exchange(url, first + second)
    assert answers.index(b"first") < answers.index(b"second")


CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
TRAILED = CHUNKED + b"5\r\n12345\r\n0\r\n"


async def test_trailers_are_read_and_left_out() -> None:
    async with serving_app(echo) as url:
        assert (await exchange(url, TRAILED, b"x: y\r\n\r\n")).endswith(b"12345")


@pytest.mark.parametrize("trailer", [b"x: y\r\n" * 20_000, b"x: " + b"y" * 120_000])
async def test_trailers_have_the_bound_of_headers(trailer: bytes) -> None:
    async with serving_app(echo) as url:
        assert b"431" in await exchange(url, TRAILED, trailer[:60_000], trailer[60_000:])


async def test_chunk_extensions_have_the_bound_of_headers() -> None:
    async with serving_app(echo) as url:
        assert b"431" in await exchange(url, CHUNKED + b"5;", b"a" * 60_000, b"a" * 60_000)


async def test_a_body_of_many_small_chunks_is_a_body() -> None:
    async with serving_app(echo) as url:
        answered = await exchange(url, CHUNKED, b"1\r\nx\r\n" * 30_000, b"0\r\n\r\n")
        assert answered.endswith(b"x" * 30_000)


async def test_a_request_that_was_answered_does_not_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "LAST_WORDS_S", 0.05)
    unfinished = TRAILED.replace(b"POST", b"GET").replace(b"connection: close\r\n", b"")
    async with serving_app(echo) as url, asyncio.timeout(5):
        answer = await exchange(url, unfinished, b"x: y\r\n")
    assert answer.endswith(b"hello"), "and the connection was closed, though the trailers never ended"


async def test_a_client_that_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "UNREAD_TIMEOUT_S", 0.1)
    ended = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await StreamingResponse(itertools.repeat(b"x" * 65_536))(scope, receive, send)
        finally:
            ended.set()

    async with serving_app(endless) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(10):
            await ended.wait()
        writer.close()


@pytest.mark.parametrize(
    "nonsense", [b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\r\n\r\n"]
)
async def test_what_is_not_http_is_refused_in_the_form_of_the_api(nonsense: bytes) -> None:
    async with serving_app(echo) as url:
        head, _, body = (await exchange(url, nonsense)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "bad_http"


def test_a_lack_of_file_descriptors_is_told_once_with_what_to_do(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    looking, held = listening.Descriptors(), []
    looking.look()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(2))
        assert held
        looking.look()
        looking.look()
        told = [(record.levelname, record.getMessage()) for record in caplog.records]
        monkeypatch.setattr(listening, "TELL_AGAIN_S", 0.0)
        looking.look()
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [level for level, _ in told] == ["ERROR"]
    assert "ulimit -n" in told[0][1]
    assert len(caplog.records) == 2
    looking.look()
    looking.look()
    assert [record.getMessage() for record in caplog.records[2:]] == ["file descriptors are free again"]
