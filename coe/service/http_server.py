"""The HTTP servers of `coe serve`: sockets, TLS, and how long a client may take to say what it wants."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coe.core.errors import ConfigError
from coe.registry.schema import Service
from coe.registry.service_settings import AdminListener

HEADER_TIMEOUT_S = 20.0
"""From the connection, or the first byte of a further request, to the end of its headers."""
MAX_HEADER_BYTES = 65_536
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
LAST_WORDS_S = 2.0


@dataclass(frozen=True)
class Tls:
    """PEM files: the certificate with its chain, and its key where that is apart."""

    certificate: Path
    key: Path | None = None

    def check(self) -> None:
        """Raises ConfigError when the files cannot be used. Blocking."""
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.certificate, self.key)
        except OSError as error:  # SSLError is one
            files = " and ".join(str(file) for file in (self.certificate, self.key) if file)
            raise ConfigError(
                f"TLS cannot use {files}: {error.strerror or error}",
                hint="Give --tls-cert a PEM certificate and --tls-key its unencrypted PEM key.",
            ) from error


class Protocol(HttpToolsProtocol):
    """uvicorn's, which hangs up on a client that does not finish its headers in time (slow loris)."""

    _due: asyncio.TimerHandle | None = None

    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """httptools has no bound on headers of its own, and keeps one that does not end in memory."""
        super().data_received(data)
        if self._due is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.transport.write(TOO_LARGE)
                self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_headers()

    def on_message_begin(self) -> None:
        self._wait_for_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_headers(self) -> None:
        self._head_bytes = 0
        self._stop_waiting()
        self._due = self.loop.call_later(HEADER_TIMEOUT_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: it would end the process before the engines are stopped."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Also lets those that were given up tell their clients so."""
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=LAST_WORDS_S)

    def abort(self) -> None:
        """Give up what is under way."""
        self.force_exit = True
        for task in self.server_state.tasks:
            task.cancel()


@dataclass(frozen=True)
class Door:
    """A server and the socket that it listens on."""

    server: HttpServer
    listener: socket.socket

    @property
    def url(self) -> str:
        host, port = self.listener.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"{'https' if self.server.config.ssl_certfile else 'http'}://{shown}:{port}"


def http_server(app: ASGIApp, drain_s: float, tls: Tls | None = None) -> HttpServer:
    """``drain_s``: how long answers under way may go on once it is told to stop."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # nothing here reads the client's address
        server_header=False,
        timeout_graceful_shutdown=int(drain_s) + 5,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    return HttpServer(config)


def bind(service: Service | AdminListener) -> socket.socket:
    """Take the port before anything slow starts, so that a port in use shows at once."""
    family = socket.AF_INET6 if ":" in service.host else socket.AF_INET
    try:
        return socket.create_server((service.host, service.port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {service.host} port {service.port}: {error.strerror}",
            code="cannot_listen",
            hint="Stop what uses the port, or set another service.port or service.host in experts.yaml.",
        ) from error
