"""What the gateway costs: `coe serve` and other routers in front of the same mock upstream, in one run.

``python -m benchmarks.gateway [--peers FOLDER] [--seconds 5] [--json OUT]``. FOLDER is a virtual
environment with the peers: ``python -m venv FOLDER && FOLDER/bin/pip install 'litellm[proxy]==1.106.2' smg
vllm-router``. On two cores the measured router has core 0 alone; upstream and load generator share core 1,
so that they are never what is measured. Keys, metrics and receipts of `coe serve` are on; one process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
import uvloop

from benchmarks.load import Measured, Target, measure

CLIENTS = (1, 16)
START_TIMEOUT_S = 180.0
ROUTER_CORE, LOAD_CORE = 0, 1


@dataclass(frozen=True)
class Contender:
    """A router to measure. ``command`` starts it on ``port``."""

    name: str
    command: tuple[str, ...]
    port: int
    model: str = "mock"
    key: str | None = None
    env: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Result:
    name: str
    runs: tuple[Measured, ...]
    memory_mb: float | None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def coe_contenders(folder: Path, upstream: int) -> list[Contender]:
    """`coe serve` with the expert named by the client, and routed by content with the static encoder."""
    program = str(Path(sys.executable).with_name("coe"))
    key = subprocess.check_output(
        [program, "keys", "create", "bench", "--file", str(folder / "keys.yaml")], text=True
    ).strip()
    port = free_port()
    url = f"http://127.0.0.1:{upstream}"
    host = {"id": "up", "kind": "remote", "url": url, "max_running": 512}
    registry = {
        "service": {"port": port, "watch": False},
        "access": {"keys_file": "keys.yaml"},
        "pool": {"hosts": [host]},
        "experts": [
            {"id": name, "host": "up", "model": "mock", "card": card}
            for name, card in (("mock", "Mathematics and sums."), ("other", "Law, contracts, courts."))
        ],
        "routers": {
            "default": "category",
            "available": [{"name": "category", "kind": "category", "options": {"encoder": "static"}}],
        },
    }
    (folder / "experts.yaml").write_text(json.dumps(registry))
    command = (
        str(Path(sys.executable).with_name("coe")),
        "serve",
        "--registry",
        str(folder / "experts.yaml"),
    )
    pinned = Contender("coe serve, pinned expert", command, port, key=key)
    return [pinned, Contender("coe serve, routed (static encoder)", (), port, "coe", key)]


def peer_contenders(folder: Path, peers: Path, upstream: int) -> list[Contender]:
    """Those of LiteLLM's proxy, smg and vllm-router that are installed in ``peers``."""
    found: list[Contender] = []
    url, binary = f"http://127.0.0.1:{upstream}", peers / "bin"
    if (binary / "litellm").exists():
        model = {"model": "openai/mock", "api_base": f"{url}/v1", "api_key": "none"}
        config = {"model_list": [{"model_name": "mock", "litellm_params": model}]}
        (folder / "litellm.yaml").write_text(json.dumps(config))
        port = free_port()
        command = (str(binary / "litellm"), "--config", str(folder / "litellm.yaml"), "--port", str(port))
        env = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MASTER_KEY": "sk-bench",  # without one it refuses to start
            "PATH": f"{binary}:{os.environ['PATH']}",
        }
        found.append(Contender("LiteLLM proxy", command, port, key="sk-bench", env=env))
    for name, arguments in (
        ("smg", ("launch", "--worker-urls", url, "--policy", "round_robin")),
        ("vllm-router", ("--worker-urls", url, "--policy", "round_robin")),
    ):
        if (binary / name).exists():
            port = free_port()
            command = (str(binary / name), *arguments, "--host", "127.0.0.1", "--port", str(port))
            found.append(Contender(name, command, port))
    return found


@contextlib.contextmanager
def running(command: Sequence[str], core: int, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """A process on one core, for as long as the block lasts; gives its process id."""
    pin = ["taskset", "-c", str(core)] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []
    process = subprocess.Popen(
        [*pin, *command],
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def wait_until_it_answers(contender: Contender) -> bool:
    """Whether it answered a completion before the timeout."""
    target = Target(f"http://127.0.0.1:{contender.port}", contender.model, contender.key)
    headers = {"authorization": f"Bearer {contender.key}"} if contender.key else {}
    body = {"model": contender.model, "messages": [{"role": "user", "content": "hi"}]}
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.post(f"{target.url}/v1/chat/completions", json=body, headers=headers).is_success:
                return True
        time.sleep(0.3)
    return False


def resident_mb(process: int) -> int | None:
    """Resident memory of a process and its children, in MB."""
    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(process)
        resident = sum(int(each.memory_info().rss) for each in (leader, *leader.children()))
        return round(resident / 2**20)
    return None


def measure_all(contender: Contender, seconds: float, process: int | None) -> Result:
    target = Target(f"http://127.0.0.1:{contender.port}", contender.model, contender.key)
    runs = tuple(uvloop.run(measure(target, clients, seconds)) for clients in CLIENTS)
    return Result(contender.name, runs, resident_mb(process) if process else None)


def run(seconds: float, peers: Path | None) -> list[Result]:
    os.sched_setaffinity(0, {LOAD_CORE} if (os.cpu_count() or 1) > 1 else {0})
    results: list[Result] = []
    upstream = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mock = (sys.executable, "-m", "benchmarks.upstream", str(upstream))
        with running(mock, LOAD_CORE):
            alone = Contender("upstream alone", (), upstream)
            if not wait_until_it_answers(alone):
                raise SystemExit("the mock upstream did not start")
            results.append(measure_all(alone, seconds, None))
            pinned, routed = coe_contenders(folder, upstream)
            with running(pinned.command, ROUTER_CORE) as process:
                if not wait_until_it_answers(pinned):
                    raise SystemExit("coe serve did not start: run it by hand to see why")
                results += [measure_all(each, seconds, process) for each in (pinned, routed)]
            for contender in peer_contenders(folder, peers, upstream) if peers else []:
                with running(contender.command, ROUTER_CORE, contender.env) as process:
                    if wait_until_it_answers(contender):
                        results.append(measure_all(contender, seconds, process))
                    else:
                        print(f"{contender.name} did not answer; left out", file=sys.stderr)
    return results


def table(results: Sequence[Result]) -> str:
    lines = [
        "| router | clients | requests/s | p50 ms | p99 ms | errors | memory MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for one in result.runs:
            memory = "" if result.memory_mb is None else f"{result.memory_mb:g}"
            rate, p50, p99 = f"{one.per_second:,.0f}", f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}"
            cells = (result.name, one.clients, rate, p50, p99, one.errors, memory)
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--json", type=Path, dest="json_out")
    options = parser.parse_args()
    results = run(options.seconds, options.peers)
    print(table(results))
    if options.json_out:
        options.json_out.write_text(json.dumps([asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
