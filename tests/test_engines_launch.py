"""The command line and environment of vLLM."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from coe.engines.vllm.checkpoint import ModelSource
from coe.engines.vllm.launch import Launch, log_path, vllm_launch
from coe.engines.vllm.server import private_folder
from coe.registry.hosts import AdapterHost, VllmHost

SOCKET = Path("/run/x/vllm.sock")
LOCAL = ModelSource("/models/a", Path("/models/a"))


def launch(host: VllmHost | AdapterHost, model: ModelSource = LOCAL) -> Launch:
    return vllm_launch(host, model, name="coe-slot", socket=SOCKET, program=("vllm",))


def option(plan: Launch, name: str) -> str:
    return plan.argv[plan.argv.index(name) + 1]


def test_on_a_cpu_it_is_float32_eager_and_as_many_threads_as_said() -> None:
    plan = launch(VllmHost(id="slot", device="cpu", threads=1, max_running=4, max_model_len=512))
    assert option(plan, "--dtype") == "float32"
    assert option(plan, "--max-num-seqs") == "4"
    assert option(plan, "--max-model-len") == "512"
    assert "--enforce-eager" in plan.argv
    assert (plan.env["OMP_NUM_THREADS"], plan.env["VLLM_CPU_OMP_THREADS_BIND"]) == ("1", "nobind")


def test_on_a_gpu_the_dtype_is_vllms_choice_and_sleeping_needs_its_switch() -> None:
    assert option(launch(VllmHost(id="slot")), "--dtype") == "auto"
    assert "--enable-sleep-mode" in launch(VllmHost(id="slot", swap="sleep")).argv
    assert "--enable-sleep-mode" not in launch(VllmHost(id="slot", swap="sleep", device="cpu")).argv
    assert "--enforce-eager" not in launch(VllmHost(id="slot")).argv


def test_it_listens_on_a_private_socket_only() -> None:
    plan = launch(VllmHost(id="slot"))
    assert option(plan, "--uds") == str(SOCKET)
    assert "--port" not in plan.argv
    folder = private_folder()
    assert folder.stat().st_mode & 0o077 == 0
    assert len(str(folder / str(uuid4()))) <= 107
    assert plan.env["VLLM_RPC_BASE_PATH"] == str(SOCKET.parent)
    folder.rmdir()


def test_a_local_model_never_reaches_for_the_hub_and_a_hub_model_may() -> None:
    assert launch(VllmHost(id="slot")).env["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in launch(VllmHost(id="slot"), ModelSource("Qwen/Qwen3-0.6B", None)).env


def test_nothing_is_reported_to_anyone() -> None:
    env = launch(VllmHost(id="slot")).env
    assert (env["VLLM_NO_USAGE_STATS"], env["DO_NOT_TRACK"]) == ("1", "1")


def test_what_experts_yaml_adds_comes_last_and_wins() -> None:
    host = VllmHost(id="slot", args=("--dtype", "bfloat16"), env={"VLLM_NO_USAGE_STATS": "0"})
    plan = launch(host)
    assert plan.argv[-2:] == ("--dtype", "bfloat16")
    assert plan.env["VLLM_NO_USAGE_STATS"] == "0"


def test_a_variable_without_a_value_is_the_service_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the bucket")
    monkeypatch.delenv("NOT_THERE", raising=False)
    host = VllmHost(id="slot", env={"AWS_SECRET_ACCESS_KEY": None, "NOT_THERE": None, "EMPTY": ""})
    env = launch(host).env
    assert (env["AWS_SECRET_ACCESS_KEY"], env["EMPTY"]) == ("of the bucket", "")
    assert "NOT_THERE" not in env


def test_an_adapter_host_may_load_adapters_at_run_time() -> None:
    host = AdapterHost(id="loras", kind="adapter", base="base", max_adapters=8, max_adapters_in_batch=2)
    plan = launch(host)
    assert "--enable-lora" in plan.argv
    assert (option(plan, "--max-loras"), option(plan, "--max-cpu-loras")) == ("2", "8")
    assert plan.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_logs_of_hosts_with_slashes_stay_in_the_log_folder() -> None:
    assert log_path(Path("/srv"), "gpu/0") == Path("/srv/var/log/gpu_0.log")
