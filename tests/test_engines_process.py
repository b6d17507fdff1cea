"""Processes end when they are told to, and with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from coe.engines.process import LogFile, ManagedProcess, group_lives
from coe.errors import EngineError
from coe.testing.engine_hosts import until

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


async def spawn(code: str, log: Path) -> ManagedProcess:
    process = await ManagedProcess.spawn((sys.executable, "-c", code), {}, LogFile(log))
    await until(lambda: process.log.size() > 0)
    return process


async def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    process = await spawn(STUBBORN, tmp_path / "p.log")
    await process.stop(grace_s=0.2)
    assert process.returncode == -signal.SIGKILL
    assert not group_lives(process.pid)


async def test_children_of_a_dead_leader_are_swept(tmp_path: Path) -> None:
    process = await spawn(PARENT, tmp_path / "p.log")
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    assert group_lives(process.pid)
    await process.sweep()
    assert not group_lives(process.pid)


async def test_stopping_twice_is_fine(tmp_path: Path) -> None:
    process = await spawn("print('done')", tmp_path / "p.log")
    await process.stop()
    await process.stop()
    assert not process.running


async def test_the_environment_is_added_to_ours(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "p.log")
    code = "import os; print(os.environ['COE_TEST'], 'PATH' in os.environ)"
    process = await ManagedProcess.spawn((sys.executable, "-c", code), {"COE_TEST": "yes"}, log)
    assert await process.wait() == 0
    assert log.tail() == "yes True"


async def test_a_log_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file, not a folder")
    with pytest.raises(EngineError, match="log"):
        await ManagedProcess.spawn((sys.executable, "-c", ""), {}, LogFile(tmp_path / "var" / "p.log"))


def test_the_tail_is_the_last_lines_without_blanks(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "p.log")
    assert log.tail() == ""
    log.path.write_text("\n\n".join(f"line {index}" for index in range(50)))
    assert log.tail(2) == "line 48\nline 49"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_process_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    starter = textwrap.dedent(
        f"""
        import asyncio, sys
        from pathlib import Path
        from coe.engines.process import LogFile, ManagedProcess

        async def main():
            argv = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")
            process = await ManagedProcess.spawn(argv, {{}}, LogFile(Path({str(tmp_path)!r}) / "p.log"))
            while not process.log.size():
                await asyncio.sleep(0.02)
            print(process.pid, flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
        """
    )
    service = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    child = int(service.stdout.readline())
    assert group_lives(child)
    service.kill()
    service.wait()
    service.stdout.close()
    deadline = time.monotonic() + 10
    while group_lives(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not group_lives(child)
