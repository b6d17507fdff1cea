"""Engines: the places where experts run, all behind :class:`coe.types.Engine`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coe.registry.models import Expert, Host, VllmHost
from coe.types import Engine

__all__ = ["build_engine"]


def build_engine(host: Host, experts: Sequence[Expert], root: Path) -> Engine:
    """The engine of ``host`` for its ``experts``; nothing is started yet.

    ``root`` is the folder of experts.yaml: relative models are below it, logs go to ``root/var/log``.
    """
    if isinstance(host, VllmHost):
        from coe.engines.vllm import InPlaceEngine

        return InPlaceEngine(host, experts, root)
    raise NotImplementedError(host.kind)
