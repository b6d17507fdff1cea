"""One HTTP request and its response: the only place that speaks ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from opentelemetry.trace import INVALID_SPAN, Span
from starlette.types import Receive, Scope, Send

from coe.core import json_codec as quick_json
from coe.core.errors import BadHttp, CoeError, ExpertTimeout, ServiceDown
from coe.core.types import Receipt
from coe.gateway.metrics import Metrics
from coe.gateway.requests import ClientGone
from coe.gateway.responses import HeaderList, error_event
from coe.observe.logs import REQUEST
from coe.observe.otel import RequestTracer
from coe.observe.tracing import fail, note, of_receipt

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status in metrics for a request whose client hung up; nothing was sent."""

ANY_METHOD = "*"
"""Stands for every method that has no handler of its own."""

WATCH_AFTER_S = 0.02
LOOK_S = 0.05


def joined_headers(lines: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name. Repeated lines are one list (RFC 9110, section 5.3), so that a proxy that adds a line
    takes nothing away; two lines of what may be said once are not valid as either."""
    found: dict[bytes, bytes] = {}
    for name, value in lines:
        found[name] = found[name] + b", " + value if name in found else value
    return found


class Exchange:
    """A request under way. Exactly one of the sending methods is used, and ``fail`` after any of them."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.headers = joined_headers(scope["headers"])
        self.request_id = "req-" + os.urandom(12).hex()
        self.arrived = time.monotonic()
        self.status: int | None = None
        self.first_byte_s: float | None = None
        self.receipt: Receipt | None = None
        self.completion: str | None = None
        """the answer's own id"""
        self.error: CoeError | None = None
        """what was sent instead of an answer, or after the part of it that came"""
        self.whole = False
        """whether all of the response has been handed over to be sent"""
        self._streaming = False
        self._sent = bytearray()
        self._record_bytes = 0

    def record_sent(self, max_bytes: int) -> bytearray:
        """Fills with the body that is sent, up to about ``max_bytes``."""
        self._record_bytes = max_bytes
        return self._sent

    async def send_json(self, payload: Any, status: int = 200, headers: HeaderList | None = None) -> None:
        await self.send_bytes(quick_json.encode(payload), status=status, headers=headers)

    async def send_bytes(
        self,
        raw: bytes,
        content_type: bytes = b"application/json",
        status: int = 200,
        headers: HeaderList | None = None,
    ) -> None:
        """A whole response."""
        head = [(b"content-type", content_type), (b"content-length", b"%d" % len(raw)), *(headers or ())]
        await self._start(status, head)
        if self._record_bytes:
            self._sent += raw
        self.whole = True
        await self._send({"type": "http.response.body", "body": raw})

    async def start_stream(self, headers: HeaderList) -> None:
        """The head of an event stream; ``write`` and ``end`` follow. Proxies are asked not to buffer."""
        self._streaming = True
        head = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *headers,
        ]
        await self._start(200, head)

    async def write(self, chunk: bytes) -> None:
        if len(self._sent) < self._record_bytes:
            self._sent += chunk
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, last: bytes = b"") -> None:
        self._streaming = False
        self.whole = True
        await self._send({"type": "http.response.body", "body": last})

    async def client_left(self) -> bool:
        """Only once nobody else waits for ``receive``."""
        try:
            async with asyncio.timeout(LOOK_S):
                return bool((await self.receive())["type"] == "http.disconnect")
        except TimeoutError:
            return False

    async def fail(self, error: CoeError, headers: HeaderList | None = None) -> None:
        """Answer with an error: as JSON, or an error event that ends a stream that has begun."""
        self.error = error
        if self.status is None:
            headers = headers or []
            if error.http_status == 401:  # RFC 9110, 11.6.1
                headers.append((b"www-authenticate", b"Bearer"))
            if error.retry_after_s is not None or error.http_status in (429, 503):
                headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s or 1))))
            await self.send_json(error.envelope(), status=error.http_status, headers=headers)
        elif self._streaming:
            self.status = error.http_status
            await self.end(error_event(error))

    async def _start(self, status: int, headers: HeaderList) -> None:
        self.status = status
        self.first_byte_s = time.monotonic() - self.arrived
        head = [*headers, (b"x-coe-request-id", self.request_id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": head})


Handler = Callable[[Exchange], Awaitable[None]]


class Endpoint:
    """The handlers of one path, by method, as an ASGI app: the one place where errors become responses."""

    def __init__(
        self,
        name: str,
        handlers: Mapping[str, Handler],
        metrics: Metrics,
        tracer: RequestTracer | None = None,
    ) -> None:
        self._name = name
        self._handlers = dict(handlers)
        if "GET" in handlers:
            self._handlers.setdefault("HEAD", handlers["GET"])
        self._methods = tuple(handlers)
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        REQUEST.set(exchange.request_id)
        span: Span = INVALID_SPAN
        if self._tracer is not None and scope["method"] == "POST":  # the others ask no expert anything
            span = self._tracer.begin(f"POST {self._name}", exchange.headers)
        self._metrics.arrived(self._name)
        try:
            await self._handle(exchange)
        finally:
            seconds = time.monotonic() - exchange.arrived
            status = exchange.status or CLIENT_GONE
            self._metrics.finished(self._name, status, seconds, exchange.first_byte_s, exchange.receipt)
            if exchange.error is not None:
                self._metrics.failed(exchange.error)
            if span.is_recording():
                self._end_span(span, exchange, status)

    async def _handle(self, exchange: Exchange) -> None:
        """Answers on every path; raises only what cancels it."""
        handler = self._handlers.get(exchange.scope["method"]) or self._handlers.get(ANY_METHOD)
        try:
            if handler is None:
                await exchange.fail(
                    _wrong_method(self._methods), [(b"allow", ", ".join(self._methods).encode())]
                )
            else:
                await handler(exchange)
        except ClientGone:
            exchange.status = CLIENT_GONE
        except CoeError as error:
            await exchange.fail(error)
        except asyncio.CancelledError:
            # By the server: its client is gone, or it stops and has no more patience with what is under way.
            if await exchange.client_left():
                raise
            with contextlib.suppress(OSError):
                await exchange.fail(_stopped())
        except Exception:
            log.exception("request %s failed unexpectedly", exchange.request_id)
            await exchange.fail(_unexpected(exchange.request_id))

    def _end_span(self, span: Span, exchange: Exchange, status: int) -> None:
        note(
            span,
            {
                "http.request.method": exchange.scope["method"],
                "http.route": self._name,
                "http.response.status_code": status,
                "coe.request_id": exchange.request_id,
                **(of_receipt(exchange.receipt, exchange.completion) if exchange.receipt else {}),
            },
        )
        if status >= 500:
            fail(span, exchange.error.code if exchange.error else str(status))
        span.end()


class Deadline:
    """Ends a block after ``seconds``, which raises ExpertTimeout, or when the client hangs up, which raises
    ClientGone. What is under way inside sees both as a cancellation."""

    def __init__(self, exchange: Exchange, seconds: float) -> None:
        self._exchange, self._seconds = exchange, seconds
        self._timeout = asyncio.timeout(seconds)
        self._start: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._hung_up = False

    def watch_client(self) -> None:
        """From now on a client that hangs up ends the block. Only once the body was read: after that
        ``receive`` has nothing but the end of the connection or of the response, which servers do not tell
        apart."""
        # Most answers of quick experts are there before watching for the client is worth a task.
        self._start = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._watch)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._start is not None:
            self._start.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise (ClientGone if self._hung_up else _too_slow(self._seconds)) from None

    def _watch(self) -> None:
        self._watcher = asyncio.create_task(self._expire())

    async def _expire(self) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        if not self._exchange.whole:
            self._hung_up = True
            self._timeout.reschedule(0)


def _too_slow(seconds: float) -> ExpertTimeout:
    return ExpertTimeout(
        f"no complete answer came within {seconds:g} s",
        hint="Ask for fewer tokens, or raise limits.request_timeout_s in experts.yaml.",
    )


def _wrong_method(allowed: Sequence[str]) -> BadHttp:
    takes = " and ".join(allowed)
    return BadHttp(405, f"this path takes {takes} only", code="method_not_allowed", hint=f"Use {takes}.")


def _stopped() -> CoeError:
    return ServiceDown(
        "the service stopped before the answer was complete",
        code="stopping",
        hint="Ask again when it is back.",
        retry_after_s=5.0,
    )


def _unexpected(request_id: str) -> CoeError:
    return CoeError(
        f"an unexpected error happened in the service; its log has the cause under {request_id}",
        hint="Ask again. If it happens again, report it with the log.",
    )
