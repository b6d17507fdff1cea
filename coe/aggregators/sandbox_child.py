"""Runs inside the sandbox's process: lowers its limits, leaves the network, then becomes the programme.

Started as a script (``python -I -S sandbox_child.py SECONDS MEMORY_MB FILE_MB PROGRAMME``), so it imports
nothing of the package.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import runpy
import sys

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_MB = 1024 * 1024
_OPEN_FILES = 32


def leave_the_network() -> bool:
    """A network namespace of its own has no interfaces. False where the kernel does not allow it."""
    try:
        return bool(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)
    except (OSError, AttributeError):
        return False


def limit(seconds: float, memory_mb: int, file_mb: int) -> None:
    for kind, bound in (
        (resource.RLIMIT_CPU, math.ceil(seconds)),
        (resource.RLIMIT_AS, memory_mb * _MB),
        (resource.RLIMIT_FSIZE, file_mb * _MB),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        # Processes are counted over the whole user, so none may be added.
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (bound, bound))


if __name__ == "__main__":
    leave_the_network()
    limit(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    os.umask(0o077)
    sys.argv = sys.argv[4:]
    runpy.run_path(sys.argv[0], run_name="__main__")
