"""Engines: the places where experts run, all behind :class:`coe.core.types.Engine`.

A plug-in is named ``module:Class`` under ``pool.hosts`` and is built exactly as a built-in is (see
:class:`coe.engines.base.EngineClass`); :func:`coe.testing.conformance_engine.check_engine` checks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import cast

from coe.core.plugins import PluginKind
from coe.core.types import Engine
from coe.engines.base import Setting
from coe.registry.hosts import Host
from coe.registry.schema import Expert

__all__ = ["ENGINE_KIND", "build_engine"]

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "vllm/in_place": "coe.engines.vllm.in_place:InPlaceEngine",
        "vllm/sleep": "coe.engines.vllm.sleep_mode:SleepEngine",
        "adapter": "coe.engines.vllm.lora:AdapterEngine",
        "remote": "coe.engines.remote.openai_url:RemoteEngine",
    }
)
"""By :attr:`coe.registry.hosts.HostBase.engine`. The options of a built-in are the host's whole entry."""

ENGINE_KIND = PluginKind("engine", "ask", "coe.engines.base.EngineClass", BUILT_IN)


def build_engine(host: Host, experts: Sequence[Expert], root: Path) -> Engine:
    """The engine of ``host`` for its ``experts``; nothing is started yet and no weights are looked at.

    ``root`` is the folder of experts.yaml: relative models are below it, logs go to ``root/var/log``.
    Raises ConfigError for a host that can never work (such as a remote URL that is none).
    """
    kinds, setting = ENGINE_KIND.beside(root), Setting(experts, root, host.max_running)
    return cast(Engine, kinds.build(host.engine, host.id, host.settings, setting))
