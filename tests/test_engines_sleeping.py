"""One process for each expert: the protocol of sleeping and waking, and crashes of one of them."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from coe.core.errors import EngineError
from coe.core.types import Engine, EngineCall
from coe.engines.vllm.process import ManagedProcess
from coe.engines.vllm.sleep_mode import SleepEngine
from coe.registry.schema import Expert
from tests.support.engine_hosts import adapters, experts, kill_command, process_of, sleepers
from tests.support.tiny_models import TinyFamily
from tests.support.waiting import until

pytestmark = pytest.mark.slow  # each starts processes that stand in for vLLM

CALL = EngineCall("completions", {"prompt": "Once", "max_tokens": 5})


async def text(engine: Engine, expert: str) -> str:
    answer = await engine.ask(expert, CALL)
    body = json.loads(b"".join([chunk async for chunk in answer.chunks()]))
    await answer.aclose()
    return str(body["choices"][0]["text"])


def process(engine: SleepEngine, expert: str) -> ManagedProcess:
    return process_of(engine._places[expert].life)


async def test_two_experts_can_be_awake_and_keep_their_processes_while_asleep(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    engine = sleepers(tiny_family, tmp_path)
    await engine.start()
    assert (engine.stats().state, engine.stats().awake) == ("ready", ())
    await engine.ensure_ready("a")
    await engine.ensure_ready("b")
    assert engine.stats().awake == ("a", "b")
    first, old = await text(engine, "a"), process(engine, "a")
    for level in (1, 2):
        await engine.sleep("a", level)
        assert engine.stats().awake == ("b",)
        with pytest.raises(EngineError) as refused:
            await engine.ask("a", CALL)
        assert refused.value.code == "expert_not_ready"
        await engine.ensure_ready("a")
        assert (await text(engine, "a"), process(engine, "a")) == (first, old)
    await engine.stop()


async def test_a_crash_takes_down_one_expert_only(tiny_family: TinyFamily, tmp_path: Path) -> None:
    engine = sleepers(tiny_family, tmp_path)
    await engine.ensure_ready("a")
    await engine.ensure_ready("b")
    first = await text(engine, "a")
    kill_command(process(engine, "a"))
    await until(lambda: engine.stats().awake == ("b",))
    await until(lambda: "exit code -9" in str(engine.stats().last_error))
    await engine.ensure_ready("a")
    assert await text(engine, "a") == first
    await engine.stop()


async def test_the_process_of_an_expert_that_leaves_is_stopped_when_its_work_is_done(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    engine = sleepers(tiny_family, tmp_path)
    await engine.ensure_ready("a")
    await engine.ensure_ready("b")
    await engine.sleep("b")
    leaving, dormant = process(engine, "a"), process(engine, "b")
    await engine.set_experts(experts(tiny_family, "wide"))
    assert not dormant.running
    assert await text(engine, "a")
    await engine.sleep("a", 2)
    assert not leaving.running
    await engine.stop()


async def test_an_expert_with_another_checkpoint_gets_another_process(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    engine = sleepers(tiny_family, tmp_path)
    await engine.ensure_ready("a")
    before, old = await text(engine, "a"), process(engine, "a")
    await engine.set_experts((Expert(id="a", host="slot", model=str(tiny_family.b)),))
    await engine.sleep("a", 2)
    await engine.ensure_ready("a")
    assert not old.running
    assert await text(engine, "a") != before
    await engine.stop()


async def test_a_start_that_fails_says_why(tiny_family: TinyFamily, tmp_path: Path) -> None:
    engine = sleepers(tiny_family, tmp_path, "die_at_start")
    with pytest.raises(EngineError, match="this checkpoint cannot be loaded"):
        await engine.ensure_ready("a")
    assert engine.stats().awake == ()
    assert "this checkpoint cannot be loaded" in str(engine.stats().last_error)
    await engine.stop()


async def test_adapters_and_the_base_are_awake_together_and_answer_differently(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    engine = adapters(tiny_family, tmp_path)
    await engine.ensure_ready("a")
    await engine.ensure_ready("lora")
    assert engine.stats().awake == ("a", "lora")
    assert await text(engine, "a") != await text(engine, "lora")
    await engine.sleep("lora")
    assert engine.stats().awake == ("a",)
    await engine.stop()


async def test_a_crash_of_the_base_takes_down_all_adapters_and_the_next_call_restarts_it(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    engine = adapters(tiny_family, tmp_path)
    await engine.ensure_ready("a")
    await engine.ensure_ready("lora")
    before = await text(engine, "lora")
    kill_command(process_of(engine._life))
    await until(lambda: engine.stats().state == "failed")
    assert engine.stats().awake == ()
    await engine.ensure_ready("lora")
    assert engine.stats().awake == ("lora",)
    assert await text(engine, "lora") == before
    await engine.stop()


async def test_an_adapter_load_that_was_cut_off_is_done_again(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    engine = adapters(tiny_family, tmp_path)
    await engine.start()
    await engine._life.server.load_adapter("lora", tiny_family.lora)  # the answer was lost
    engine._doubtful.add("lora")
    await engine.ensure_ready("lora")
    assert engine.stats().awake == ("lora",)
    await engine.stop()


async def test_an_adapter_for_another_base_is_refused(tiny_family: TinyFamily, tmp_path: Path) -> None:
    engine = adapters(tiny_family, tmp_path)
    spec = engine._experts["lora"].model_copy(update={"model": str(tiny_family.b)})
    engine._experts._by_id["lora"] = spec
    with pytest.raises(EngineError, match="base of its host"):
        await engine.ensure_ready("lora")


@pytest.mark.parametrize("moment", ["awake", "asleep", "going to sleep"])
async def test_a_silent_process_of_an_expert_is_ended_and_replaced(
    moment: str, tiny_family: TinyFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coe.engines.vllm.server.HEALTH_LIMIT_S", 0.5)
    engine = sleepers(tiny_family, tmp_path)
    engine._places["a"].life._silence_s = 3.0
    await engine.ensure_ready("a")
    await engine.ensure_ready("b")
    silent = process(engine, "a")
    if moment == "asleep":
        await engine.sleep("a")
    kill_command(silent, signal.SIGSTOP)
    if moment == "going to sleep":
        with pytest.raises(EngineError, match="did not answer"):
            await engine.sleep("a")
    await until(lambda: not silent.running)
    assert engine.stats().awake == ("b",)
    assert "no sign of life" in str(engine.stats().last_error)
    await engine.ensure_ready("a")
    assert process(engine, "a") is not silent
    assert await text(engine, "a")
    await engine.stop()


async def test_waking_a_silent_process_ends_and_the_next_call_gets_another_one(
    tiny_family: TinyFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coe.engines.vllm.server.HEALTH_LIMIT_S", 0.5)
    engine = sleepers(tiny_family, tmp_path)
    await engine.ensure_ready("a")
    await engine.sleep("a")
    silent = process(engine, "a")
    kill_command(silent, signal.SIGSTOP)
    with pytest.raises(EngineError, match="did not answer"):
        await engine.ensure_ready("a")
    assert not silent.running
    await engine.ensure_ready("a")
    assert engine.stats().awake == ("a",)
    await engine.stop()


@pytest.mark.parametrize("act", ["loads", "waits"])
async def test_a_silent_base_of_adapters_is_ended_and_replaced(
    act: str, tiny_family: TinyFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coe.engines.vllm.lifecycle.SIGN_S", 0.3)
    engine = adapters(tiny_family, tmp_path, **({"silence_timeout_s": 3.0} if act == "waits" else {}))
    await engine.ensure_ready("a")
    silent = process_of(engine._life)
    kill_command(silent, signal.SIGSTOP)
    started = engine._host
    if act == "loads":
        engine._host = started.model_copy(update={"start_timeout_s": 1.0})
        with pytest.raises(EngineError, match="took longer than"):
            await engine.ensure_ready("lora")
    await until(lambda: engine.stats().state == "failed")
    assert engine.stats().awake == ()
    engine._host = started
    await engine.ensure_ready("lora")
    assert process_of(engine._life) is not silent
    assert engine.stats().awake == ("lora",)
    await engine.stop()


async def test_a_slow_load_of_an_adapter_ends_no_process_that_answers(
    tiny_family: TinyFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are asked in it."""

    async def slow(*_: object) -> None:
        await asyncio.sleep(60)

    engine = adapters(tiny_family, tmp_path)
    await engine.ensure_ready("a")
    before, started = process_of(engine._life), engine._host
    monkeypatch.setattr(engine._life.server, "load_adapter", slow)
    engine._host = started.model_copy(update={"start_timeout_s": 0.5})
    with pytest.raises(EngineError, match="took longer than"):
        await engine.ensure_ready("lora")
    assert process_of(engine._life) is before
    assert await text(engine, "a")
    await engine.stop()
