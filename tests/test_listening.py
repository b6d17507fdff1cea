"""The servers of `coe serve`: TLS by files, slow clients, and logs that programs can read."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from coe.core.errors import ConfigError
from coe.observe.logs import REQUEST, JsonLines
from coe.service import http_server as listening
from coe.service.http_server import Door, Tls
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
    assert Door(server, listener).url == f"https://127.0.0.1:{port}"
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
