"""One vLLM server through its life: booted, watched, lost, stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from coe.core.errors import EngineError
from coe.engines.vllm.server import VllmServer

LOG = logging.getLogger(__name__)

DEATH_NOTICE_S = 0.5
SIGNS_PER_SILENCE = 3
SIGN_S = 5.0
State = Literal["stopped", "starting", "ready", "failed"]


class Lifecycle:
    """Holds the server while there is one and knows why there is none. One engine owns it; the engine
    calls ``boot`` and ``stop`` one at a time. A process that gives no sign of life for ``silence_s`` while
    nothing is being moved in it is ended, which is then noticed as any other death."""

    def __init__(self, name: str, silence_s: float) -> None:
        self._name = name
        self._silence_s = silence_s
        self._moves = 0
        self._server: VllmServer | None = None
        self._watch: asyncio.Task[None] | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._endings: set[asyncio.Task[None]] = set()
        self._booting = False
        self._failed = False
        self._last_error: str | None = None

    @property
    def alive(self) -> bool:
        return self._server is not None and self._server.alive

    @property
    def server(self) -> VllmServer:
        """Raises EngineError when there is none, or it has died."""
        if self._server is None or not self._server.alive:
            # Only the first line: the end of a log is for whoever starts engines, not for their clients.
            why = self.last_error.partition("\n")[0] if self.last_error else "it was not started"
            raise EngineError(f"{self._name} is not running: {why}", code="engine_not_running")
        return self._server

    @property
    def state(self) -> State:
        if self._booting:
            return "starting"
        if self.alive:
            return "ready"
        return "failed" if self._failed or self._server is not None else "stopped"

    @property
    def last_error(self) -> str | None:
        """Why there is no server; of one that has just ended also before its death was noticed."""
        if not self._failed and self._server is not None and not self._server.alive:
            return self._server.end().message
        return self._last_error

    async def boot(self, connect: Callable[[], Awaitable[VllmServer]], timeout_s: float) -> None:
        """Replace the server by the one ``connect`` gives, once that is healthy. Raises EngineError with
        the end of its log when it dies first, or is not healthy after ``timeout_s``."""
        self._booting = True
        try:
            await self.stop()
            self._server = await self._connected(connect, timeout_s)
            self._watch = asyncio.create_task(self._notice_death(self._server))
            await self._server.until_healthy(timeout_s)
            # Only now: while it loads its weights it answers nothing for minutes.
            if self._server.ours:
                self._heartbeat = asyncio.create_task(self._notice_silence(self._server))
        except BaseException:
            await self.stop()
            raise
        finally:
            self._booting = False

    async def _connected(self, connect: Callable[[], Awaitable[VllmServer]], timeout_s: float) -> VllmServer:
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await connect()
        except TimeoutError:
            if not limit.expired():
                raise
            raise EngineError(
                f"{self._name} was not started within {timeout_s:g} s.",
                hint="Does the disk with its checkpoint and its log answer?",
            ) from None

    async def end_if_silent(self) -> None:
        """After a failure that may be a silence: end a process of ours that gives no sign of life."""
        server = self._server
        if server is not None and server.ours and server.alive:
            try:
                await server.sign_of_life(SIGN_S)
            except EngineError as error:
                LOG.error("%s gives no sign of life: %s", self._name, error.message)
                await server.kill("gave no sign of life")

    async def stop(self) -> None:
        """Idempotent; afterwards the state is ``stopped``, and every process that there was has ended. Where
        the caller is cancelled they end all the same, and the next call waits for that too."""
        # No server from here on, so that no request reaches it, and no watch: this end is no death.
        server, self._server = self._server, None
        for task in (self._watch, self._heartbeat):
            if task is not None:
                task.cancel()
        self._watch = self._heartbeat = None
        if server is not None:
            ending = asyncio.create_task(server.stop())
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
        if self._endings:
            await asyncio.shield(asyncio.gather(*self._endings))
        self._failed = False

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Inside, weights are loaded or put to sleep: the engine may answer nothing meanwhile, and whoever
        moves them has a limit of his own."""
        self._moves += 1
        try:
            yield
        finally:
            self._moves -= 1

    async def cause(self, error: EngineError | TimeoutError) -> EngineError | TimeoutError:
        """``error``, or what is behind it: a process that has just died shows first as a lost connection."""
        death = await self._server.death_within(DEATH_NOTICE_S) if self._server is not None else None
        return death or error

    def failed(self, error: EngineError) -> None:
        """Note why the last load went wrong; the state is ``failed`` if no server is left."""
        self._last_error = error.message
        self._failed = True

    def healthy(self) -> None:
        self._failed, self._last_error = False, None

    async def _notice_silence(self, server: VllmServer) -> None:
        heard = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(self._silence_s / SIGNS_PER_SILENCE)
            try:
                await server.sign_of_life(self._silence_s)
            except EngineError as error:
                if self._moves or asyncio.get_running_loop().time() - heard < self._silence_s:
                    continue
                LOG.error("%s gave no sign of life for %g s: %s", self._name, self._silence_s, error.message)
                await server.kill(f"gave no sign of life for {self._silence_s:g} s")
                return
            heard = asyncio.get_running_loop().time()

    async def _notice_death(self, server: VllmServer) -> None:
        death = await server.died()
        self.failed(death)
        LOG.error("%s: %s", self._name, death.message)
        await server.sweep()
