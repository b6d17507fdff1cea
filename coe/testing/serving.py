"""A service on a real socket, for tests that speak HTTP to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from coe.local import LocalService, http_server


@asynccontextmanager
async def serving(service: LocalService) -> AsyncIterator[str]:
    """Starts ``service`` behind a real uvicorn in this event loop; gives its base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = http_server(service.app)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    await service.start()
    try:
        # The socket listens already, so early clients wait in its backlog and nobody polls.
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await service.stop(drain_s=5)
        await running
