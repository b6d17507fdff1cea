"""Engines: the places where experts run, all behind :class:`coe.core.types.Engine`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coe.core.types import Engine
from coe.registry.schema import AdapterHost, Expert, Host, RemoteHost

__all__ = ["build_engine"]


def build_engine(host: Host, experts: Sequence[Expert], root: Path) -> Engine:
    """The engine of ``host`` for its ``experts``; nothing is started yet and no weights are looked at.

    ``root`` is the folder of experts.yaml: relative models are below it, logs go to ``root/var/log``.
    Raises ConfigError for a host that can never work (such as a remote URL that is none).
    """
    if isinstance(host, RemoteHost):
        from coe.engines.remote.openai_url import RemoteEngine

        return RemoteEngine(host, experts, root)
    if isinstance(host, AdapterHost):
        from coe.engines.vllm.lora import AdapterEngine

        return AdapterEngine(host, experts, root)
    if host.swap == "sleep":
        from coe.engines.vllm.sleep_mode import SleepEngine

        return SleepEngine(host, experts, root)
    from coe.engines.vllm.in_place import InPlaceEngine

    return InPlaceEngine(host, experts, root)
