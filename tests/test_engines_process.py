"""Processes end when they are told to, and with us."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from multiprocessing import shared_memory
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


async def test_a_run_beside_another_one_writes_a_log_of_its_own(tmp_path: Path) -> None:
    """As of two services in one folder: what one reads there was written by its own process."""
    code = "import sys, time; print({!r}, flush=True); time.sleep(600)"
    one = await spawn(code.format("one"), tmp_path / "p.log")
    other = await spawn(code.format("other"), tmp_path / "p.log")
    third = await spawn(code.format("third"), tmp_path / "p.log")
    assert [each.log.tail() for each in (one, other, third)] == ["one", "other", "third"]
    assert other.log.path.name == "p.2.log"
    await one.stop()
    again = await spawn(code.format("again"), tmp_path / "p.log")
    assert again.log.path.name == "p.log"
    assert (tmp_path / "p.previous.log").read_text() == "one\n"
    for each in (other, third, again):
        await each.stop()


SECRETS = (
    *("OPENAI_API_KEY", "COE_ADMIN_TOKEN", "VLLM_API_KEY", "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY"),
    *("DATABASE_URL", "PATHFINDER_KEY", "CCTV_PASSWORD"),
)
NEEDED = (
    *("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "NCCL_SOCKET_IFNAME", "HF_TOKEN", "https_proxy", "NO_PROXY"),
    *("OMP_NUM_THREADS", "NVPL_BLAS_DEBUG_CPU_TYPE", "VLLM_CACHE_ROOT", "LC_ALL"),
)


async def test_no_process_of_an_engine_is_given_the_service_s_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "a-secret-value")
    for name in NEEDED:
        monkeypatch.setenv(name, "needed" if name != "LC_ALL" else "C")
    code = f"import os, time; print(*os.environ, flush=True); time.sleep(600) # {tmp_path}"
    process = await spawn(code, tmp_path / "p.log")
    given = set(process.log.tail().split())
    assert given >= {*NEEDED, "PATH"}
    assert not given & set(SECRETS)
    family = running_with(str(tmp_path))
    assert len(family) == 3, "the leash, its guard and the command"
    for pid in family:
        assert "a-secret-value" not in psutil.Process(pid).environ().values()
    await process.stop()


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


SHARING = """
import os, signal, sys, time
from multiprocessing import resource_tracker, shared_memory
signal.signal(signal.SIGTERM, signal.SIG_IGN)
resource_tracker.register = lambda *_: None  # as one that was killed: it clears up nothing
own = shared_memory.SharedMemory(create=True, size=4096)
others = shared_memory.SharedMemory(sys.argv[1])
if os.fork() == 0:
    time.sleep(600)
print(own.name, flush=True)
time.sleep(600)
"""
OWNER = """
import asyncio, sys
from pathlib import Path
from coe.engines.vllm.process import LogFile, ManagedProcess

async def main():
    log, home = LogFile(Path(sys.argv[2])), Path(sys.argv[3])
    command = (sys.executable, "-c", sys.argv[1], sys.argv[4])
    process = await ManagedProcess.spawn(command, {}, log, home)
    while not process.log.size():
        await asyncio.sleep(0.02)
    print(process.group, flush=True)
    if await asyncio.to_thread(sys.stdin.readline) == "sweep\\n":
        await process.sweep()
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="shared memory has names there on Linux")
@pytest.mark.parametrize("end", ["starter killed", "leash killed", "command killed", "swept"])
async def test_shared_memory_and_folders_of_what_was_killed_are_removed_and_no_others(
    tmp_path: Path, end: str
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "socket").touch()
    ours = shared_memory.SharedMemory(create=True, size=4096)
    words = [SHARING, str(tmp_path / "p.log"), str(tmp_path / "home"), ours.name]
    owner = start_service(OWNER, *words)
    try:
        group = int(await asyncio.to_thread(owner.stdout.readline))
        its = Path("/dev/shm") / (tmp_path / "p.log").read_text().strip()
        assert its.exists()
        if end == "starter killed":
            owner.kill()
        elif end == "leash killed":
            os.kill(group, signal.SIGKILL)
        elif end == "command killed":
            os.kill(psutil.Process(group).children()[0].pid, signal.SIGKILL)
        else:
            owner.stdin.write("sweep\n")
            owner.stdin.flush()
        await until(lambda: not group_lives(group))
        await until(lambda: not its.exists() and not (tmp_path / "home").exists())
        assert (Path("/dev/shm") / ours.name).exists()
    finally:
        owner.kill()
        owner.communicate()
        ours.close()
        ours.unlink()
