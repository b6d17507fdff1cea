"""Outcome sets from what people already have: ``coe eval import KIND PATH -o DIR``.

An importer turns files into questions and outcomes; :func:`coe.eval.importers.writing.write_outcome_set`
makes the folder that ``coe eval recorded`` and ``coe experts profile --from`` read.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, cast

from coe.core.errors import ConfigError
from coe.core.suggest import suggest
from coe.eval.importers.writing import Imported


class Importer(Protocol):
    def __call__(self, paths: Sequence[Path], expert: str | None) -> Imported:
        """Read every path. ``expert`` names the expert where the files do not. Raises ConfigError."""
        ...


KINDS: Mapping[str, str] = MappingProxyType(
    {
        "lm-eval": "coe.eval.importers.lm_eval:read",
        "mmlu-pro": "coe.eval.importers.mmlu_pro:read",
        "csv": "coe.eval.importers.table:read",
        "feedback": "coe.eval.importers.feedback:read",
        "run": "coe.eval.importers.live:read",
    }
)
"""kind -> where its importer is"""


def importer(kind: str) -> Importer:
    if kind not in KINDS:
        raise ConfigError(f'there is no importer "{kind}"; {suggest(kind, KINDS)}')
    module, _, name = KINDS[kind].partition(":")
    return cast(Importer, getattr(importlib.import_module(module), name))


def files_of(paths: Sequence[Path], *patterns: str) -> list[Path]:
    """The files named, and those in the folders named that match a pattern. Raises ConfigError."""
    found: list[Path] = []
    for path in paths:
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            found += sorted({inner for pattern in patterns for inner in path.rglob(pattern)})
        else:
            raise ConfigError(f"there is nothing at {path}")
    if not found:
        raise ConfigError(f"no {' or '.join(patterns)} in {', '.join(map(str, paths))}")
    return found
