"""Engines against real vLLM on the CPU, with tiny random models.

All tests share two processes and one restart, since a start takes about 40 s: the order of the tests
matters, and the one that kills the process is the last that uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from coe.core.errors import EngineError, ExpertRefused
from coe.core.types import EngineCall
from coe.engines.remote.openai_url import RemoteEngine
from coe.engines.vllm.canary import PROMPT
from coe.engines.vllm.in_place import InPlaceEngine
from coe.engines.vllm.lora import AdapterEngine
from coe.engines.vllm.process import ManagedProcess, group_lives
from coe.engines.vllm.sleep_mode import SleepEngine
from coe.registry.hosts import AdapterHost, RemoteHost, VllmHost
from coe.registry.schema import Expert
from coe.testing.conformance_engine import check_engine
from tests.support.engine_hosts import CPU, experts, kill_command, lora_experts, process_of
from tests.support.tiny_models import TinyFamily
from tests.support.waiting import until

START_TIMEOUT_S = 1500.0
pytestmark = [
    pytest.mark.real_vllm,
    pytest.mark.timeout(1800),
    pytest.mark.asyncio(loop_scope="session"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def slot(
    tiny_family: TinyFamily, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[InPlaceEngine]:
    host = VllmHost(id="slot", start_timeout_s=START_TIMEOUT_S, **CPU)
    members = experts(tiny_family, "a", "b", "tied", "wide", "absent")
    engine = InPlaceEngine(host, members, tmp_path_factory.mktemp("slot"))
    await engine.start()
    yield engine
    await engine.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def slot_url(slot: InPlaceEngine) -> AsyncIterator[str]:
    """The slot's server on a TCP port, as one that others started."""
    socket = slot._life.server._client.upstream.socket
    assert socket is not None
    server = await asyncio.start_server(lambda r, w: _forward(r, w, socket), "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, socket: Path) -> None:
    inner_reader, inner_writer = await asyncio.open_unix_connection(str(socket))
    await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    sink.close()


async def answer(engine: Any, expert: str, **fields: Any) -> dict[str, Any]:
    body = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "logprobs": 3, **fields}
    reply = await engine.ask(expert, EngineCall("completions", body))
    try:
        return dict(json.loads(b"".join([chunk async for chunk in reply.chunks()])))
    finally:
        await reply.aclose()


async def test_a_slot_keeps_the_contract(slot: InPlaceEngine) -> None:
    await check_engine(slot, "b", stop=False)


async def test_swapping_back_and_forth_gives_each_experts_own_answers(slot: InPlaceEngine) -> None:
    seen: dict[str, list[Any]] = {"a": [], "b": []}
    for expert in ("a", "b", "a", "b", "a"):
        await slot.ensure_ready(expert)
        choice = (await answer(slot, expert))["choices"][0]
        seen[expert].append((choice["text"], choice["logprobs"]["token_logprobs"]))
    assert all(again == seen["a"][0] for again in seen["a"])
    assert all(again == seen["b"][0] for again in seen["b"])
    assert seen["a"][0] != seen["b"][0]


@pytest.mark.parametrize(
    ("expert", "code"),
    [("tied", "checkpoint_tied"), ("wide", "checkpoint_mismatch"), ("absent", "checkpoint_missing")],
)
async def test_a_bad_checkpoint_is_refused_and_the_slot_stays_as_it_was(
    slot: InPlaceEngine, expert: str, code: str
) -> None:
    await slot.ensure_ready("a")
    before = await answer(slot, "a")
    with pytest.raises(EngineError) as refused:
        await slot.ensure_ready(expert)
    assert refused.value.code == code
    assert slot.stats().awake == ("a",)
    assert (await answer(slot, "a"))["choices"] == before["choices"]


async def test_a_tied_checkpoint_forced_in_is_noticed_in_the_log(
    slot: InPlaceEngine, tiny_family: TinyFamily
) -> None:
    await slot.ensure_ready("a")
    right = await slot._life.server.fingerprint(PROMPT)
    with pytest.raises(EngineError, match="did not load all weights"):
        await slot._life.server.swap_weights(str(tiny_family.tied))
    await slot._life.server.swap_weights(str(tiny_family.a))
    assert (await slot._life.server.fingerprint(PROMPT)).distance(right) < 0.001


async def test_closing_a_stream_frees_the_engine(slot: InPlaceEngine) -> None:
    await slot.ensure_ready("a")
    body = {"prompt": "Once", "max_tokens": 200, "ignore_eos": True, "stream": True, "temperature": 0}
    streams = [await slot.ask("a", EngineCall("completions", body)) for _ in range(4)]
    for stream in streams:
        await anext(stream.chunks())
    for stream in streams:
        await stream.aclose()
    for _ in range(100):
        if await running_requests(slot) == 0:
            break
        await asyncio.sleep(0.1)
    assert await running_requests(slot) == 0
    await slot.ensure_ready("b")


async def test_a_swap_that_was_cancelled_leaves_no_wrong_weights(slot: InPlaceEngine) -> None:
    await slot.ensure_ready("a")
    before = await answer(slot, "a")
    for delay_s in (0.0, 0.05, 0.2):
        swap = asyncio.create_task(slot.ensure_ready("b"))
        await asyncio.sleep(delay_s)
        swap.cancel()
        await asyncio.gather(swap, return_exceptions=True)
        await slot.ensure_ready("a")
        assert (await answer(slot, "a"))["choices"] == before["choices"]


