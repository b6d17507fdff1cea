"""Processes end when they are told to, and with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from coe.core.errors import EngineError
from coe.engines.vllm.process import LogFile, ManagedProcess, group_lives
from tests.support.engine_hosts import kill_command
from tests.support.waiting import until

pytestmark = pytest.mark.slow  # each starts processes that stand in for vLLM

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
    await until(lambda: not group_lives(process.group))


async def test_children_of_a_dead_leader_are_swept(tmp_path: Path) -> None:
    process = await spawn(PARENT, tmp_path / "p.log")
    kill_command(process)
    assert await process.wait() == -signal.SIGKILL
    await until(lambda: not group_lives(process.group))  # by the guard; the owner's own sweep finds nothing
    await process.sweep()
    assert not group_lives(process.group)


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


async def test_the_end_of_the_command_is_the_end_of_the_process(tmp_path: Path) -> None:
    for code, expected in (("raise SystemExit(3)", 3), ("import os; os.abort()", -signal.SIGABRT)):
        process = await ManagedProcess.spawn((sys.executable, "-c", code), {}, LogFile(tmp_path / "p.log"))
        assert await process.wait() == expected


async def test_a_killed_leash_takes_the_command_along(tmp_path: Path) -> None:
    process = await spawn("import time; print('up', flush=True); time.sleep(600)", tmp_path / "p.log")
    os.kill(process.group, signal.SIGKILL)
    await until(lambda: not group_lives(process.group))


async def test_a_killed_leash_takes_also_what_the_command_started(tmp_path: Path) -> None:
    """The kernel ends the command with the leash; its children, as vLLM's engine process, are the guard's."""
    process = await spawn(PARENT, tmp_path / "p.log")
    child = int(process.log.tail())
    os.kill(process.group, signal.SIGKILL)
    await until(lambda: not group_lives(process.group))
    assert not runs(child)


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_the_guard_of_a_process_that_ended_is_gone(tmp_path: Path) -> None:
    process = await spawn(f"{STUBBORN}# {tmp_path}", tmp_path / "p.log")
    assert len(running_with(str(tmp_path))) == 3, "the leash, its guard and the command"
    await process.stop(grace_s=0.1)
    await until(lambda: not running_with(str(tmp_path)))


def running_with(word: str) -> set[int]:
    """Processes whose command line has ``word``."""
    return {
        each.pid for each in psutil.process_iter(["cmdline"]) if word in " ".join(each.info["cmdline"] or ())
    }


STARTER = """
import asyncio, sys, threading
from pathlib import Path
from coe.engines.vllm.process import LogFile, ManagedProcess

async def start():
    process = await ManagedProcess.spawn((sys.executable, "-c", sys.argv[1]), {}, LogFile(Path(sys.argv[2])))
    while not process.log.size():
        await asyncio.sleep(0.02)
    print(process.group, flush=True)

async def main():
    await start()
    await asyncio.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.parametrize("command", [STUBBORN, PARENT], ids=["ignores SIGTERM", "has children"])
def test_a_process_ends_when_its_starter_is_killed(tmp_path: Path, command: str) -> None:
    service = start_service(STARTER + "asyncio.run(main())", command, tmp_path / "p.log")
    group = int(service.stdout.readline())
    assert group_lives(group)
    service.kill()
    service.communicate()
    deadline = time.monotonic() + 30
    while group_lives(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not group_lives(group)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_process_survives_the_thread_that_started_it(tmp_path: Path) -> None:
    code = STARTER + (
        "thread = threading.Thread(target=lambda: asyncio.run(start()))\n"
        "thread.start(); thread.join(); print('ended', flush=True); sys.stdin.read()\n"
    )
    service = start_service(code, PARENT, tmp_path / "p.log")
    group = int(service.stdout.readline())
    assert service.stdout.readline() == "ended\n"
    time.sleep(0.3)
    assert group_lives(group)
    service.kill()
    service.communicate()


def start_service(code: str, *arguments: object) -> Any:
    """A process of its own that starts managed ones and prints their groups."""
    argv = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
