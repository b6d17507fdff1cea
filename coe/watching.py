"""Noticing that a file was edited, by looking at it: every file system and container can do that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

POLL_S = 0.25


async def watch(path: Path, take_up: Callable[[], Awaitable[None]], poll_s: float = POLL_S) -> None:
    """Await ``take_up``, which must not raise, for the file as it is and after each edit, until cancelled.

    A file is taken up once it has stopped changing; that it went away is an edit too.
    """
    seen: object = None
    last: object = None
    while True:
        stamp = await asyncio.to_thread(_stamp, path)
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
