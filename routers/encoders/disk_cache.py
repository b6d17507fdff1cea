"""Many vectors at once, kept between runs: encoding thousands of texts takes longer than all else at start.

The store is a database in the user's cache (``$XDG_CACHE_HOME/coe/vectors``), one row per encoder and text.
It may be deleted at any time, and one that cannot be written only costs time. SQLite makes it safe for
several processes at once, and each chunk is kept as it is done, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from coe.routers.encoders.encoder import Encoder, Vectors
from coe.routers.encoders.window import CERTAINLY_WHOLE, CUT

LOG = logging.getLogger(__name__)

_CHUNK = 128
_KEPT_ROWS = 200_000
"""About 300 MB at 384 dimensions."""

_TABLE = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL)"


def encode_cached(encoder: Encoder, texts: Sequence[str], workers: int = 1) -> Vectors:
    """As ``encoder.encode(texts)``, but each text only once, ever: what was computed before is read.

    Blocking: minutes for thousands of new texts. ``workers`` threads share the work, a core for each.
    """
    if not texts:
        return encoder.encode([])
    store = _Store(_cache_folder() / "vectors.sqlite")
    keys = {text: _key(encoder, text) for text in texts}
    found = store.read(list(keys.values()))
    missing = [text for text, key in keys.items() if key not in found]
    if missing:
        LOG.info("encoding %d texts (once)", len(missing))
    for chunk, rows in _encoded(encoder, missing, workers):
        new = {keys[text]: row for text, row in zip(chunk, rows, strict=True)}
        found |= new
        store.add(new)
    return np.stack([found[keys[text]] for text in texts])


def _encoded(encoder: Encoder, texts: Sequence[str], workers: int) -> Iterator[tuple[list[str], Vectors]]:
    """Chunks of texts of like length, which the encoder can batch well, longest first."""
    ordered = sorted(texts, key=len, reverse=True)
    chunks = [ordered[start : start + _CHUNK] for start in range(0, len(ordered), _CHUNK)]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        yield from zip(chunks, pool.map(encoder.encode, chunks), strict=True)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "coe" / "vectors"


def _key(encoder: Encoder, text: str) -> bytes:
    """Texts that may be cut have other keys with each way of cutting: their vectors are other ones."""
    cut = f"{CUT}\0" if len(text) > CERTAINLY_WHOLE else ""
    named = f"{encoder.identity}\0{cut}{text}"
    return hashlib.sha256(named.encode("utf-8", "surrogatepass")).digest()[:20]


class _Store:
    """Vectors by key. No error leaves it: a store that fails forgets."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """The rows that are there; none from a store that cannot be read."""
        try:
            with self._open() as database:
                rows = (
                    database.execute("SELECT key, vector FROM vectors WHERE key = ?", (key,)).fetchone()
                    for key in keys
                )
                return {row[0]: np.frombuffer(row[1], dtype=np.float32) for row in rows if row}
        except (OSError, sqlite3.Error) as error:
            self._failed(error)
            return {}

    def add(self, rows: dict[bytes, Vectors]) -> None:
        """All of ``rows`` or none."""
        try:
            with self._open() as database, database:
                database.executemany(
                    "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
                    [(key, np.ascontiguousarray(row, np.float32).tobytes()) for key, row in rows.items()],
                )
                # The rows written longest ago go first; a lost vector only costs its computation.
                database.execute(
                    "DELETE FROM vectors WHERE rowid <= (SELECT max(rowid) FROM vectors) - ?", (_KEPT_ROWS,)
                )
        except (OSError, sqlite3.Error) as error:
            self._failed(error)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as database:
            database.execute(_TABLE)
            yield database

    def _failed(self, error: Exception) -> None:
        LOG.debug("vectors not kept: %s", error)
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            with contextlib.suppress(OSError):  # damaged: start again
                self._path.unlink(missing_ok=True)
