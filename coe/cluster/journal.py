"""What an owner had in memory, on disk, so that its successor brings the same experts back in."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Self

from coe.core.types import ExpertId
from coe.scheduler.events import HostId


class Journal:
    """One file, replaced whole: a reader sees the old residents or the new ones, never half of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: Mapping[HostId, Sequence[ExpertId]] | None = None
        self._lock: int | None = None

    @classmethod
    def claim(cls, folder: Path, name: str) -> Self:
        """A journal that no living process has: the one of a predecessor that died, where there is one.

        The claim ends with the process, however that ends.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for number in count():
            path = folder / f"{name}-{number}.json"
            lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
            else:
                journal = cls(path)
                journal._lock = lock
                return journal
        raise AssertionError("there is always a next number")

    def residents(self) -> Mapping[HostId, tuple[ExpertId, ...]]:
        """Those of the owner before us; empty where there was none or its file cannot be read."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(host): tuple(map(str, experts)) for host, experts in found["residents"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def note(self, residents: Mapping[HostId, Sequence[ExpertId]]) -> None:
        """Write ``residents`` if they changed."""
        if residents == self._written:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"residents": residents}, file)
            file.flush()
            # On the disk before it takes the place of the old one.
            os.fsync(file.fileno())
        draft.replace(self._path)
        self._written = dict(residents)
