"""A child process that the service owns: its group, its log file, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from coe.core.errors import EngineError

TAIL_BYTES = 16_384
MAX_LOG_BYTES = 50_000_000


class LogFile:
    """The output of one process, kept on disk. A new run moves the last one to ``<name>.previous.log``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rotate(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self.path.replace(self.path.with_suffix(".previous.log"))

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def trim(self) -> int:
        """Empty the file if it has grown too large; its writer appends, so it can go on. Returns the size."""
        if self.size() > MAX_LOG_BYTES:
            shutil.copyfile(self.path, self.path.with_suffix(".previous.log"))
            os.truncate(self.path, 0)
        return self.size()

    def since(self, offset: int) -> str:
        """What was written after ``offset`` bytes."""
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def tail(self, lines: int = 15) -> str:
        """The last lines, at most :data:`TAIL_BYTES` bytes."""
        text = self.since(max(0, self.size() - TAIL_BYTES))
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


class ManagedProcess:
    """A running command in a process group of its own that ends with us, however we end (see leash.py).

    One owner; every method runs on the loop that spawned it.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: LogFile) -> None:
        self._process, self.log = process, log
        self._exit = asyncio.ensure_future(process.wait())

    @classmethod
    async def spawn(cls, argv: Sequence[str], env: Mapping[str, str], log: LogFile) -> ManagedProcess:
        """Start ``argv`` with ``env`` added to our environment. Raises EngineError when it cannot start."""
        leash = Path(__file__).with_name("leash.py")
        try:
            log.rotate()
            with log.path.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", str(leash), str(os.getpid()), *argv),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    env={**os.environ, **env},
                    start_new_session=True,
                )
        except OSError as error:
            raise EngineError(f"{argv[0]} cannot be started, or its log not written: {error}") from error
        return cls(process, log)

    @property
    def group(self) -> int:
        """The process group: the leash, the command and what that started."""
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end; a cancelled waiter leaves the process alone."""
        return await asyncio.shield(self._exit)

    async def stop(self, grace_s: float = 10.0) -> None:
        """SIGTERM, then after ``grace_s`` SIGKILL to the whole group; returns when it is gone."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self.wait()
        await self.sweep()
        await self.wait()

    async def sweep(self, patience_s: float = 5.0) -> None:
        """Kill what is left of the group: workers can survive the death of their leader."""
        deadline = asyncio.get_running_loop().time() + patience_s
        while group_lives(self.group) and asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, signal.SIGKILL)
            await asyncio.sleep(0.02)


def group_lives(group: int) -> bool:
    """Whether a process of the group still runs; one that is dead and only not yet reaped does not."""
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):  # it ended while we looked
            if os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return True
    return False
