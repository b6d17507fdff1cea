"""Files: written so that a reader, or a crash, never meets half of one, and watched for changes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import csv
import fcntl
import logging
import os
import stat
import tempfile
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

from coe.core.errors import ConfigError

T = TypeVar("T")
P = ParamSpec("P")
log = logging.getLogger(__name__)
CLOSE_S = 10.0


def folder_of(file: Path) -> Path:
    """The folder where ``file`` appears: relative paths in it start there. Not where a symbolic link leads:
    Kubernetes mounts a ConfigMap as links into a folder that is replaced, and gone, with each edit."""
    return file.absolute().parent


def path_in(folder: Path, name: str) -> Path:
    """The path that is written ``name`` in a file of ``folder``. Looks at nothing but the home of a user."""
    return folder / os.path.expanduser(name)


async def off_the_loop(read: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """``read(...)`` in a thread of its own, for disks that may stall: a cancelled caller leaves it behind. It
    holds up neither others nor the end of the process, as a thread of the loop's own pool would."""
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    found: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            value = context.run(read, *args, **options)
        except BaseException as error:
            settle, given = found.set_exception, error
        else:
            settle, given = found.set_result, value  # type: ignore[assignment]
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if found.done() else settle(given))

    threading.Thread(target=run, name="read", daemon=True).start()
    return await found


class Behind:
    """Does one thing after the other in a thread of its own, behind the back of whoever gives it: writing, to
    disks that may stall. What is given must not raise."""

    def __init__(self, name: str) -> None:
        self._given: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def give(self, work: Callable[[], None]) -> None:
        if not self._thread.ident:
            self._thread.start()
        self._given.put(work)

    def close(self, limit_s: float = CLOSE_S) -> None:
        """Wait for what was given, but for a stalled disk no longer than ``limit_s``. Blocking."""
        self._given.put(None)
        if self._thread.ident:
            self._thread.join(limit_s)
            if self._thread.is_alive():
                log.error("%s was given up: the disk does not answer", self._thread.name)

    def _run(self) -> None:
        while (work := self._given.get()) is not None:
            work()


@contextlib.contextmanager
def readable(path: Path, hint: str | None = None) -> Iterator[None]:
    """Raises ConfigError, which names ``path``, for what reading it raises within."""
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, csv.Error, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint=hint) from None


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8), keeping its permissions; a symbolic link stays one. Blocking.

    Raises OSError, with the old file untouched, where the folder or the disk refuses.
    """
    target = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".new")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, _mode(target))
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def append_line(path: Path, line: bytes, mode: int = 0o644) -> None:
    """Add ``line`` to the file, which is made with ``mode`` if need be: all of it or, where the disk is full,
    nothing. What a crash left of another line does not take it in. Several processes may. Blocking.

    Raises OSError.
    """
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        raw = (b"\n" if torn else b"") + line + b"\n"
        try:
            while raw:
                raw = raw[os.write(file, raw) :]
        except BaseException:
            with contextlib.suppress(OSError):  # a device has no length
                os.ftruncate(file, size)
            raise
    finally:
        os.close(file)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else edits the file meanwhile; readers are not held up, since it is replaced whole. Blocking."""
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return 0o644


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


POLL_S = 0.25


async def watch(
    path: Path,
    take_up: Callable[[], Awaitable[None]],
    poll_s: float = POLL_S,
    also: Callable[[], object] = lambda: None,
) -> None:
    """Await ``take_up``, which must not raise, for the file as it is and after each edit, until cancelled.

    A file is taken up once it has stopped changing; that it went away is an edit too, and that ``also()``,
    which may block, gives another value.
    """
    seen: object = None
    last: object = None
    while True:
        stamp = await off_the_loop(lambda: (_stamp(path), also()))
        if stamp == last and stamp != seen:
            seen = stamp
            await take_up()
        last = stamp
        await asyncio.sleep(poll_s)


def _stamp(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError as error:
        return error.errno
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
