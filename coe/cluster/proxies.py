"""Opens doors: one process for each vLLM server that another machine wants to ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from dataclasses import dataclass

from coe.core.errors import EngineError
from coe.engines.address import Address
from coe.engines.vllm.proxy import TOKEN_ENV

START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class _Open:
    process: asyncio.subprocess.Process
    url: str
    token: str


class Doors:
    """Owns the door processes of one node. ``interface`` is the node's address inside the cluster."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._opening: dict[str, asyncio.Task[_Open]] = {}

    async def through(self, address: Address) -> Address:
        """``address`` as other machines can use it. Raises EngineError when no door can be opened."""
        if address.socket is None:
            return address
        door = await self._open(address.socket)
        return address.by_door(door.url, door.token)

    async def close(self) -> None:
        opening, self._opening = list(self._opening.values()), {}
        for task in opening:
            if not task.done():
                task.cancel()
        for result in await asyncio.gather(*opening, return_exceptions=True):
            if isinstance(result, _Open):
                await _close(result)

    async def _open(self, socket: str) -> _Open:
        task = self._opening.get(socket)
        if task is None or _useless(task):
            task = asyncio.create_task(self._start(socket))
            self._opening[socket] = task
        return await asyncio.shield(task)

    async def _start(self, socket: str) -> _Open:
        token = secrets.token_urlsafe(32)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "coe.engines.vllm.proxy", socket, self._interface),
            stdin=asyncio.subprocess.PIPE,  # closed by the kernel when we end, which ends the door
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, TOKEN_ENV: token},
        )
        if process.stdout is None:
            raise EngineError("the door of a vLLM server has no output")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                port = int(await process.stdout.readline())
        except (TimeoutError, ValueError):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise EngineError(
                f"no door could be opened on {self._interface}",
                hint="Is this the node's own address? The log of the pool owner has the cause.",
            ) from None
        host = f"[{self._interface}]" if ":" in self._interface else self._interface
        return _Open(process, f"http://{host}:{port}", token)


def _useless(opening: asyncio.Task[_Open]) -> bool:
    """Whether opening failed, or the door has been closed since."""
    if not opening.done():
        return False
    return opening.exception() is not None or opening.result().process.returncode is not None


async def _close(door: _Open) -> None:
    if door.process.stdin is not None:
        door.process.stdin.close()
    try:
        async with asyncio.timeout(5):
            await door.process.wait()
    except TimeoutError:
        door.process.kill()
        await door.process.wait()
