"""A real redis-server for tests, which they may kill and start again."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coe.state.store import Store, StoreDown


@dataclass
class RedisServer:
    port: int
    folder: Path
    options: Sequence[str] = ("--save", "")
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", *self.options]
        self.process = subprocess.Popen([*command, "--dir", str(self.folder)], stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """On a free port, with ``options`` or without persistence. The test is skipped where redis-server is not
    installed."""
    import pytest

    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (deploy/system-packages.sh redis-server)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = RedisServer(port, folder, options or RedisServer.options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


async def reachable(store: Store) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                return await store.ping()
            except StoreDown:
                await asyncio.sleep(0.02)
