"""The gate and the profiler of a running service."""

from __future__ import annotations

from pathlib import Path

from coe.onboarding.file_editor import FileEditor
from coe.onboarding.protocol import Gate, Profiler


def file_editor(path: Path) -> FileEditor:
    """The editor of the registry file ``path`` where no service runs."""
    from coe.service.check import new_errors
    from coe.service.registry_file import parse_registry

    return FileEditor(path, parse_registry, new_errors)


def build_gate(root: Path) -> Gate:
    """The gate of the service whose experts.yaml stands in folder ``root``: over the experts' profiles."""
    from coe.onboarding.gate import ProfileGate

    return ProfileGate(root)


def build_profiler(root: Path) -> Profiler:
    """The profiler of the service whose experts.yaml stands in ``root``."""
    from coe.onboarding.profiler import ProbeProfiler

    return ProbeProfiler(root)
