"""`coe serve` as a process: start, port in use, a start that fails, signals."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest

from benchmarks.upstream import MockUpstream
from coe.core.errors import ConfigError
from coe.registry.schema import Registry
from coe.service.service import EXIT_CONFIG, EXIT_FAILED, EXIT_OK, build_service
from coe.testing.engines import FakeEngine
from tests.support.serving import serving

ASK = {"model": "coe", "messages": [{"role": "user", "content": "count"}]}
PROGRAM = """
import sys
from pathlib import Path
from coe.service.service import run_service
from coe.registry.schema import Registry
from coe.testing.engines import FakeEngine, Script

class Engine(FakeEngine):
    async def stop(self):
        await super().stop()
        print("engine stopped", flush=True)

script = Script(text="one two three four five six", chunk_s=0.1)
if "stuck" in sys.argv:
    script.chunk_s = 1000
if "broken" in sys.argv:
    script.fail("start", "no such checkpoint")
registry = Registry.model_validate_json(sys.argv[1])
sys.exit(run_service(registry, Path(), lambda *_: Engine("slot", script)))
"""


def registry(port: int = 0, **fields: object) -> Registry:
    return Registry.model_validate(
        {
            "service": {"port": port},
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [{"id": "sums", "host": "slot", "model": "m"}],
            "routers": {"default": "random"},
            **fields,
        }
    )


@contextmanager
def service(of: Registry, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, of.model_dump_json(), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def announced_url(stdout: IO[str] | None) -> str:
    assert stdout is not None
    return next(line for line in stdout if line.startswith("curl")).split("/v1/")[0].removeprefix("curl -s ")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_end_stops_the_engines_and_exits_well(number: signal.Signals) -> None:
    with service(registry()) as process:
        url = announced_url(process.stdout)
        rebound = httpx.get(f"{url}/healthz", headers={"Host": "evil.example"})
        assert (rebound.status_code, rebound.json()["error"]["code"]) == (403, "host_not_allowed")
        with httpx.stream(
            "POST", f"{url}/v1/chat/completions", json={**ASK, "stream": True}, timeout=30
        ) as response:
            lines = response.iter_lines()
            first = next(lines)
            process.send_signal(number)
            rest = list(lines)
        out, err = process.communicate(timeout=30)
    assert json.loads(first.removeprefix("data: "))["choices"]
    assert "data: [DONE]" in rest
    assert process.returncode == EXIT_OK
    assert "engine stopped" in out
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_second_signal_gives_up_what_is_under_way() -> None:
    with service(registry(), "stuck") as process:
        url = announced_url(process.stdout)
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as staying:
            staying.sendall(raw_post("/v1/chat/completions", ASK))
            wait_until_running(url)
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            next(line for line in process.stderr if "stopping" in line)
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=15)
    assert process.returncode == EXIT_OK
    assert "engine stopped" in out


def raw_post(path: str, body: object) -> bytes:
    raw = json.dumps(body).encode()
    kind = "Content-Type: application/json"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {len(raw)}"
    return f"{head}\r\n\r\n".encode() + raw


def wait_until_running(url: str) -> None:
    for _ in range(100):
        if 'coe_expert_running{expert="sums"} 1.0' in httpx.get(f"{url}/metrics").text:
            return
        time.sleep(0.05)
    raise AssertionError("the request never ran")


@pytest.mark.slow
def test_a_port_in_use_is_a_clear_error_and_an_exit_code() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with service(registry(port)) as process:
            out, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_CONFIG
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in err
    assert "service.port" in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.slow
def test_a_service_whose_only_engine_cannot_start_ends_with_the_reason() -> None:
    with service(registry(), "broken") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_FAILED
    assert "no engine could start: engine slot is failed: no such checkpoint" in err
    assert "curl" not in out


def test_a_registry_that_cannot_be_bound_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r'unknown aggregator kind "frist"; did you mean "first"'):
        build_service(registry(aggregator={"kind": "frist"}), Path(), lambda *_: FakeEngine("slot"))
    with pytest.raises(ConfigError, match="cannot be imported"):
        build_service(registry(aggregator={"kind": "no.such:Class"}), Path(), lambda *_: FakeEngine("slot"))


def test_a_default_router_that_is_a_built_in_need_not_be_listed() -> None:
    bound = build_service(registry(), Path(), lambda *_: FakeEngine("slot"))
    assert set(bound.generations.current.routers) == {"random"}


async def test_an_expert_on_a_remote_host_answers_through_the_whole_service(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    upstream = await loop.create_server(lambda: MockUpstream(delay_s=0.0), "127.0.0.1", 0)
    port = upstream.sockets[0].getsockname()[1]
    host = {"id": "far", "kind": "remote", "url": f"http://127.0.0.1:{port}"}
    of = registry(pool={"hosts": [host]}, experts=[{"id": "sums", "host": "far", "model": "mock"}])
    async with upstream, serving(build_service(of, tmp_path)) as url, httpx.AsyncClient() as client:
        body = (await client.post(f"{url}/v1/chat/completions", json=ASK)).json()
    assert body["choices"][0]["message"]["content"] == "Forty-two."
    assert (body["model"], body["coe"]["expert"]) == ("sums", "sums")
