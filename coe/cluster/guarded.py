"""The outer part of `coe deploy --local`, in which Ray does not run: it sees that parts of Ray are dead, and
ends what is left of the cluster without asking Ray, which may not answer any more.

    coe deploy --local ── leash ── the same command, Ray's driver ── gcs_server, raylet ── all else

When the outer part dies, the leash ends all that is below it; when the leash dies, the outer part does.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from coe.engines.vllm import leash

POLL_S = 0.2
DAEMONS = frozenset({"gcs_server", "raylet"})
"""The processes without which nothing in a cluster of one node goes on."""
SESSION = re.compile(r"/[^\s=]*/session_[^/\s]+")
OWN_END_S = 8.0
"""How long the driver may take to end when one of them is gone: at its end it takes them down itself."""


def run_guarded(command: Sequence[str], lock: int, patience_s: float, say: Callable[[str], None]) -> int:
    """Run ``command``, the driver of a local cluster, to its end, and return its exit code: 1 if it was ended
    from here or by a signal. Nothing that it has started is left then.

    SIGINT and SIGTERM reach it as SIGTERM, which gives it ``patience_s`` seconds; a second one ends all at
    once. Main thread only. ``lock``: a file that stays open in it.
    """
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: told.append(received))
    if sys.platform == "linux":
        leash.adopt_orphans()
    argv = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), "", *command]
    # In a session of its own, a Ctrl-C in the terminal reaches us alone.
    process = subprocess.Popen(argv, start_new_session=True, pass_fds=[lock], stdin=subprocess.DEVNULL)
    try:
        why = _Watch(process, told, patience_s).until_over()
    finally:
        process.kill()
        code = process.wait()
        if sys.platform == "linux":
            leash.end_all_below()
    if why:
        say(why)
    elif code < 0:
        say(_ended_by_signal(-code, bool(told)))
    return 1 if why or code < 0 else code


def _ended_by_signal(number: int, told: bool) -> str:
    if told and number == signal.SIGTERM:
        return "stopped before the service answered"
    return (
        f"the process that runs the cluster was ended by {signal.Signals(number).name}; the cluster is ended"
    )


@dataclass(frozen=True)
class Daemon:
    name: str
    process: psutil.Process
    logs: str


class _Watch:
    """Looks at processes only: whoever hangs cannot hold it up."""

    def __init__(self, process: subprocess.Popen[bytes], told: Sequence[int], patience_s: float) -> None:
        self._process, self._told, self._patience_s = process, told, patience_s
        self._daemons: dict[str, Daemon] = {}
        self._lost: tuple[float, str] | None = None
        self._stop: float | None = None

    def until_over(self) -> str | None:
        """Returns why the driver has to be ended now; None when it has ended."""
        while self._process.poll() is None:
            why = self._look(time.monotonic())
            if why:
                return why
            time.sleep(POLL_S)
        return None

    def _look(self, now: float) -> str | None:
        if self._told and self._stop is None:
            self._process.terminate()
            self._stop = now + self._patience_s
        if len(self._told) > 1:
            return "stopped at once; answers under way are lost"
        if self._stop is not None and now > self._stop:
            return f"the cluster did not stop within {self._patience_s:g} s, and is ended"
        self._look_at_daemons(now)
        if self._lost is not None and now > self._lost[0] + OWN_END_S:
            return self._lost[1]
        return None

    def _look_at_daemons(self, now: float) -> None:
        if len(self._daemons) < len(DAEMONS):
            self._daemons |= _daemons_below(self._process.pid)
        for each in self._daemons.values():
            if self._lost is None and not _runs(each.process):
                self._lost = now, _died(each)


def _daemons_below(pid: int) -> dict[str, Daemon]:
    found = {}
    with contextlib.suppress(psutil.Error):  # it ends while we look
        for each in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if (name := each.name()) in DAEMONS:
                    session = SESSION.search(" ".join(each.cmdline()))
                    found[name] = Daemon(name, each, f"{session[0]}/logs" if session else "/tmp/ray")
    return found


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _died(daemon: Daemon) -> str:
    return (
        f"Ray's {daemon.name} (process {daemon.process.pid}) has died; the cluster is ended, "
        "with the connections of its clients\n"
        f"Hint: Ray's logs are in {daemon.logs}. The kernel kills it when memory runs out (see `dmesg`), "
        "and it ends by itself when the machine is too busy to start it."
    )
