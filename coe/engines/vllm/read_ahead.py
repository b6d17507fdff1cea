"""Weights read from disk into the page cache, ahead of the load that will want them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coe.core.errors import EngineError
from coe.core.files import off_the_loop
from coe.core.types import ExpertId
from coe.engines.vllm.checkpoint import ModelSource

CHUNK_BYTES = 4 << 20


@dataclass
class _Read:
    """One expert's files, read or being read until ``given_up`` is set; found by the thread that reads."""

    folder: Path
    files: Sequence[Path] = ()
    given_up: threading.Event = field(default_factory=threading.Event)


class ReadAhead:
    """What one engine has read ahead. The kernel may drop it at need; ``drop`` tells it to."""

    def __init__(self) -> None:
        self._reads: dict[ExpertId, _Read] = {}
        self.count = 0

    async def read(self, expert: ExpertId, source: ModelSource) -> None:
        """Returns when the weight files are in the page cache; reads in a thread, in small pieces.

        Raises EngineError where there are no such files on this machine, one cannot be read, or it was
        dropped meanwhile."""
        nothing = EngineError(f"{source.name} has no weight files here that could be read ahead.")
        if source.folder is None:
            raise nothing
        self.drop(expert)
        read = self._reads[expert] = _Read(source.folder)
        try:
            await off_the_loop(_read, read)
        except OSError as error:
            raise EngineError(f"The weights of {source.name} cannot be read: {error}") from error
        except asyncio.CancelledError:
            read.given_up.set()
            if self._reads.get(expert) is read:  # A newer read of the same expert goes on.
                del self._reads[expert]
            raise
        if read.given_up.is_set():
            raise EngineError(f"Reading {source.name} ahead was given up.")
        if not read.files:
            raise nothing
        self.count += 1

    def drop(self, expert: ExpertId) -> None:
        """Give the memory back. Nothing that was not read ahead is touched."""
        read = self._reads.pop(expert, None)
        if read is not None:
            read.given_up.set()
            _forget(read.files)


def _read(read: _Read) -> None:
    read.files, piece = sorted(read.folder.glob("*.safetensors")), bytearray(CHUNK_BYTES)
    for path in read.files:
        with path.open("rb", buffering=0) as file:
            while not read.given_up.is_set() and file.readinto(piece):
                pass
    if read.given_up.is_set():  # what came in between the order to drop it and here
        _forget(read.files)


def _forget(files: Sequence[Path]) -> None:
    """Drop the files' clean pages; not on systems that cannot."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:  # it was deleted, and its pages with it
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
