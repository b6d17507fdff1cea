"""``python -m benchmarks.gpu_check``: do sleeping, waking and swapping work on this machine, and what do
they cost?

Two small models get a vLLM process each. Each sleeps at level 1 and 2 and wakes again (with the canary after
every wake); then requests for both come at once while only one may be awake, through the same pool that
serves. Prints a JSON report; ``registry`` in it can be merged into experts.yaml. Where there is no GPU the
same protocol runs on vLLM's CPU build, and the report names what could not be checked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from coe.core.errors import CoeError
from coe.core.types import EngineCall, ExpertId
from coe.engines.vllm.launch import VLLM
from coe.engines.vllm.sleep_mode import SleepEngine
from coe.pool.pool import Pool
from coe.registry.hosts import VllmHost
from coe.registry.schema import Registry
from coe.scheduler.plan import build_plan
from coe.scheduler.policies import make_policy
from coe.scheduler.scheduler import Scheduler

HUB_MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "HuggingFaceTB/SmolLM2-360M-Instruct")
LEVELS = (1, 2)
REQUESTS = 12
CALL = EngineCall(
    "chat/completions",
    {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 16, "temperature": 0},
)
NOT_ON_CPU = (
    "memory freed by sleeping: on a CPU vLLM answers /sleep and frees nothing",
    "what waking costs: on a CPU there is nothing to bring back, so the times are those of the protocol",
    "level 2 drops no weights on a CPU; the reload after it is real",
)


@dataclass(frozen=True)
class Machine:
    """``memory_mb`` tells how much GPU memory is in use; None without a GPU."""

    device: str
    name: str
    memory_mb: Callable[[], float] | None


class Report:
    """What was found: seconds by name, and what went wrong. Checks go on after a failure."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.measured: dict[str, Any] = {}
        self.failed: list[str] = []

    async def check(self, name: str, step: Callable[[], Awaitable[object]]) -> float | None:
        """Seconds that ``step`` took; None where it failed."""
        before = time.perf_counter()
        try:
            await step()
        except (CoeError, TimeoutError, ValueError) as error:
            self.failed.append(f"{name}: {getattr(error, 'message', None) or error}")
            return None
        seconds = round(time.perf_counter() - before, 3)
        print(f"{name}: {seconds:g} s", file=sys.stderr, flush=True)
        self.measured[name] = seconds
        return seconds

    def used_mb(self) -> float | None:
        return self.machine.memory_mb() if self.machine.memory_mb else None

    def as_json(self, registry: Registry) -> dict[str, Any]:
        loads = [
            {"id": e.id, "load_s": self.measured.get(f"{e.id}: wake from level 1")} for e in registry.experts
        ]
        return {
            "ok": not self.failed,
            "device": self.machine.device,
            "machine": self.machine.name,
            "models": [expert.model for expert in registry.experts],
            "measured": self.measured,
            "failed": self.failed,
            "not_checked": [] if self.machine.device == "gpu" else list(NOT_ON_CPU),
            "registry": {"experts": [each for each in loads if each["load_s"] is not None]},
        }


def find_machine() -> Machine:
    """The first GPU that nvidia-smi sees, or the CPU."""
    found = _nvidia("name")
    if found is None:
        return Machine("cpu", "no NVIDIA GPU (nvidia-smi does not answer)", None)
    return Machine("gpu", found, lambda: float(_nvidia("memory.used") or "nan"))


def _nvidia(field: str) -> str | None:
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return subprocess.check_output(command, text=True, timeout=20, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.SubprocessError):
        return None


def check_registry(machine: Machine, models: Sequence[str]) -> Registry:
    """Two experts on a host that has room for one of them awake."""
    host: dict[str, Any] = {"id": "check", "device": machine.device, "swap": "sleep", "memory_gb": 1.5}
    host |= {"max_model_len": 512, "start_timeout_s": 900.0}
    if machine.device == "cpu":
        host |= {"dtype": "float32", "threads": 1}
    else:
        host |= {"args": ["--gpu-memory-utilization", "0.3"]}
    return Registry.model_validate(
        {
            "pool": {"hosts": [host], "min_residency_s": 0.0, "load_timeout_s": 900.0},
            "experts": [
                {"id": f"expert-{number}", "host": "check", "model": model, "memory_gb": 1.0}
                for number, model in enumerate(models, start=1)
            ],
        }
    )


