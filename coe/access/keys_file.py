"""The keys file of a running service: an edit counts without a restart, a bad one is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from coe.access.keys import KeyRing, read_keys
from coe.errors import ConfigError
from coe.watching import watch

log = logging.getLogger(__name__)


class KeysFile:
    """The keys of the file at ``path`` as it was last good. Made blocking, raising ConfigError; from then on
    use it from one event loop: ``start``, and ``close`` at the end."""

    def __init__(self, path: Path) -> None:
        self.ring = read_keys(path)
        self._path = path
        self._watching: asyncio.Task[None] | None = None
        self.accepted = self.refused = 0
        """edits so far"""
        self.stale = False
        """whether the file was refused as it is now, so that earlier keys count"""

    def start(self, use: Callable[[KeyRing], None]) -> None:
        """From now on ``use`` gets the keys of each good edit. Idempotent."""
        if self._watching is None:
            watching = watch(self._path, partial(self._take_up, use))
            self._watching = asyncio.create_task(watching, name="watch keys file")

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _take_up(self, use: Callable[[KeyRing], None]) -> None:
        try:
            ring = await asyncio.to_thread(read_keys, self._path)
        except ConfigError as error:
            self._refuse(f"{error.message} ({error.hint})" if error.hint else error.message)
        except Exception as error:
            log.exception("taking up %s failed unexpectedly", self._path)
            self._refuse(type(error).__name__)
        else:
            self.stale = False
            if ring.holders() != self.ring.holders():
                use(ring)
                log.info("%s: %s", self._path, _difference(self.ring, ring))
                self.ring = ring
                self.accepted += 1

    def _refuse(self, why: str) -> None:
        self.stale = True
        self.refused += 1
        log.error("an edit of the keys file was refused, the keys from before it count: %s", why)


def _difference(old: KeyRing, new: KeyRing) -> str:
    """One line for people."""
    before, now = ({holder.id: holder for holder in ring.holders()} for ring in (old, new))
    parts = {
        "added": now.keys() - before.keys(),
        "removed": before.keys() - now.keys(),
        "changed": {name for name in now.keys() & before.keys() if now[name] != before[name]},
    }
    told = [f"{word} {', '.join(sorted(names))}" for word, names in parts.items() if names]
    return f"{len(now)} keys; {'; '.join(told) or 'in another order'}"
