"""Inside Serve's proxies, in front of the gateways: whatever becomes of a gateway, its clients get an end.

A gateway tells its clients by itself what went wrong, as long as it lives. When its process or its machine
dies, Serve ends the response where it stands: a plain text, or a stream that is cut. And Serve has errors of
its own (no replica, too many requests, its time limit), as plain text. :class:`Front` turns all of these into
the API's errors. Serve installs it by ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` (see
:mod:`coe.cluster.settings`).
"""

from __future__ import annotations

import logging

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coe.core import json_codec as quick_json
from coe.core.errors import CoeError, ExpertTimeout, Overloaded, ServiceDown
from coe.gateway.responses import HeaderList, error_event

log = logging.getLogger(__name__)

OURS = "/v1/"
"""Serve may have other applications beside ours, whose responses are left alone."""
OUR_HEADER = b"x-coe-request-id"
"""The header of every response that a gateway has made."""
RETRY_S = 1.0


def middlewares() -> list[Middleware]:
    """What Serve asks for."""
    return [Middleware(Front)]


class Front:
    """ASGI middleware: every response below :data:`OURS` is a gateway's, whole, or ends with an error."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(OURS):
            await self._app(scope, receive, send)
            return
        response = _Response(send)
        try:
            await self._app(scope, receive, response.send)
        except Exception:
            log.exception("a request failed in the proxy")
        await response.end()


class _Response:
    """Passes a gateway's response on. What Serve says by itself is taken for its status and kept back."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._head: Message | None = None  # kept back until there is a body, as it cannot be taken back
        self._serves_own: int | None = None
        self._begun = self._streaming = self._whole = False
        self._cut = False  # the last event so far has no end

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body" and self._serves_own is None:
            await self._body(message)

    async def _start(self, head: Message) -> None:
        headers = dict(head["headers"])
        if OUR_HEADER not in headers:
            self._serves_own = int(head["status"])
            return
        self._streaming = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        if self._streaming:  # an error can be sent in it
            self._begun = True
            await self._send(head)
        else:
            self._head = head

    async def _body(self, message: Message) -> None:
        if self._head is not None:
            await self._send(self._head)
            self._head, self._begun = None, True
        body = message.get("body", b"")
        self._cut = bool(body) and not body.endswith(b"\n\n")
        self._whole = not message.get("more_body", False)
        await self._send(message)

    async def end(self) -> None:
        """Tell the client what is missing. A body that is no stream cannot say it: its length does."""
        if self._whole:
            return
        if not self._begun:
            await self._refuse(_told_by_serve(self._serves_own) if self._serves_own else _lost())
        elif self._streaming:
            gap = b"\n\n" if self._cut else b""
            await self._send({"type": "http.response.body", "body": gap + error_event(_lost())})

    async def _refuse(self, error: CoeError) -> None:
        raw = quick_json.encode(error.envelope())
        headers: HeaderList = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(raw)),
            (b"retry-after", b"%d" % RETRY_S),
        ]
        await self._send({"type": "http.response.start", "status": error.http_status, "headers": headers})
        await self._send({"type": "http.response.body", "body": raw})


def _lost() -> CoeError:
    return ServiceDown(
        "the gateway was lost before the answer was whole",
        code="gateway_lost",
        hint="Another gateway answers; send the request again.",
        retry_after_s=RETRY_S,
    )


def _told_by_serve(status: int) -> CoeError:
    if status == 408:
        return ExpertTimeout(
            "the answer was not complete in time", hint="Send the request again, or ask for fewer tokens."
        )
    if status == 429:
        return Overloaded("the proxy's queue is full", hint="Ask again in a moment.", retry_after_s=RETRY_S)
    if status in (404, 503):
        return ServiceDown(
            "no gateway takes requests at the moment",
            code="no_gateway",
            hint="`coe status` shows why. Send the request again in a moment.",
            retry_after_s=RETRY_S,
        )
    return _lost()
