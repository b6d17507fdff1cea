"""The slot's behaviour when all is well and when it is not, on a stand-in server process."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from coe.core.errors import EngineError, ExpertRefused
from coe.core.types import EngineCall
from coe.engines.address import vllm_body
from coe.engines.upstream import AnswerReader
from coe.engines.vllm.in_place import InPlaceEngine
from coe.engines.vllm.process import group_lives
from coe.registry.hosts import VllmHost
from coe.registry.schema import Expert
from tests.support.engine_hosts import CPU, FAKE, experts, kill_command, process_of, sleepers, slot
from tests.support.tiny_models import TinyFamily, write_checkpoint
from tests.support.waiting import until

pytestmark = pytest.mark.slow  # each starts processes that stand in for vLLM

CALL = EngineCall("completions", {"prompt": "Once", "max_tokens": 5})


@asynccontextmanager
async def running(engine: InPlaceEngine) -> AsyncIterator[InPlaceEngine]:
    try:
        yield engine
    finally:
        await engine.stop()


async def text(engine: InPlaceEngine, expert: str) -> str:
    answer = await engine.ask(expert, CALL)
    body = json.loads(b"".join([chunk async for chunk in answer.chunks()]))
    await answer.aclose()
    return str(body["choices"][0]["text"])


async def test_the_first_expert_comes_with_the_process_and_the_next_by_a_swap(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    async with running(slot(tiny_family, tmp_path)) as engine:
        assert engine.stats().state == "stopped"
        await engine.start()
        await engine.ensure_ready("a")
        assert (engine.stats().awake, engine.stats().swaps) == (("a",), 0)
        first = await text(engine, "a")
        await engine.ensure_ready("b")
        assert (engine.stats().awake, engine.stats().swaps) == (("b",), 1)
        assert await text(engine, "b") != first
        await engine.ensure_ready("a")
        assert await text(engine, "a") == first


def test_a_private_prompt_shares_no_prefix_with_any_other_request() -> None:
    assert vllm_body(CALL, "served") == {**CALL.body, "model": "served"}
    salts = [vllm_body(replace(CALL, private=True), "served")["cache_salt"] for _ in range(2)]
    assert len({*salts, ""}) == 3


async def test_waking_the_expert_that_is_still_loaded_costs_no_swap(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    async with running(slot(tiny_family, tmp_path)) as engine:
        await engine.ensure_ready("b")
        await engine.sleep("b")
        assert engine.stats().awake == ()
        await engine.ensure_ready("b")
        assert (engine.stats().awake, engine.stats().swaps) == (("b",), 0)


async def test_an_expert_that_is_not_loaded_is_not_asked(tiny_family: TinyFamily, tmp_path: Path) -> None:
    async with running(slot(tiny_family, tmp_path)) as engine:
        await engine.ensure_ready("a")
        with pytest.raises(EngineError) as refused:
            await engine.ask("b", CALL)
        assert refused.value.code == "expert_not_ready"


async def test_a_process_that_dies_at_its_start_shows_the_end_of_its_log(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    async with running(slot(tiny_family, tmp_path, "die_at_start")) as engine:
        with pytest.raises(EngineError, match="this checkpoint cannot be loaded") as failed:
            await engine.start()
        assert failed.value.hint is not None
        assert "slot.log" in failed.value.hint
        assert engine.stats().state == "failed"
        assert "this checkpoint cannot be loaded" in str(engine.stats().last_error)


async def test_a_process_that_is_never_healthy_is_given_up_and_stopped(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    engine = slot(tiny_family, tmp_path, "never_healthy", start_timeout_s=3.0)
    with pytest.raises(EngineError, match="not ready after 3 s"):
        await engine.start()
    assert engine.stats().state == "failed"


async def test_a_program_that_does_not_exist_is_an_error(tiny_family: TinyFamily, tmp_path: Path) -> None:
    host = VllmHost(id="slot", **CPU)
    engine = InPlaceEngine(host, experts(tiny_family, "a"), tmp_path, program=("no-such-program",))
    with pytest.raises(EngineError, match="no-such-program"):
        await engine.start()


async def test_one_missing_checkpoint_does_not_keep_the_others_from_starting(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    members = experts(tiny_family, "absent", "b")
    host = VllmHost(id="slot", start_timeout_s=60, **CPU)
    async with running(InPlaceEngine(host, members, tmp_path, program=FAKE)) as engine:
        await engine.start()
        with pytest.raises(EngineError, match="does not exist") as missing:
            await engine.ensure_ready("absent")
        assert "experts.yaml" in str(missing.value.hint)
        await engine.ensure_ready("b")
        assert engine.stats().swaps == 0


async def test_a_slot_without_any_checkpoint_says_what_to_do(tiny_family: TinyFamily, tmp_path: Path) -> None:
    engine = InPlaceEngine(VllmHost(id="slot"), experts(tiny_family, "absent"), tmp_path, program=FAKE)
    with pytest.raises(EngineError) as missing:
        await engine.start()
    assert missing.value.code == "checkpoint_missing"
    assert engine.stats().state == "failed"


async def test_a_tied_checkpoint_is_taken_alone_and_refused_in_a_shared_slot(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    host = VllmHost(id="slot", start_timeout_s=60, **CPU)
    async with running(
        InPlaceEngine(host, experts(tiny_family, "a", "tied"), tmp_path, program=FAKE)
    ) as shared:
        await shared.ensure_ready("a")
        with pytest.raises(EngineError, match="tied embeddings"):
            await shared.ensure_ready("tied")
        assert shared.stats().awake == ("a",)
    async with running(InPlaceEngine(host, experts(tiny_family, "tied"), tmp_path, program=FAKE)) as alone:
        await alone.ensure_ready("tied")


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("log_corruption", "weights_corrupted", "did not load all weights"),
        ("ignore_reload", "canary_failed", "answers with the weights of"),
        ("nan", "canary_failed", "log-probabilities"),
        ("fail_reload", "engine_failed", "Internal server error"),
        ("keep_prefix_cache", "engine_failed", "prefix cache"),
    ],
)
async def test_a_load_that_went_wrong_is_never_served(
    tiny_family: TinyFamily, tmp_path: Path, fault: str, code: str, message: str
) -> None:
    canary = fault != "nan"
    async with running(slot(tiny_family, tmp_path, fault, canary=canary)) as engine:
        await engine.ensure_ready("a")
        engine._host = engine._host.model_copy(update={"canary": True})
        with pytest.raises(EngineError, match=message) as failed:
            await engine.ensure_ready("b")
        assert failed.value.code == code
        assert engine.stats().awake == ()
        assert engine.stats().last_error is not None
        for expert in ("a", "b"):
            with pytest.raises(EngineError):
                await engine.ask(expert, CALL)


async def test_after_a_failed_canary_the_next_call_loads_again(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    async with running(slot(tiny_family, tmp_path)) as engine:
        await engine.ensure_ready("a")
        await engine.ensure_ready("b")
        expected = await text(engine, "b")
        await engine.ensure_ready("a")
        same_process = process_of(engine._life)
        garble(engine, "b")
        with pytest.raises(EngineError) as failed:
            await engine.ensure_ready("b")
        assert failed.value.code == "canary_failed"
        ungarble(engine)
        await engine.ensure_ready("b")
        assert await text(engine, "b") == expected
        assert process_of(engine._life) is same_process
        assert engine.stats().last_error is None


async def test_a_slot_that_keeps_failing_gets_a_new_process(tiny_family: TinyFamily, tmp_path: Path) -> None:
    async with running(slot(tiny_family, tmp_path)) as engine:
        await engine.ensure_ready("b")
        await engine.ensure_ready("a")
        old = process_of(engine._life)
        garble(engine, "b")
        for _ in range(2):
            with pytest.raises(EngineError):
                await engine.ensure_ready("b")
        assert engine.stats().state == "failed"
        ungarble(engine)
        await engine.ensure_ready("b")
        assert process_of(engine._life) is not old


async def test_the_expert_that_stays_when_others_move_away_needs_no_new_process(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    async with running(slot(tiny_family, tmp_path)) as engine:
        for expert in ("a", "b", "a"):  # the process began with a
            await engine.ensure_ready(expert)
        process = process_of(engine._life)
        await engine.set_experts(experts(tiny_family, "b"))
        await engine.sleep("a")
        await engine.ensure_ready("b")
        assert process_of(engine._life) is process
        assert engine.stats().awake == ("b",)


def garble(engine: InPlaceEngine, expert: str) -> None:
    """Let the canary expect of ``expert`` what its weights do not say."""
    for source, seen in engine._canaries._seen.items():
        if source.name.endswith(f"/{expert}"):
            shifted = {token: value - 1 for token, value in seen.top_logprobs.items()}
            engine._canaries._seen[source] = type(seen)(seen.prompt, shifted)


def ungarble(engine: InPlaceEngine) -> None:
    engine._canaries._seen.clear()


async def test_a_recorded_canary_decides_already_at_the_first_load(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_family.b, copy)
    (copy / "canary.json").write_text(json.dumps({"prompt": "x", "top_logprobs": {"1": 5.0}}))
    host = VllmHost(id="slot", start_timeout_s=60, **CPU)
    member = experts(TinyFamily(tmp_path), "copy")
    engine = InPlaceEngine(host, member, tmp_path, program=FAKE)
    with pytest.raises(EngineError) as failed:
        await engine.ensure_ready("copy")
    assert failed.value.code == "canary_failed"
    await engine.stop()


async def test_weights_trained_anew_are_loaded_and_not_taken_for_corrupted(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    shutil.copytree(tiny_family.a, tmp_path / "one")
    shutil.copytree(tiny_family.b, tmp_path / "two")
    host = VllmHost(id="slot", start_timeout_s=60, **CPU)
    members = experts(TinyFamily(tmp_path), "one", "two")
    async with running(InPlaceEngine(host, members, tmp_path, program=FAKE)) as engine:
        await engine.ensure_ready("one")
        before = await text(engine, "one")
        write_checkpoint(tmp_path / "new", seed=9)
        (tmp_path / "new" / "model.safetensors").replace(tmp_path / "one" / "model.safetensors")
        await engine.ensure_ready("one")
        assert engine.stats().swaps == 1
        assert await text(engine, "one") != before


async def test_a_crash_during_a_swap_is_reported_as_such(tiny_family: TinyFamily, tmp_path: Path) -> None:
    async with running(slot(tiny_family, tmp_path, "die_at_reload")) as engine:
        await engine.ensure_ready("a")
        with pytest.raises(EngineError, match=r"(?s)exit code 9.*out of memory"):
            await engine.ensure_ready("b")
        assert engine.stats().state == "failed"


async def test_two_experts_with_equal_weights_may_answer_alike(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    shutil.copytree(tiny_family.a, tmp_path / "one")
    shutil.copytree(tiny_family.a, tmp_path / "two")
    host = VllmHost(id="slot", start_timeout_s=60, **CPU)
    members = experts(TinyFamily(tmp_path), "one", "two")
    async with running(InPlaceEngine(host, members, tmp_path, program=FAKE)) as engine:
        await engine.ensure_ready("one")
        await engine.ensure_ready("two")


async def test_a_killed_process_is_noticed_and_replaced_by_one_with_the_wanted_expert(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    async with running(slot(tiny_family, tmp_path)) as engine:
        await engine.ensure_ready("b")
        expected = await text(engine, "b")
        kill_command(process_of(engine._life))
        await until(lambda: engine.stats().state == "failed")
        assert engine.stats().awake == ()
        assert "exit code -9" in str(engine.stats().last_error)
        await engine.start()
        await engine.ensure_ready("b")
        assert await text(engine, "b") == expected
        assert engine.stats().swaps == 0, "the new process started with another expert"
        assert (tmp_path / "var/log/slot.previous.log").exists()


async def test_a_swap_that_was_cancelled_is_done_again(tiny_family: TinyFamily, tmp_path: Path) -> None:
    async with running(slot(tiny_family, tmp_path)) as engine:
        await engine.ensure_ready("a")
        body = {"prompt": "Once", "max_tokens": 100, "stream": True}
        answer = await engine.ask("a", EngineCall("completions", body))
        await anext(answer.chunks())
        swap = asyncio.create_task(engine.ensure_ready("b"))  # waits for the stream in /pause
        await asyncio.sleep(0.1)
        assert not swap.done()
        swap.cancel()
        await asyncio.gather(swap, return_exceptions=True)
        assert engine.stats().awake == ()
        await answer.aclose()
        await engine.ensure_ready("b")
        assert engine.stats().awake == ("b",)


async def test_a_start_that_was_cancelled_leaves_no_process(tiny_family: TinyFamily, tmp_path: Path) -> None:
    engine = slot(tiny_family, tmp_path, "never_healthy")
    start = asyncio.create_task(engine.start())
    await until(lambda: engine._life._server is not None)
    group = process_of(engine._life).group
    assert engine.stats().state == "starting"
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    await until(lambda: not group_lives(group))
    assert engine.stats().state == "stopped"


async def test_a_connection_that_breaks_in_mid_stream_is_an_error(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    async with running(slot(tiny_family, tmp_path, "break_stream")) as engine:
        await engine.ensure_ready("a")
        answer = await engine.ask("a", EngineCall("completions", {"prompt": "Once", "stream": True}))
        with pytest.raises(EngineError, match="did not answer"):
            async for _ in answer.chunks():
                pass
        await answer.aclose()


async def test_an_error_inside_a_stream_is_an_error(tiny_family: TinyFamily, tmp_path: Path) -> None:
    async with running(slot(tiny_family, tmp_path, "error_in_stream")) as engine:
        await engine.ensure_ready("a")
        answer = await engine.ask("a", EngineCall("completions", {"prompt": "Once", "stream": True}))
        reader = AnswerReader("a", "completions", stream=True, content_type=answer.content_type)
        with pytest.raises(EngineError, match="EngineCore died"):
            async for raw in answer.chunks():
                reader.feed(raw)
        await answer.aclose()


async def test_a_prompt_too_long_is_the_clients_error(tiny_family: TinyFamily, tmp_path: Path) -> None:
    async with running(slot(tiny_family, tmp_path)) as engine:
        await engine.ensure_ready("a")
        with pytest.raises(ExpertRefused) as refused:
            await engine.ask("a", EngineCall("completions", {"prompt": "word " * 1000}))
        assert (refused.value.http_status, refused.value.code) == (400, "context_length_exceeded")


async def test_a_process_that_falls_silent_is_ended_and_the_next_load_starts_another(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    async with running(slot(tiny_family, tmp_path, silence_timeout_s=0.6)) as engine:
        await engine.ensure_ready("a")
        first = process_of(engine._life)
        kill_command(first, signal.SIGSTOP)
        await until(lambda: engine.stats().state == "failed")
        assert "no sign of life" in str(engine.stats().last_error)
        await until(lambda: not group_lives(first.group))  # the killed are reaped a moment later
        await engine.ensure_ready("a")
        assert process_of(engine._life) is not first
        assert engine.stats().awake == ("a",)


async def test_a_process_that_answers_is_never_taken_for_silent(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    async with running(slot(tiny_family, tmp_path, silence_timeout_s=3.0)) as engine:
        await engine.ensure_ready("a")
        before = process_of(engine._life)
        await asyncio.sleep(4.5)
        assert process_of(engine._life) is before
        assert engine.stats().state == "ready"


@pytest.mark.parametrize("limit_s", [0.5, None], ids=["given up by the pool", "given up by itself"])
async def test_a_load_into_a_silent_process_ends_and_the_next_one_gets_a_new_process(
    limit_s: float | None, tiny_family: TinyFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coe.engines.vllm.server.RESUME_LIMIT_S", 0.2)
    monkeypatch.setattr("coe.engines.vllm.server.HEALTH_LIMIT_S", 0.5)
    async with running(slot(tiny_family, tmp_path)) as engine:
        await engine.ensure_ready("a")
        before = process_of(engine._life)
        kill_command(before, signal.SIGSTOP)
        with pytest.raises((EngineError, TimeoutError)):
            async with asyncio.timeout(limit_s):
                await engine.ensure_ready("b")
        assert engine.stats().awake == ()
        await engine.ensure_ready("b")
        assert process_of(engine._life) is not before
        await until(lambda: not group_lives(before.group))
        assert engine.stats().awake == ("b",)


@pytest.mark.parametrize("stopped", ["the command", "its leash", "both"])
async def test_a_stopped_process_whose_end_nobody_waits_for_is_ended_all_the_same(
    stopped: str, tiny_family: TinyFamily, tmp_path: Path
) -> None:
    async with running(slot(tiny_family, tmp_path)) as engine:
        await engine.ensure_ready("a")
        process, life = process_of(engine._life), engine._life
        if stopped != "its leash":
            kill_command(process, signal.SIGSTOP)
        if stopped != "the command":
            os.kill(process.group, signal.SIGSTOP)
        for _ in range(2):  # given up while it waits for the end, as by a load's time limit
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await life.stop()
        await life.stop()
        assert not group_lives(process.group)
        await engine.ensure_ready("b")
        assert engine.stats().awake == ("b",)


async def test_a_load_that_waits_for_an_engine_that_died_meanwhile_ends(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    async with running(slot(tiny_family, tmp_path, "hang_at_reload")) as engine:
        await engine.ensure_ready("a")
        async with asyncio.timeout(20):
            with pytest.raises(EngineError):
                await engine.ensure_ready("b")


async def test_generation_goes_on_after_a_reload_that_failed(tiny_family: TinyFamily, tmp_path: Path) -> None:
    async with running(slot(tiny_family, tmp_path, "fail_reload")) as engine:
        await engine.ensure_ready("a")
        with pytest.raises(EngineError):
            await engine.ensure_ready("b")
        assert await engine._life.server._client.get("/is_paused") == {"is_paused": False}


async def test_a_disk_that_stalls_holds_up_nobody_else(tiny_family: TinyFamily, tmp_path: Path) -> None:
    stalled = tmp_path / "stalled"
    shutil.copytree(tiny_family.b, stalled)
    weights = next(stalled.glob("*.safetensors"))
    weights.unlink()
    os.mkfifo(weights)
    members = [*experts(tiny_family, "a"), Expert(id="slow", host="slot", model=str(stalled))]
    engine = InPlaceEngine(
        VllmHost(id="slot", start_timeout_s=60, env={"FAKE_VLLM_FAULTS": ""}, **CPU),
        members,
        tmp_path,
        program=FAKE,
    )
    async with running(engine):
        await engine.ensure_ready("a")
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await engine.ensure_ready("slow")
        assert time.monotonic() - began < 5, "the loop went on, or the time-out could not have come"
        assert await text(engine, "a")


async def test_a_start_from_a_disk_that_stalls_ends_within_its_limit(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    stalled = tmp_path / "stalled"
    stalled.mkdir()
    os.mkfifo(stalled / "config.json")
    host = VllmHost(id="slot", start_timeout_s=0.5, **CPU)
    engine = InPlaceEngine(host, [Expert(id="slow", host="slot", model=str(stalled))], tmp_path, program=FAKE)
    with pytest.raises(EngineError, match="could not be read within"):
        await engine.start()
    assert engine.stats().state == "failed"


@pytest.mark.parametrize("kind", ["in place", "asleep"])
async def test_a_start_that_cannot_write_its_log_ends_within_its_limit(
    kind: str, tiny_family: TinyFamily, tmp_path: Path
) -> None:
    (tmp_path / "var/log").mkdir(parents=True)
    name = "slot.log" if kind == "in place" else "slot-a.log"
    os.mkfifo(tmp_path / "var/log" / name)
    made = slot if kind == "in place" else sleepers
    engine = made(tiny_family, tmp_path, start_timeout_s=1.0)
    with pytest.raises(EngineError, match="not started within"):
        await engine.start()
        await engine.ensure_ready("a")
    await engine.stop()
