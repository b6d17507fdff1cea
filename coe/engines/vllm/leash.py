"""Runs a command that must not outlive its starter: ``python leash.py STARTER_PID HOME COMMAND [ARG ...]``.

The command's own end is passed on as ours. SIGTERM is passed on to the command. When the starter is gone,
however it ended, the command gets SIGTERM and after :data:`GRACE_S` all that is left SIGKILL: vLLM swallows a
SIGTERM that comes while it starts, and its workers can survive it. What the command started ends with it, in
whatever groups it is: orphans become children of the leash. The leash itself can be killed too (a Ray worker
that ends kills its children): a guard, nobody's child and in no group of ours, then kills the process group.
The guard outlives them all, and removes what they cannot any more: the folder HOME (empty: none) and the
group's shared memory. Linux only (elsewhere the command just runs). Started by path with ``python -I -S``: it
imports little and takes 10 MB.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

GRACE_S = 5.0
GONE_S = 5.0
"""How long the guard waits for killed processes to be gone."""
SHARED = "/dev/shm/"
STARTER_DIED = signal.SIGUSR1
"""What the kernel sends when the thread that started us ends; the starter may live on without it."""
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36
GUARD = "coe-guard"


def main(arguments: list[str]) -> None:
    starter, home, command = int(arguments[0]), arguments[1], arguments[2:]
    if sys.platform != "linux":
        become(command)
    watched = {signal.SIGTERM, signal.SIGCHLD, STARTER_DIED}
    # Blocked before they can come, so that none is lost until `watch` takes them. The starter may have died
    # already, of which no signal tells: `watch` looks before it waits. The guard is there before the command.
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    control_process(PR_SET_PDEATHSIG, STARTER_DIED)
    guard = leave_guard(home)
    adopt_orphans()
    child = os.fork()
    if child == 0:
        control_process(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        become(command)
    status = watch(starter, child, watched, guard)
    end_all_below()
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
    control_process(PR_SET_NAME, GUARD.encode())
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


def adopt_orphans() -> None:
    """From now on a process below us whose parent ends is our child: none gets out of sight."""
    control_process(PR_SET_CHILD_SUBREAPER, 1)


def end_all_below() -> None:
    """Kill what was started below us, in whatever groups, wait for it and remove its shared memory. After
    :func:`adopt_orphans` nothing gets away. Guards end by themselves when they have cleared up."""
    shared, seen = set[str](), set[int]()
    deadline = time.monotonic() + GONE_S + GRACE_S
    while time.monotonic() < deadline and (found := below(os.getpid())):
        for each in found:
            if each.name == GUARD:
                continue
            if each.pid not in seen:
                shared.update(mapped(each.pid))
                seen.add(each.pid)
            with contextlib.suppress(OSError):  # it has ended
                os.kill(each.pid, signal.SIGKILL)
        time.sleep(0.02)
        reap()
    forget(shared)


def reap() -> dict[int, int]:
    """The wait status of those of our children that have ended since the last time."""
    ended = {}
    with contextlib.suppress(ChildProcessError):  # there are no more
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = found[1]
    return ended


def shared_memory(group: int) -> set[str]:
    """Names below /dev/shm that processes of ``group`` have mapped: segments and semaphores."""
    return {name for each in living() if each.group == group for name in mapped(each.pid)}


def forget(names: set[str], group: int | None = None) -> None:
    """Remove those of ``names`` that no living process has mapped, once ``group`` has ended."""
    names = {name for name in names if name and "/" not in name}
    if not names:
        return
    deadline = time.monotonic() + GONE_S
    while any(each.group == group for each in living()) and time.monotonic() < deadline:
        time.sleep(0.02)
    for each in living():
        names = names.difference(mapped(each.pid))
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(SHARED + name)


class Process(NamedTuple):
    pid: int
    name: str
    parent: int
    group: int


def living() -> Iterator[Process]:
    """One that is dead and only not yet reaped has no memory."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/stat", errors="replace") as stat:
            name, _, rest = stat.read().partition("(")[2].rpartition(") ")
            state, parent, group = rest.split()[:3]
            if state not in "ZX":
                yield Process(int(pid), name, int(parent), int(group))


def below(root: int) -> list[Process]:
    """What ``root`` has started, what that has started, and so on."""
    children: dict[int, list[Process]] = {}
    for each in living():
        children.setdefault(each.parent, []).append(each)
    found = children.get(root, [])
    for each in found:  # which grows meanwhile
        found.extend(children.get(each.pid, ()))
    return found


def mapped(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", errors="replace") as maps:
        for line in maps:
            _, found, name = line.rstrip("\n").partition(SHARED)
            if found:
                yield name


def watch(starter: int, child: int, watched: set[signal.Signals], guard: int) -> int:
    """Wait for the child and return its wait status, or end all below us, and us, when we are orphaned."""
    while os.getppid() == starter:
        received = signal.sigwaitinfo(watched).si_signo
        if received == signal.SIGTERM:
            os.kill(child, signal.SIGTERM)
        ended = reap()
        if child in ended:
            return ended[child]
    with contextlib.suppress(OSError):  # before they end, after which nobody knows
        os.write(guard, "\0".join(shared_memory(os.getpgrp())).encode())
    os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and child not in reap():
        time.sleep(0.1)
    end_all_below()
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


def control_process(option: int, value: int | bytes) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value)


def become(command: list[str]) -> NoReturn:
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error}", file=sys.stderr, flush=True)
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
