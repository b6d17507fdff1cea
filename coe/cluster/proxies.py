"""Proxies: one process for each vLLM server that another machine wants to ask."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from dataclasses import dataclass

from coe.core.errors import EngineError
from coe.engines.address import Address
from coe.engines.vllm.process import inherited
from coe.engines.vllm.proxy import TOKEN_ENV

START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class _Proxy:
    process: asyncio.subprocess.Process
    url: str
    token: str


class Proxies:
    """Owns the proxy processes of one node. ``interface`` is the node's address inside the cluster."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._starting: dict[str, asyncio.Task[_Proxy]] = {}

    async def through(self, address: Address) -> Address:
        """``address`` as other machines can use it. Raises EngineError when no proxy can be started."""
        if address.socket is None:
            return address
        proxy = await self._running(address.socket)
        return address.by_proxy(proxy.url, proxy.token)

    async def close(self) -> None:
        starting, self._starting = list(self._starting.values()), {}
        for task in starting:
            if not task.done():
                task.cancel()
        for result in await asyncio.gather(*starting, return_exceptions=True):
            if isinstance(result, _Proxy):
                await _close(result)

    async def _running(self, socket: str) -> _Proxy:
        task = self._starting.get(socket)
        if task is None or _useless(task):
            task = asyncio.create_task(self._start(socket))
            self._starting[socket] = task
        return await asyncio.shield(task)

    async def _start(self, socket: str) -> _Proxy:
        token = secrets.token_urlsafe(32)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "coe.engines.vllm.proxy", socket, self._interface),
            stdin=asyncio.subprocess.PIPE,  # closed by the kernel when we end, which ends the proxy
            stdout=asyncio.subprocess.PIPE,
            env={**inherited(), TOKEN_ENV: token},
        )
        if process.stdout is None:
            raise EngineError("the proxy of a vLLM server has no output")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                port = int(await process.stdout.readline())
        except (TimeoutError, ValueError):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise EngineError(
                f"the proxy of a vLLM server did not start on {self._interface}",
                hint="Is this the node's own address? The log of the pool owner has the cause.",
            ) from None
        host = f"[{self._interface}]" if ":" in self._interface else self._interface
        return _Proxy(process, f"http://{host}:{port}", token)


def _useless(starting: asyncio.Task[_Proxy]) -> bool:
    """Whether it failed to start, or has ended since."""
    if not starting.done():
        return False
    return starting.exception() is not None or starting.result().process.returncode is not None


async def _close(proxy: _Proxy) -> None:
    if proxy.process.stdin is not None:
        proxy.process.stdin.close()
    try:
        async with asyncio.timeout(5):
            await proxy.process.wait()
    except TimeoutError:
        proxy.process.kill()
        await proxy.process.wait()
