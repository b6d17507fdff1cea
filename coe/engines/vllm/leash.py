"""Runs a command that must not outlive its starter: ``python leash.py STARTER_PID COMMAND [ARG ...]``.

The command's own end is passed on as ours. SIGTERM is passed on to the command. When the starter is gone,
however it ended, the command gets SIGTERM and after :data:`GRACE_S` the whole process group SIGKILL: vLLM
swallows a SIGTERM that comes while it starts, and its workers can survive it. The leash itself can be killed
too (a Ray worker that ends kills its children): a guard, nobody's child and in no group of ours, then
kills the process group. Linux only (elsewhere the
command just runs). Started by path with ``python -I -S``: it imports little and takes 10 MB.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import NoReturn

GRACE_S = 5.0
STARTER_DIED = signal.SIGUSR1
"""What the kernel sends when the thread that started us ends; the starter may live on without it."""
PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    starter, command = int(arguments[0]), arguments[1:]
    if sys.platform != "linux":
        become(command)
    watched = {signal.SIGTERM, signal.SIGCHLD, STARTER_DIED}
    # Blocked before they can come, so that none is lost until `watch` takes them. The starter may have died
    # already, of which no signal tells: `watch` looks before it waits. The guard is there before the command.
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    on_parents_death(STARTER_DIED)
    leave_guard()
    child = os.fork()
    if child == 0:
        on_parents_death(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        become(command)
    status = watch(starter, child, watched)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
    end_like(status)


def leave_guard() -> None:
    """Start the process that kills our group once we are gone, however we ended."""
    group = os.getpgrp()
    ours, our_life = os.pipe()  # its other end is open as long as we live: exec closes it in the command
    first = os.fork()
    if first:
        os.close(ours)
        os.waitpid(first, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(our_life)
    os.read(ours, 1)
    try:
        os.killpg(group, signal.SIGKILL)
    finally:
        os._exit(0)


def watch(starter: int, child: int, watched: set[signal.Signals]) -> int:
    """Wait for the child and return its wait status, or end the whole group when we are orphaned."""
    while os.getppid() == starter:
        received = signal.sigwaitinfo(watched).si_signo
        if received == signal.SIGTERM:
            os.kill(child, signal.SIGTERM)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
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
