"""Engines over the tiny models, on the stand-in server or on real vLLM, ready to be tested."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import psutil

from coe.engines.vllm.in_place import InPlaceEngine
from coe.engines.vllm.lifecycle import Lifecycle
from coe.engines.vllm.lora import AdapterEngine
from coe.engines.vllm.process import ManagedProcess
from coe.engines.vllm.sleep_mode import SleepEngine
from coe.registry.hosts import AdapterHost, VllmHost
from coe.registry.schema import Expert
from coe.testing.conformance_engine import Adoption
from tests.support.tiny_models import TinyFamily

FAKE = (sys.executable, "-m", "tests.support.fake_vllm")
CPU: dict[str, Any] = {"device": "cpu", "threads": 1, "max_model_len": 256, "max_running": 4}


def slot(family: TinyFamily, logs: Path, faults: str = "", **options: Any) -> InPlaceEngine:
    """``a`` and ``b`` sharing a stand-in process."""
    return InPlaceEngine(_host(faults, options), experts(family, "a", "b"), logs, program=FAKE)


def sleepers(family: TinyFamily, logs: Path, faults: str = "", **options: Any) -> SleepEngine:
    """``a`` and ``b`` with a stand-in process each."""
    host = _host(faults, {"swap": "sleep", **options})
    return SleepEngine(host, experts(family, "a", "b"), logs, program=FAKE)


def adapters(family: TinyFamily, logs: Path, faults: str = "", **options: Any) -> AdapterEngine:
    """``a`` alone and ``a`` with the adapter ``lora``, on a stand-in process."""
    return AdapterEngine(_adapter_host(family, faults, options), lora_experts(family), logs, program=FAKE)


def experts(family: TinyFamily, *names: str) -> tuple[Expert, ...]:
    """Experts on the host ``slot`` whose ids are the names of their checkpoints."""
    return tuple(Expert(id=name, host="slot", model=str(family.root / name)) for name in names)


def lora_experts(family: TinyFamily) -> tuple[Expert, ...]:
    base, adapter = str(family.a), str(family.lora)
    return (
        Expert(id="a", host="loras", model=base),
        Expert(id="lora", host="loras", model=base, adapter=adapter),
    )


def slot_adoption(family: TinyFamily) -> Adoption:
    """Another expert, with the weights of ``b``, joins :func:`slot` or :func:`sleepers`."""
    return Adoption(experts(family, "a", "b"), Expert(id="new", host="slot", model=str(family.b)))


def adapter_adoption(family: TinyFamily) -> Adoption:
    """Another expert with an adapter joins :func:`adapters`."""
    newcomer = Expert(id="new", host="loras", model=str(family.a), adapter=str(family.lora))
    return Adoption(lora_experts(family), newcomer)


def _host(faults: str, options: dict[str, Any]) -> VllmHost:
    return VllmHost(id="slot", **{**CPU, "start_timeout_s": 60.0, "env": _env(faults), **options})


def _adapter_host(family: TinyFamily, faults: str, options: dict[str, Any]) -> AdapterHost:
    settings = {**CPU, "start_timeout_s": 60.0, "env": _env(faults), **options}
    return AdapterHost(id="loras", kind="adapter", base=str(family.a), **settings)


def _env(faults: str) -> dict[str, str]:
    return {"FAKE_VLLM_FAULTS": faults}


def process_of(life: Lifecycle) -> ManagedProcess:
    """The process of a managed server, for tests that look at it from outside."""
    process = life.server._process
    if process is None:
        raise ValueError("this server is not ours")
    return process


def kill_command(process: ManagedProcess, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal the command itself: SIGKILL as the kernel does when memory runs out, its leash sees it end."""
    psutil.Process(process.group).children()[0].send_signal(number)
