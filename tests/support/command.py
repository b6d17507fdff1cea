"""The command `coe serve` in a process of its own, for tests that speak HTTP to it and send it signals."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_S = 180.0
WAIT_S = 60.0


@dataclass
class ServeCommand:
    """One that answers. ``log``: what was read of its stderr so far."""

    process: asyncio.subprocess.Process
    url: str
    log: list[str] = field(default_factory=list)

    async def logged(self, words: str) -> str:
        """The first line of the log that has ``words``, as soon as it is there."""
        stderr = self.process.stderr
        async with asyncio.timeout(WAIT_S):
            while not (found := [line for line in self.log if words in line]):
                line = await stderr.readline() if stderr is not None else b""
                if not line:
                    raise AssertionError(f"it ended: {self.log}")
                self.log.append(line.decode())
        return found[0]

    async def ended(self) -> int:
        """The exit code."""
        async with asyncio.timeout(WAIT_S):
            _, rest = await self.process.communicate()
        self.log.append(rest.decode())
        return self.process.returncode or 0


@asynccontextmanager
async def serve_command(
    folder: Path, registry: Mapping[str, Any], env: Mapping[str, str] | None = None
) -> AsyncIterator[ServeCommand]:
    """Serves ``registry``, written to ``folder``/experts.yaml; killed at the end if it still runs."""
    file = folder / "experts.yaml"
    file.write_text(json.dumps(registry), encoding="utf-8")
    command = ["-c", "from coe.cli import main; main()", "serve", "--registry", str(file)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    try:
        yield ServeCommand(process, await _announced(process))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _announced(process: asyncio.subprocess.Process) -> str:
    """The URL, once it answers there."""
    async with asyncio.timeout(START_S):
        first = (await process.stdout.readline()).decode() if process.stdout is not None else ""
    found = re.search(r"http://[\d.]+:\d+", first)
    if found is None:
        raise AssertionError(f"it does not say where it answers: {first!r}")
    return found[0]
