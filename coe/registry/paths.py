"""What ``model`` and ``adapter`` of an expert name: a folder beside experts.yaml, or a hub id."""

from __future__ import annotations

import re
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LOCAL_ROOTS = ("models", "adapters")
"""First parts that always mean a folder, so that a checkpoint not made yet is not taken for a hub id."""


def local_path(model: str, root: Path) -> Path | None:
    """The folder that ``model`` names (existing or not), absolute; ``None`` when it is a hub id.

    A relative path starts at ``root``, the folder of experts.yaml. ``org/name`` is a hub id unless such a
    path exists or ``org`` is ``models`` or ``adapters``.
    """
    path = (root / Path(model).expanduser()).resolve()
    if path.exists() or not _HUB_ID.fullmatch(model) or model.split("/")[0] in _LOCAL_ROOTS:
        return path
    return None


def resolve_model(model: str, root: Path) -> str:
    """What an engine is told: an absolute folder, or the hub id as it stands."""
    path = local_path(model, root)
    return model if path is None else str(path)
