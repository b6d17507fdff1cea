"""Folders that are either complete or absent, so that an interrupted step is simply run again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def committed_folder(folder: Path) -> Iterator[Path | None]:
    """Yield a partial folder to fill, renamed to ``folder`` on success; ``None`` when it exists already."""
    if folder.exists():
        yield None
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(folder)
