"""Runs as the sandbox's process: fences itself in, then runs a programme and the tests on it.

Started as a script (``python -I -S sandbox_child.py SECONDS MEMORY_MB FILE_MB TOKEN_FD``) in an empty folder,
so it imports nothing of the package. It exits with :data:`UNFENCED`, having run nothing, where the kernel
allows no namespaces.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import struct
import sys

UNFENCED = 97
_MB = 1024 * 1024
_OPEN_FILES = 32
# CLONE_NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_SYS_MOUNT_SETATTR, _AT_RECURSIVE, _RDONLY_NOSUID = 442, 0x8000, 1 | 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)


def _must(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    name = kind.encode() if kind else None
    _must(_libc.mount(source.encode(), target.encode(), name, ctypes.c_ulong(flags), None))


def leave() -> None:
    """Namespaces of its own: no network, no other process, and of the files only Python and the folder."""
    user, group, folder = os.geteuid(), os.getegid(), os.getcwd()
    _must(_libc.unshare(_NAMESPACES))
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{_NOBODY} {user} 1"),
        ("gid_map", f"{_NOBODY} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    root = folder + "/root"
    os.mkdir(root)
    _mount("none", root, "tmpfs", 0)
    for seen in ("/usr", "/lib", "/lib64", "/bin", sys.base_prefix):
        if os.path.isdir(seen) and not os.path.isdir(root + seen):
            os.makedirs(root + seen)
            _mount(os.path.realpath(seen), root + seen, None, _MS_BIND | _MS_REC)
    os.makedirs(root + "/work")
    attributes = struct.pack("QQQQ", _RDONLY_NOSUID, 0, 0, 0)
    _must(_libc.syscall(_SYS_MOUNT_SETATTR, -100, root.encode(), _AT_RECURSIVE, attributes, len(attributes)))
    os.mkdir(folder + "/work")
    _mount(folder + "/work", root + "/work", None, _MS_BIND | _MS_REC)
    os.chroot(root)
    os.chdir("/work")


def limit(seconds: float, memory_mb: int, file_mb: int) -> None:
    for kind, bound in (
        (resource.RLIMIT_CPU, math.ceil(seconds)),
        (resource.RLIMIT_AS, memory_mb * _MB),
        (resource.RLIMIT_FSIZE, file_mb * _MB),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        # Processes are counted over the whole user, so none may be added. Root's are not counted.
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (bound, bound))


# Runs as a programme of its own: with it the rights in the namespaces are gone.
_RUN = """
import os, sys
def main():
    token, programme, tests = (sys.stdin.buffer.readline() for _ in range(3))
    fd = os.dup(int(sys.argv[1]))
    module = {"__name__": "__main__", "__builtins__": __builtins__}
    sys.modules["__main__"].__dict__.update(module)
    module = sys.modules["__main__"].__dict__
    try:
        exec(compile(bytes.fromhex(programme.decode()).decode(), "programme.py", "exec"), module)
    except SystemExit:
        pass
    exec(compile(bytes.fromhex(tests.decode()).decode(), "tests.py", "exec"), module)
    os.write(fd, token.strip())
main()
"""


def _first_process(told: int, python: str) -> int:
    """Waits for the programme. With it, the first of its namespace, everything in there ends."""
    programme = os.fork()
    if programme == 0:
        limit(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
        os.execv(python, [python, "-I", "-S", "-B", "-c", _RUN, str(told)])
    os.close(told)
    while True:
        ended, status = os.wait()
        if ended == programme:
            return 0 if status == 0 else 1


def main() -> int:
    told, python = int(sys.argv[4]), os.path.realpath(sys.executable)
    try:
        leave()
    except OSError as error:
        print(f"no namespaces: {error}")
        return UNFENCED
    os.umask(0o077)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if (first := os.fork()) == 0:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        os._exit(_first_process(told, python))
    os.close(told)
    return 0 if os.waitpid(first, 0)[1] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