async def run_checks(engine: SleepEngine, registry: Registry, report: Report) -> None:
    """Everything but the swaps, in order. Both experts sleep at the end."""
    await engine.start()
    for expert in (each.id for each in registry.experts):
        if await report.check(f"{expert}: cold start", partial(engine.ensure_ready, expert)) is None:
            return
        for level in LEVELS:
            await _nap(engine, expert, level, report)
        await engine.sleep(expert, 1)


async def _nap(engine: SleepEngine, expert: ExpertId, level: int, report: Report) -> None:
    before = report.used_mb()
    if await report.check(f"{expert}: sleep level {level}", partial(engine.sleep, expert, level)) is None:
        return
    after = report.used_mb()
    if before is not None and after is not None:
        report.measured[f"{expert}: MB freed by level {level}"] = before - after
        if after >= before:
            report.failed.append(f"{expert}: level {level} freed no GPU memory")
    await report.check(f"{expert}: wake from level {level}", partial(engine.ensure_ready, expert))
    await report.check(f"{expert}: first answer after level {level}", lambda: answer_of(engine, expert))


async def answer_of(engine: SleepEngine, expert: ExpertId) -> str:
    """Raises ValueError when there is none."""
    answer = await engine.ask(expert, CALL)
    try:
        body = json.loads(b"".join([chunk async for chunk in answer.chunks()]))
    finally:
        await answer.aclose()
    text = str(body["choices"][0]["message"]["content"])
    if not text.strip():
        raise ValueError(f"{expert} gave an empty answer")
    return text


async def swap_under_load(engine: SleepEngine, registry: Registry, report: Report) -> None:
    """Requests for both experts at once, through the pool, while one may be awake."""
    scheduler = Scheduler(build_plan(registry), make_policy(registry.pool))
    pool = Pool(scheduler, {engine.id: engine}, load_timeout_s=registry.pool.load_timeout_s)

    async def ask(number: int) -> None:
        expert = registry.experts[number % 2].id
        async with pool.lease(f"check-{number}", expert) as lease:
            await answer_of(engine, lease.expert)

    async def ask_all() -> None:
        await asyncio.gather(*(ask(number) for number in range(REQUESTS)))

    await pool.start()
    try:
        await report.check(f"{REQUESTS} requests for both at once", ask_all)
        report.measured["swaps under load"] = pool.snapshot().swaps
    finally:
        await pool.stop()


async def check_machine(
    machine: Machine, models: Sequence[str], root: Path, program: tuple[str, ...] = VLLM
) -> dict[str, Any]:
    """The report. ``models``: two folders or hub ids."""
    registry, report = check_registry(machine, models), Report(machine)
    host = registry.pool.hosts[0]
    if not isinstance(host, VllmHost):
        raise TypeError(f"{host.id} is not a vllm host")
    engine = SleepEngine(host, registry.experts, root, program=program)
    try:
        await run_checks(engine, registry, report)
        if not report.failed:
            await swap_under_load(engine, registry, report)
    finally:
        await engine.stop()
    return report.as_json(registry)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="two models: folders or hub ids")
    parser.add_argument("--json", type=Path, dest="json_out", help="write the report there as well")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    machine = find_machine()
    on_cpu = [str(Path("models", name).resolve()) for name in ("sql", "logic")]
    models = options.models or (HUB_MODELS if machine.device == "gpu" else on_cpu)
    if len(models) != 2:
        parser.error("give two models, or none")
    with tempfile.TemporaryDirectory(prefix="coe-check-") as folder:
        found = asyncio.run(check_machine(machine, models, Path(folder)))
    text = json.dumps(found, indent=1)
    print(text)
    if options.json_out:
        options.json_out.write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if found["ok"] else 1)


if __name__ == "__main__":
    main()
