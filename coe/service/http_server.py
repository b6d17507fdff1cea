"""The HTTP servers of `coe serve`: sockets, TLS, and how long a client may take to say what it wants."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import math
import os
import re
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coe.core.errors import BadHttp, ConfigError
from coe.gateway.http import Exchange
from coe.registry.schema import Service
from coe.registry.service_settings import AdminListener

log = logging.getLogger(__name__)

LOOK_S, TELL_AGAIN_S = 1.0, 60.0
HEADER_TIMEOUT_S = 20.0
"""From the connection, or the first byte of a further request, to the end of its headers."""
MAX_HEADER_BYTES = 65_536
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b"
)
UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)
LAST_WORDS_S = 2.0
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:@/,\[\]]+)(?::\d{1,5})?")
HOST_HINT = "Call the service by its own name, or list the name under service.allowed_hosts in experts.yaml."
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
ANY_ADDRESS = "any address"
UNREAD_TIMEOUT_S = 30.0
"""How long a client may read nothing of an answer that waits for it."""


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
    """uvicorn's, with bounds on what a client may send beside a body, and on how long it may take.

    Bytes are counted by message, not by phase: whatever is sent without being a body (headers, trailers,
    chunk extensions) counts. Offers to speak another protocol (h2c of every Java client, WebSocket) are
    ignored, as RFC 9110 section 7.8 allows: httptools would drop the body of a request that makes one.
    """

    _head: bytes | None = b""
    """the head of a message so far; None: it is whole, and what arrives goes to the parser"""
    _beside_body = 0
    _due: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _whole = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._hang_up_after(HEADER_TIMEOUT_S)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._unset_keepalive_if_required()
            if not self._head and self._due is None:
                self._hang_up_after(HEADER_TIMEOUT_S)
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0 and len(self._head) <= MAX_HEADER_BYTES:
                return
            data = UPGRADE.sub(b"\r\nx-upgrade:", self._head[:end]) + self._head[end:]
            self._head = None
        self._beside_body += len(data)
        super().data_received(data)
        if self._beside_body > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        self._head, self._whole = None, False
        if self._due is None:  # it came in one piece with the end of the message before
            self._hang_up_after(HEADER_TIMEOUT_S)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._due is not None:  # what comes later are trailers, which nothing here reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._beside_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head, self._whole, self._beside_body = b"", True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._whole:  # answered before it was asked to the end: it does not go on for ever
            self._hang_up_after(LAST_WORDS_S)

    def send_400_response(self, msg: str) -> None:
        """In the API's own form."""
        error = {"message": msg, "type": "invalid_request_error", "code": "bad_http", "param": None}
        body = json.dumps({"error": {**error, "source": "router"}}).encode()
        self.transport.write(BAD_REQUEST % (len(body), body))
        self.transport.close()

    def pause_writing(self) -> None:
        """A client that reads nothing is let go: its answer and its task would stay in memory with it."""
        super().pause_writing()
        self._stalled = self.loop.call_later(UNREAD_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def _hang_up_after(self, seconds: float) -> None:
        self._stop_waiting()
        self._due = self.loop.call_later(seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


class HostGuard:
    """ASGI app in front of another one: a request has one ``Host``, and it is a name of this service.

    A page of another site that a browser shows may have its own name lead here (DNS rebinding), and would
    read what a service without keys answers. ``names``: None for any.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str] | None) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._fault(scope)) is not None:
            await Exchange(scope, receive, send).fail(error)
        else:
            await self._app(scope, receive, send)

    def _fault(self, scope: Scope) -> BadHttp | None:
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if not given and scope["http_version"] == "1.0":
            return None
        named = HOST.fullmatch(given[0]) if len(given) == 1 else None
        if named is None:
            what = (
                f"the header Host is {given[0][:80]!r}" if len(given) == 1 else f"{len(given)} headers Host"
            )
            return BadHttp(400, f"{what}; there must be one, with a name", code="bad_host", hint=HOST_HINT)
        name = named[1].strip("[]").rstrip(".").lower()
        if self._names is None or name in self._names or (ANY_ADDRESS in self._names and _is_address(name)):
            return None
        message = f"this service is not called {name[:80]}"
        return BadHttp(403, message, code="host_not_allowed", hint=HOST_HINT)


def host_names(listener: Service | AdminListener, needs_key: bool) -> frozenset[str] | None:
    """The names that requests to ``listener`` may use; None: any."""
    local = listener.host == "localhost" or (
        _is_address(listener.host) and ip_address(listener.host).is_loopback
    )
    listed = {name.strip("[]").rstrip(".").lower() for name in listener.allowed_hosts}
    if "*" in listed or (not listed and (needs_key or not local)):
        return None
    # Elsewhere probes and load balancers say the address, which no page of another site has for a name.
    return frozenset({*listed, *LOCAL_NAMES, listener.host.lower(), *(() if local else (ANY_ADDRESS,))})


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


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


class Descriptors:
    """Says when the process may open no more files and sockets: the event loop then closes new connections
    without a word."""

    def __init__(self) -> None:
        self._lacking = False
        self._told = -math.inf

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            lacking = error.errno in (errno.EMFILE, errno.ENFILE)
        else:
            lacking = False
        now = time.monotonic()
        if lacking and now - self._told >= TELL_AGAIN_S:
            self._told = now
            log.error(
                "no file descriptor is left (%d are allowed): new connections are closed, engines cannot be"
                " reached; raise the limit (ulimit -n, LimitNOFILE), or bound the connections in front",
                resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )
        elif self._lacking and not lacking:
            log.info("file descriptors are free again")
        self._lacking = lacking


@dataclass(frozen=True)
class Listener:
    """A server and the socket that it listens on."""

    server: HttpServer
    socket: socket.socket

    @property
    def url(self) -> str:
        host, port = self.socket.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"{'https' if self.server.config.ssl_certfile else 'http'}://{shown}:{port}"


def http_server(app: ASGIApp, drain_s: float, tls: Tls | None = None) -> HttpServer:
    """``drain_s``: how long answers under way may go on once it is to stop."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        ws="none",
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