async def running_requests(engine: InPlaceEngine) -> float:
    session = engine._life.server._client._open()
    async with session.get("http://vllm/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


async def test_a_prompt_too_long_is_the_clients_error(slot: InPlaceEngine) -> None:
    await slot.ensure_ready("a")
    with pytest.raises(ExpertRefused) as refused:
        await answer(slot, "a", prompt="word " * 400)
    assert refused.value.http_status == 400
    assert refused.value.code == "context_length_exceeded"


async def test_a_remote_engine_reaches_vllm_by_url(
    slot: InPlaceEngine, slot_url: str, tmp_path: Path
) -> None:
    await slot.ensure_ready("a")
    host = RemoteHost(id="far", kind="remote", url=slot_url)
    remote = RemoteEngine(host, (Expert(id="far-a", host="far", model="coe-slot"),), tmp_path)
    await check_engine(remote, "far-a", always_awake=True)


async def test_a_sleeping_engine_keeps_the_contract_on_a_server_that_runs_already(
    slot: InPlaceEngine, slot_url: str, tmp_path: Path
) -> None:
    await slot.ensure_ready("a")
    host = VllmHost(id="sleeper", swap="sleep", url=slot_url, device="cpu")
    engine = SleepEngine(host, (Expert(id="a", host="sleeper", model="coe-slot"),), tmp_path)
    await check_engine(engine, "a", stop=False)
    before = await answer(engine, "a")
    await engine.sleep("a", 2)
    await engine.ensure_ready("a")
    assert (await answer(engine, "a"))["choices"] == before["choices"]
    await engine.stop()


async def test_a_slot_on_a_server_that_runs_already_swaps_too(
    slot: InPlaceEngine, slot_url: str, tiny_family: TinyFamily, tmp_path: Path
) -> None:
    engine = InPlaceEngine(
        VllmHost(id="theirs", url=slot_url, device="cpu"), experts(tiny_family, "b", "a"), tmp_path
    )
    await check_engine(engine, "a")
    await slot._life.server.swap_weights(str(tiny_family.b))
    slot._loaded = slot._awake = None


async def test_a_killed_process_is_noticed_and_a_new_one_answers_as_the_reloaded_one_did(
    slot: InPlaceEngine,
) -> None:
    """So a reload gives the same log-probabilities as a start with that checkpoint."""
    await slot.ensure_ready("a")
    await slot.ensure_ready("b")
    before = await answer(slot, "b")
    swaps = slot.stats().swaps
    process = process_of(slot._life)
    kill_command(process)
    await until(lambda: slot.stats().state == "failed")
    assert slot.stats().awake == ()
    assert slot.stats().last_error is not None
    with pytest.raises(EngineError):
        await answer(slot, "b")
    await slot.ensure_ready("b")
    assert slot.stats().swaps == swaps, "it was started with another checkpoint"
    assert (await answer(slot, "b"))["choices"] == before["choices"]
    await until(lambda: not group_lives(process.group))  # no worker of the killed process is left


async def test_stopping_leaves_no_process(slot: InPlaceEngine) -> None:
    process = process_of(slot._life)
    await slot.stop()
    await until(lambda: not group_lives(process.group))
    assert slot.stats().state == "stopped"


async def test_adapters_load_unload_and_answer_together(tiny_family: TinyFamily, tmp_path: Path) -> None:
    settings = {"start_timeout_s": START_TIMEOUT_S, **CPU}
    host = AdapterHost(id="loras", kind="adapter", base=str(tiny_family.a), **settings)
    engine = AdapterEngine(host, lora_experts(tiny_family), tmp_path)
    try:
        await engine.start()
        await engine.ensure_ready("a")
        await engine.ensure_ready("lora")
        base, lora = await asyncio.gather(answer(engine, "a"), answer(engine, "lora"))
        assert base["choices"][0]["text"] != lora["choices"][0]["text"]
        assert lora["model"] == "lora"
        await check_engine(engine, "lora", stop=False)
        assert (await answer(engine, "lora"))["choices"][0]["text"] == lora["choices"][0]["text"]
        await check_engine(engine, "a", stop=False)
    finally:
        await engine.stop()


def engine_core(process: ManagedProcess) -> int:
    """vLLM's engine process, which is not the one that serves its API."""
    [found] = [
        child.pid
        for child in psutil.Process(process.group).children(recursive=True)
        if "EngineCore" in " ".join(child.cmdline())
    ]
    return found


async def test_an_engine_process_that_stops_or_dies_at_any_moment_is_replaced(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    """vLLM's own /health says that all is well in the first case, and its reload never ends in the second."""
    limits = {"start_timeout_s": START_TIMEOUT_S, "silence_timeout_s": 15.0}
    engine = InPlaceEngine(VllmHost(id="slot", **limits, **CPU), experts(tiny_family, "a", "b"), tmp_path)
    await engine.start()
    try:
        await engine.ensure_ready("a")
        before = await answer(engine, "a")
        first = process_of(engine._life)
        os.kill(engine_core(first), signal.SIGSTOP)
        await until(lambda: engine.stats().state == "failed", timeout_s=15.0 * 4 / 3 + 10)
        await until(lambda: not group_lives(first.group))
        await engine.ensure_ready("a")
        assert (await answer(engine, "a"))["choices"] == before["choices"]
        second = process_of(engine._life)
        os.kill(engine_core(second), signal.SIGSTOP)
        load = asyncio.create_task(engine.ensure_ready("b"))
        await asyncio.sleep(1.0)
        os.kill(engine_core(second), signal.SIGKILL)
        with pytest.raises(EngineError):
            await asyncio.wait_for(load, 40)
    finally:
        await engine.stop()
    await until(lambda: not group_lives(first.group) and not group_lives(second.group))
