"""The door of a vLLM server for other machines of a cluster: ``python -m coe.engines.vllm.proxy``.

vLLM guards only ``/v1`` with its key, and its control endpoints (``/collective_rpc``!) not at all, so it
listens on a Unix socket alone. The door passes completions, and nothing else, to that socket, for callers
that know its token. It prints its port and ends when its input is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence

import aiohttp
from aiohttp import web

PATHS = ("/v1/chat/completions", "/v1/completions")
TRACE_HEADERS = ("traceparent", "tracestate")
TOKEN_ENV = "COE_DOOR_TOKEN"
MAX_BODY_BYTES = 64 * 1024 * 1024


def door_app(socket: str, token: str) -> web.Application:
    """The two completion endpoints of the server at ``socket``, for holders of ``token``."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    session = web.AppKey("session", aiohttp.ClientSession)

    async def connect(app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.UnixConnector(path=socket, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as app[session]:
            yield

    async def pass_on(request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), token.encode()):
            return _refusal(401, "the token is wrong")
        return await _pass(request, request.app[session])

    app.cleanup_ctx.append(connect)
    for path in PATHS:
        app.router.add_post(path, pass_on)
    return app


async def _pass(request: web.Request, session: aiohttp.ClientSession) -> web.StreamResponse:
    """A caller that hangs up cancels this handler, which closes the connection, which makes vLLM abort."""
    body = await request.read()
    try:
        async with session.post(
            f"http://vllm{request.path}", data=body, headers=_headers(request)
        ) as upstream:
            response = web.StreamResponse(
                status=upstream.status, headers={"Content-Type": upstream.headers["Content-Type"]}
            )
            await response.prepare(request)
            async for data in upstream.content.iter_any():
                await response.write(data)
            await response.write_eof()
            return response
    except aiohttp.ClientConnectorError as error:
        return _refusal(502, f"the server behind the door is gone: {error}")


def _headers(request: web.Request) -> dict[str, str]:
    trace = {name: request.headers[name] for name in TRACE_HEADERS if name in request.headers}
    return {"Content-Type": "application/json", **trace}


def _refusal(status: int, message: str) -> web.Response:
    envelope = {"error": {"message": message, "type": "engine_error", "code": "door", "param": None}}
    return web.Response(status=status, text=json.dumps(envelope), content_type="application/json")


async def run_door(socket: str, host: str, token: str) -> None:
    """Serve on a free port of ``host``, print it, and end when standard input is closed."""
    runner = web.AppRunner(door_app(socket, token), access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    addresses = runner.addresses
    print(addresses[0][1], flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


def main(arguments: Sequence[str]) -> None:
    socket, host = arguments
    token = os.environ.pop(TOKEN_ENV)
    asyncio.run(run_door(socket, host, token))


if __name__ == "__main__":
    main(sys.argv[1:])
