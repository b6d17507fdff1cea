"""`coe deploy --local` on real Ray: two of them on one machine, which of them the other commands take, and
what clients get when one is told to stop and when Ray dies in the other. vLLM is the stand-in."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.waiting import until

pytestmark = [pytest.mark.real_ray, pytest.mark.timeout(900)]

START_S, END_S = 400.0, 120.0
"""On a slow machine that does other work."""
COE = [sys.executable, "-m", "coe.cli"]
ASK = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}
LONG = {**ASK, "stream": True, "max_tokens": 100_000}


class Deployed:
    """A `coe deploy --local` in a folder of its own."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        from tests.support.ray_cluster import free_port, write_local_registry

        folder.mkdir()
        port = free_port()
        write_local_registry(folder, port, max_running=1)
        self.folder, self.url = folder, f"http://127.0.0.1:{port}"
        self._output = held.enter_context((folder / "said.txt").open("w"))
        self._held = held

    @property
    def said(self) -> str:
        return (self.folder / "said.txt").read_text()

    def _begin(self) -> subprocess.Popen[bytes]:
        command = [*COE, "deploy", "--local"]
        process = subprocess.Popen(command, cwd=self.folder, stdout=self._output, stderr=self._output)
        self._held.callback(process.wait)
        self._held.callback(process.kill)
        return process

    async def start(self) -> None:
        """Until it answers. Ray gives its agents 15 s to start, which is not enough on a busy machine."""
        for _ in range(4):
            self.process = self._begin()
            await until(lambda: self._announced() or self.process.poll() is not None, START_S)
            if self._announced() or "too busy to start it" not in self.said:
                break
        assert self._announced(), self.said
        async with httpx.AsyncClient(base_url=self.url, timeout=END_S) as http:
            await until(lambda: _is_answered(http), END_S)

    def _announced(self) -> bool:
        return f"answers at {self.url}/v1" in self.said

    def processes(self) -> dict[int, str]:
        """Their names, without those of the command itself."""
        return {each.pid: each.name() for each in psutil.Process(self.process.pid).children(recursive=True)}

    async def ended(self, pids: dict[int, str]) -> int:
        """The exit code, once nothing is left."""
        await until(lambda: self.process.poll() is not None, END_S)
        await until(lambda: not [name for pid, name in pids.items() if psutil.pid_exists(pid)], END_S)
        return self.process.returncode

    async def coe(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output and errors of a command in the folder."""
        process = await asyncio.create_subprocess_exec(
            *COE, *arguments, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()


async def _is_answered(http: httpx.AsyncClient) -> bool:
    return (await http.post("/v1/chat/completions", json=ASK)).status_code == 200


@asynccontextmanager
async def under_way(url: str) -> AsyncIterator[asyncio.Task[str]]:
    """A stream that would go on for ever: all that came of it, once it has ended or was cut."""
    begun, text = asyncio.Event(), []

    async def read() -> str:
        async with httpx.AsyncClient(base_url=url, timeout=END_S) as http:
            with suppress(httpx.RemoteProtocolError, httpx.ReadError):
                async with http.stream("POST", "/v1/chat/completions", json=LONG) as response:
                    async for line in response.aiter_lines():
                        text.append(line)
                        begun.set()
        return "\n".join(text)

    task = asyncio.create_task(read())
    try:
        async with asyncio.timeout(END_S):
            await begun.wait()
        yield task
    finally:
        task.cancel()


async def test_each_local_cluster_is_its_folders_own_and_nothing_of_it_stays(tmp_path: Path) -> None:
    with ExitStack() as held:
        one, two = Deployed(tmp_path / "one", held), Deployed(tmp_path / "two", held)
        await one.start()
        await two.start()
        await check_whose_cluster_is_whose(one, two)
        await check_that_the_command_ends_with_ray(one)
        assert (await two.coe("status"))[0] == 0
        await check_that_who_waits_is_refused_when_it_is_told_to_stop(two)


async def check_whose_cluster_is_whose(one: Deployed, two: Deployed) -> None:
    address = json.loads((two.folder / "var" / "cluster.json").read_text())["address"]
    *found, second, tokenless = await asyncio.gather(
        one.coe("status", "--json"),
        two.coe("status", "--json"),
        one.coe("deploy", "--local", "--port=1"),
        one.coe("status", "--address", address),  # Ray looks for the token if it is told to
    )
    for each, (code, out, err) in zip((one, two), found, strict=True):
        assert code == 0, err
        assert json.loads(out)["url"] == each.url
    assert second[0] == tokenless[0] == 2
    assert f"runs in {one.folder} already (process {one.process.pid})" in second[2]
    assert "RAY_AUTH_MODE=token" in tokenless[2]


async def check_that_the_command_ends_with_ray(one: Deployed) -> None:
    pids = one.processes()
    (raylet,) = [pid for pid, name in pids.items() if name == "raylet"]
    async with under_way(one.url) as stream:
        os.kill(raylet, signal.SIGKILL)
        assert await one.ended(pids) == 1
        assert "[DONE]" not in await stream
    assert f"Ray's raylet (process {raylet}) has died" in one.said
    async with httpx.AsyncClient(base_url=one.url) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/v1/models")


async def check_that_who_waits_is_refused_when_it_is_told_to_stop(two: Deployed) -> None:
    pids = two.processes()
    async with under_way(two.url) as stream, httpx.AsyncClient(base_url=two.url, timeout=END_S) as http:
        waiting = asyncio.create_task(http.post("/v1/chat/completions", json=ASK))

        async def queued() -> bool:
            return 'coe_expert_queued{expert="a"} 1.0' in (await http.get("/metrics")).text

        await until(queued, END_S)
        two.process.send_signal(signal.SIGINT)
        refused = await waiting
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
        last = json.loads((await stream).strip().rsplit("data: ", 1)[1])
        assert last["error"]["code"] == "stopping"
    assert await two.ended(pids) == 0
    assert "Traceback" not in two.said
