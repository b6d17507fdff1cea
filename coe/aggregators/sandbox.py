"""Runs a programme that a model wrote, in a process of its own with little of everything.

What holds it: limits on CPU time, wall time, memory, file size, open files and processes; a fresh temporary
folder; an empty environment; an interpreter without site-packages; and, where the kernel lets an ordinary
user make namespaces, no network. It is a fence against accidents and clumsy programmes. It is not a boundary
against a determined attacker: files that the service's user can read stay readable. Run the service in a
container of its own where that matters.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

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
    """How a programme ended. ``output`` is the end of what it printed, errors included."""

    ok: bool
    output: str


class Sandbox:
    """Runs Python programmes within ``bounds``."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds

    def run(self, programme: str) -> Run:
        """Blocking: up to the bound of time. Never raises for what the programme does."""
        with tempfile.TemporaryDirectory(prefix="coe-check-") as folder:
            (Path(folder) / "programme.py").write_text(programme, encoding="utf-8", errors="replace")
            with (Path(folder) / "output").open("w+b") as output:
                return self._run(folder, output.fileno(), Path(output.name))

    def _run(self, folder: str, output: int, shown: Path) -> Run:
        bounds = self._bounds
        limits = (bounds.seconds, bounds.memory_mb, bounds.file_mb)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_CHILD), *map(str, limits), "programme.py"],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = process.wait(bounds.seconds + 1)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            # Also what it started: they share its session's process group.
            _kill_group(process.pid)
            process.wait()
        return Run(code == 0, shown.read_bytes()[-_SHOWN:].decode(errors="replace"))


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
