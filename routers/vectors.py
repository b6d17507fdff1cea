"""Vectors of training examples, kept between runs: encoding a thousand takes longer than all else at start.

The folder is the user's cache (``$XDG_CACHE_HOME/coe/vectors``). It may be deleted at any time, and a
folder that cannot be written only costs time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from routers.encoder import Encoder, Vectors

LOG = logging.getLogger(__name__)

_KEPT_FILES = 16


def encode_examples(encoder: Encoder, texts: Sequence[str]) -> Vectors:
    """As ``encoder.encode(texts)``, but read from the user's cache when it was computed before."""
    path = _cache_folder() / f"{_key(encoder, texts)}.npy"
    rows = _read(path, len(texts))
    if rows is None:
        LOG.info("encoding %d router examples (once)", len(texts))
        rows = encoder.encode(texts)
        _write(path, rows)
    return rows


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "coe" / "vectors"


def _key(encoder: Encoder, texts: Sequence[str]) -> str:
    return hashlib.sha256(repr((encoder.identity, list(texts))).encode()).hexdigest()[:32]


def _read(path: Path, count: int) -> Vectors | None:
    try:
        rows: Vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return rows if rows.dtype == np.float32 and rows.ndim == 2 and len(rows) == count else None


def _write(path: Path, rows: Vectors) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed: two services that start together never read half a file.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as partial:
            np.save(partial, rows)
        os.replace(partial.name, path)
        _prune(path.parent)
    except OSError as error:
        LOG.debug("router vectors not kept: %s", error)


def _prune(folder: Path) -> None:
    by_age = sorted(folder.glob("*.npy"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in by_age[_KEPT_FILES:]:
        old.unlink(missing_ok=True)
