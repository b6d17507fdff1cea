"""Runs a command that must not outlive its starter: ``python leash.py STARTER_PID COMMAND [ARG ...]``.

The kernel sends SIGTERM to the command when the thread that started it ends, also when that one was
killed and could clean up nothing (Linux only; elsewhere the command just runs). It asks for the signal
and then becomes the command, which keeps the request: no fork hook runs in the service itself.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Become the command; exits at once when the starter is gone already."""
    starter, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != starter:
        sys.exit("the service that started this process is gone")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
