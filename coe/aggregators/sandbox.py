"""Runs a programme that a model wrote, and tests that a client wrote, in a process of its own.

What holds it: namespaces of its own, so there is no network, no other process, and of the file system only an
empty folder and, for reading, Python and the system's libraries: no keys, no sockets of engines. With its
first process everything ends that it started. Limits on CPU time, wall time, memory, file size and open
files; an empty environment. Where the kernel allows no namespaces to the service's user, nothing is run. The
kernel itself is shared: run the service in a machine of its own where that is too little.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from coe.aggregators.sandbox_child import UNFENCED

_CHILD = Path(__file__).with_name("sandbox_child.py")
_SHOWN = 2_000


@dataclass(frozen=True)
class Bounds:
    """``seconds`` of CPU time and, with a second on top for the interpreter's start, of wall time."""

    seconds: float = 5.0
    memory_mb: int = 512
    file_mb: int = 8


@dataclass(frozen=True)
class Run:
    """How a programme ended. ``ok``: all of its tests ran and held; None: it could not be fenced in, so it
    was not run. ``output`` is the end of what it printed, errors included."""

    ok: bool | None
    output: str


class Sandbox:
    """Runs Python programmes within ``bounds``."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds

    def run(self, programme: str, tests: str = "") -> Run:
        """``tests`` run after the programme, in its names, however it left. Blocking: up to the bound of
        time. Never raises for what they do."""
        token = secrets.token_hex(16)
        parts = (token, *(part.encode(errors="replace").hex() for part in (programme, tests)))
        with (
            tempfile.TemporaryDirectory(prefix="coe-check-") as folder,
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as output,
            tempfile.TemporaryFile() as told,
        ):
            given.write("".join(f"{part}\n" for part in parts).encode())
            given.seek(0)
            code = self._run(folder, given.fileno(), output.fileno(), told.fileno())
            output.seek(0)
            told.seek(0)
            shown = output.read()[-_SHOWN:].decode(errors="replace")
            passed = told.read(len(token)) == token.encode()
        return Run(None if code == UNFENCED else passed, shown)

    def _run(self, folder: str, given: int, output: int, told: int) -> int:
        bounds = self._bounds
        limits = (bounds.seconds, bounds.memory_mb, bounds.file_mb, told)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_CHILD), *map(str, limits)],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": "/work", "TMPDIR": "/work"},
            stdin=given,
            stdout=output,
            stderr=output,
            pass_fds=(told,),
            start_new_session=True,
        )
        try:
            return process.wait(bounds.seconds + 1)
        except subprocess.TimeoutExpired:
            return -1
        finally:
            # The first process of the namespace ends with it, and so does all that is in there.
            _kill_group(process.pid)
            process.wait()


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
