"""Runs a command that must not outlive its starter: ``python leash.py STARTER_PID HOME COMMAND [ARG ...]``.

The command's own end is passed on as ours. SIGTERM is passed on to the command. When the starter is gone,
however it ended, the command gets SIGTERM and after :data:`GRACE_S` the whole process group SIGKILL: vLLM
swallows a SIGTERM that comes while it starts, and its workers can survive it. The leash itself can be killed
too (a Ray worker that ends kills its children): a guard, nobody's child and in no group of ours, then
kills the process group. The guard outlives them all, and removes what they cannot any more: the folder HOME
(empty: none) and the group's shared memory. Linux only (elsewhere the command just runs). Started by path
with ``python -I -S``: it imports little and takes 10 MB.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

GRACE_S = 5.0
GONE_S = 5.0
"""How long the guard waits for killed processes to be gone."""
SHARED = "/dev/shm/"
STARTER_DIED = signal.SIGUSR1
"""What the kernel sends when the thread that started us ends; the starter may live on without it."""
PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    starter, home, command = int(arguments[0]), arguments[1], arguments[2:]
    if sys.platform != "linux":
        become(command)
    watched = {signal.SIGTERM, signal.SIGCHLD, STARTER_DIED}
    # Blocked before they can come, so that none is lost until `watch` takes them. The starter may have died
    # already, of which no signal tells: `watch` looks before it waits. The guard is there before the command.
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    on_parents_death(STARTER_DIED)
    guard = leave_guard(home)
    child = os.fork()
    if child == 0:
        on_parents_death(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        become(command)
    status = watch(starter, child, watched, guard)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
    end_like(status)


def leave_guard(home: str) -> int:
    """Start the process that kills our group once we are gone, however we ended, and clears up behind it.
    Returns where it is told of shared memory; that it is closed tells it of our end."""
    group = os.getpgrp()
    ours, our_life = os.pipe()  # its other end is open as long as we live: exec closes it in the command
    first = os.fork()
    if first:
        os.close(ours)
        os.waitpid(first, 0)
        return our_life
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(our_life)
    # The log is the group's: whoever has it open holds it (process.py).
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    try:
        guard(ours, group, home)
    finally:
        os._exit(0)


def guard(told: int, group: int, home: str) -> None:
    with os.fdopen(told) as names:
        shared = set(names.read().split("\0"))  # until all that could write to it have ended
    shared |= shared_memory(group)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    forget(shared, group)
    if home:
        import shutil

        shutil.rmtree(home, ignore_errors=True)


def shared_memory(group: int) -> set[str]:
    """Names below /dev/shm that processes of ``group`` have mapped: segments and semaphores."""
    return {name for member in members_of(group) for name in mapped(member)}


def forget(names: set[str], group: int) -> None:
    """Remove those of ``names`` that no living process has mapped, once ``group`` has ended."""
    names = {name for name in names if name and "/" not in name}
    if not names:
        return
    deadline = time.monotonic() + GONE_S
    while list(members_of(group)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in processes():
        names = names.difference(mapped(pid))
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(SHARED + name)


def processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def members_of(group: int) -> Iterator[int]:
    """Living processes: one that is dead and only not yet reaped has no memory."""
    for pid in processes():
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat", "rb") as stat:
            state, _, its_group = stat.read().rpartition(b") ")[2].split()[:3]
            if int(its_group) == group and state not in (b"Z", b"X"):
                yield pid


def mapped(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", errors="replace") as maps:
        for line in maps:
            _, found, name = line.rstrip("\n").partition(SHARED)
            if found:
                yield name


def watch(starter: int, child: int, watched: set[signal.Signals], guard: int) -> int:
    """Wait for the child and return its wait status, or end the whole group when we are orphaned."""
    while os.getppid() == starter:
        received = signal.sigwaitinfo(watched).si_signo
        if received == signal.SIGTERM:
            os.kill(child, signal.SIGTERM)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
    with contextlib.suppress(OSError):  # before they end, after which nobody knows
        os.write(guard, "\0".join(shared_memory(os.getpgrp())).encode())
    os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and os.waitpid(child, os.WNOHANG)[0] == 0:
        time.sleep(0.1)
    os.killpg(0, signal.SIGKILL)
    raise SystemExit  # not reached: we are in the group


def end_like(status: int) -> NoReturn:
    """End with the exit code, or by the signal, that ended the child."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(os.waitstatus_to_exitcode(status))


def on_parents_death(number: signal.Signals) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def become(command: list[str]) -> NoReturn:
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error}", file=sys.stderr, flush=True)
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
