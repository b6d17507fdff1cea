"""A service on a real socket, for tests that speak HTTP to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp

from coe.service.http_server import http_server
from coe.service.service import LocalService

DRAIN_S = 5.0


@asynccontextmanager
async def serving(service: LocalService) -> AsyncIterator[str]:
    """Starts ``service`` behind a real uvicorn in this event loop; gives its base URL."""
    try:
        async with serving_app(service.app) as url:
            await service.start()
            try:
                yield url
            finally:
                await service.stop(drain_s=DRAIN_S)
    finally:
        await service.close()


@asynccontextmanager
async def serving_app(app: ASGIApp) -> AsyncIterator[str]:
    """Any ASGI app behind a real uvicorn in this event loop; gives its base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = http_server(app, DRAIN_S)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        # The socket listens already, so early clients wait in its backlog and nobody polls.
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
