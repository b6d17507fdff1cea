"""One HTTP request and its response: the only place that speaks ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import Receive, Scope, Send

from coe.core import json_codec as quick_json
from coe.core.errors import BadHttp, CoeError, ServiceDown
from coe.core.types import Receipt
from coe.gateway.metrics import Metrics
from coe.gateway.requests import ClientGone
from coe.gateway.responses import HeaderList, error_event
from coe.observe.logs import REQUEST
from coe.observe.tracing import SPAN, Tracer, of_receipt

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status in metrics for a request whose client hung up; nothing was sent."""

WATCH_AFTER_S = 0.02
LOOK_S = 0.05


class Exchange:
    """A request under way. Exactly one of the sending methods is used, and ``fail`` after any of them."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = "req-" + os.urandom(12).hex()
        self.arrived = time.monotonic()
        self.status: int | None = None
        self.first_byte_s: float | None = None
        self.receipt: Receipt | None = None
        self.completion: str | None = None
        """the answer's own id"""
        self.error: CoeError | None = None
        """what the client was told"""
        self.whole = False
        """whether all of the response has been handed over to be sent"""
        self._streaming = False
        self._sent: bytearray | None = None
        self._listens_to = 0

    def listen(self, max_bytes: int) -> bytearray:
        """Fills with the body that is sent, up to about ``max_bytes``."""
        self._sent, self._listens_to = bytearray(), max_bytes
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
        self._note(raw)
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
        self._note(chunk)
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
        """Tell the client: a JSON error, or an error event that ends a stream that has begun."""
        self.error = error
        if self.status is None:
            headers = headers or []
            if error.retry_after_s is not None or error.http_status in (429, 503):
                headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s or 1))))
            await self.send_json(error.envelope(), status=error.http_status, headers=headers)
        elif self._streaming:
            self.status = error.http_status
            await self.end(error_event(error))

    def _note(self, sent: bytes) -> None:
        if self._sent is not None and len(self._sent) < self._listens_to:
            self._sent += sent

    async def _start(self, status: int, headers: HeaderList) -> None:
        self.status = status
        self.first_byte_s = time.monotonic() - self.arrived
        head = [*headers, (b"x-coe-request-id", self.request_id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": head})


Handler = Callable[[Exchange], Awaitable[None]]


class Endpoint:
    """A handler as an ASGI app: the one place where errors become responses."""

    def __init__(
        self, name: str, method: str, handler: Handler, metrics: Metrics, tracer: Tracer | None = None
    ) -> None:
        self._name = name
        self._tracer = tracer
        self._method = method
        self._handler = handler
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        REQUEST.set(exchange.request_id)
        if self._tracer is not None:
            SPAN.set(self._tracer.request(f"{self._method} {self._name}", exchange.headers))
        self._metrics.arrived(self._name)
        try:
            if self._takes(scope["method"]):
                await self._handler(exchange)
            else:
                await exchange.fail(_wrong_method(self._method), [(b"allow", self._method.encode())])
        except ClientGone:
            exchange.status = CLIENT_GONE
        except CoeError as error:
            await exchange.fail(error)
        except asyncio.CancelledError:
            # By the server: its client is gone, or it stops and has no more patience with what is under way.
            if await exchange.client_left():
                raise
            with contextlib.suppress(OSError):
                await exchange.fail(_given_up())
        except Exception:
            log.exception("request %s failed unexpectedly", exchange.request_id)
            await exchange.fail(_unexpected(exchange.request_id))
        finally:
            seconds = time.monotonic() - exchange.arrived
            status = exchange.status or CLIENT_GONE
            self._metrics.finished(self._name, status, seconds, exchange.first_byte_s, exchange.receipt)
            if exchange.error is not None:
                self._metrics.failed(exchange.error)
            if self._tracer is not None:
                self._end_span(exchange, status)

    def _end_span(self, exchange: Exchange, status: int) -> None:
        span = SPAN.get()
        if span is None:
            return
        span.note(
            {
                "http.request.method": exchange.scope["method"],
                "http.route": self._name,
                "http.response.status_code": status,
                "coe.request_id": exchange.request_id,
                **(of_receipt(exchange.receipt, exchange.completion) if exchange.receipt else {}),
            }
        )
        if status >= 500:
            span.fail(exchange.error.code if exchange.error else str(status))
        span.end()

    def _takes(self, method: str) -> bool:
        return method == self._method or (method == "HEAD" and self._method == "GET")


class HangUp:
    """Ends a block when the client hangs up. Only once the body was read: from then on ``receive`` tells of
    nothing but the end of the connection, or of the response: servers say the same of both."""

    def __init__(self, exchange: Exchange) -> None:
        self.happened = False
        self._exchange = exchange
        self._watcher: asyncio.Task[None] | None = None

    @contextmanager
    def expires(self, block: asyncio.Timeout) -> Iterator[None]:
        """``block`` expires when it happens, which the clean-up inside sees as a cancellation."""
        # Most answers of quick experts are there before watching for the client is worth a task.
        start = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._watch, block)
        try:
            yield
        finally:
            start.cancel()
            if self._watcher is not None:
                self._watcher.cancel()

    def _watch(self, block: asyncio.Timeout) -> None:
        self._watcher = asyncio.create_task(self._expire(block))

    async def _expire(self, block: asyncio.Timeout) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        if self._exchange.whole:
            return
        self.happened = True
        block.reschedule(0)


def _wrong_method(right: str) -> BadHttp:
    return BadHttp(405, f"this path takes {right} only", code="method_not_allowed", hint=f"Use {right}.")


def _given_up() -> CoeError:
    return ServiceDown(
        "the service stopped before the answer was whole",
        code="stopping",
        hint="Ask again when it is back.",
        retry_after_s=5.0,
    )


def _unexpected(request_id: str) -> CoeError:
    return CoeError(
        f"an unexpected error in the service; its log has the cause under {request_id}",
        hint="Ask again; if it stays, report it with the log.",
    )
