"""Former names of modules that experts.yaml and plug-ins may still use. Read for one more version."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

NEW_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "routers": "coe.routers",
        "routers.features": "coe.routers.learning.features",
        "routers.calibration": "coe.routers.learning.calibration",
        "routers.evidence": "coe.routers.learning.evidence",
        "routers.category_shares": "coe.routers.learning.category_shares",
        "routers.cards": "coe.routers.learning.cards",
        "routers.inputs": "coe.routers.learning.ridge",
        "routers.classifier": "coe.routers.learning.category_classifier",
        "routers.learned": "coe.routers.learning.learned_router",
        "routers.written": "coe.routers.learning.written_router",
        "routers.bert": "coe.routers.encoders.bert",
        "routers.encoder": "coe.routers.encoders.encoder",
        "routers.static_encoder": "coe.routers.encoders.static",
        "routers.vectors": "coe.routers.encoders.disk_cache",
        "routers.kept": "coe.routers.encoders.memory_cache",
        "routers.category_scores": "coe.routers.category_evidence",
        "routers.category_map": "coe.routers.category_budget",
        "routers.choice": "coe.pipeline.utility",
        "eval": "coe.eval",
        "coe.types": "coe.core.types",
        "coe.errors": "coe.core.errors",
        "coe.suggest": "coe.core.suggest",
        "coe.plugins": "coe.core.plugins",
        "coe.extraction": "coe.core.extraction",
        "coe.files": "coe.core.files",
        "coe.completions": "coe.core.openai",
        "coe.registry.models": "coe.registry.schema",
        "coe.pool.policies": "coe.scheduler.policies",
        "coe.pool.policies.coe": "coe.scheduler.policies.slack",
    }
)
"""Former name of a module or a package -> its name now."""


def new_name(module: str) -> str | None:
    """What ``module`` is called now, by the longest former name that fits; None for one that never moved."""
    steps = module.split(".")
    for count in range(len(steps), 0, -1):
        new = NEW_NAMES.get(".".join(steps[:count]))
        if new is not None:
            return ".".join([new, *steps[count:]])
    return None


def current_name(module: str, folder: Path | None = None) -> str:
    """``module``, or what it is called now. A module of the user's own with the former name comes first, in
    ``folder``, which is that of experts.yaml, or in a package that is installed."""
    now = new_name(module)
    if now is None or _spec(now) is None:
        return module
    return module if not module.startswith("coe.") and _is_others(module, now, folder) else now


def _is_others(module: str, now: str, folder: Path | None) -> bool:
    steps = module.split(".")
    stem = (folder or Path()).joinpath(*steps)
    for file in (stem.with_suffix(".py"), stem / "__init__.py") if folder else ():
        if file.is_file():
            return not _is_ours(file, now)
    top = _spec(steps[0])
    if top is None or (top.origin and _is_ours(top.origin, f"coe.{steps[0]}")):
        return False
    return _spec(module) is not None


def _is_ours(file: Path | str, module: str) -> bool:
    """In a checkout our folders lie beside experts.yaml, and on the path."""
    spec = _spec(module)
    return spec is not None and spec.origin is not None and os.path.samefile(file, spec.origin)


def _spec(module: str) -> ModuleSpec | None:
    try:
        return find_spec(module)
    except Exception:  # what cannot be imported holds nothing that could be used
        return None
