"""The contract of :class:`coe.core.types.Engine`, as a check that built-in and third-party engines run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from coe.core.errors import CoeError, EngineError
from coe.core.types import Engine, EngineCall, ExpertId, ExpertSpec

QUESTION = ({"role": "user", "content": "What is the capital of France?"},)


class EngineContractError(AssertionError):
    """An engine that does not keep its contract; the message says which part."""


@dataclass(frozen=True)
class Adoption:
    """Experts for the check of ``set_experts``: those that the engine was built with, and one that may
    join."""

    present: tuple[ExpertSpec, ...]
    newcomer: ExpertSpec


async def check_engine(
    engine: Engine,
    expert: ExpertId,
    *,
    stop: bool = True,
    always_awake: bool = False,
    adoption: Adoption | None = None,
) -> None:
    """Raises EngineContractError where ``engine`` breaks its contract for ``expert``, one that works.

    Starts the engine, loads the expert, asks it, puts it to sleep and wakes it; stops the engine at the
    end unless ``stop`` is false. Takes as long as two loads and five short answers. An engine whose experts
    are ``always_awake`` answers as soon as it is started, also after ``sleep``. With an ``adoption`` (three
    more loads) experts join and leave while it runs.
    """
    await _starts(engine)
    if always_awake:
        await _answers(engine, expert)
    await _loads(engine, expert)
    await _answers(engine, expert)
    await _streams(engine, expert)
    await _aborts(engine, expert)
    await _refuses_strangers(engine)
    if always_awake:
        await engine.sleep(expert)
        await _answers(engine, expert)
    else:
        await _sleeps_and_wakes(engine, expert)
    if adoption is not None:
        await _adopts(engine, expert, adoption)
    if stop:
        await _stops(engine, expert)


async def _starts(engine: Engine) -> None:
    await engine.start()
    await engine.start()
    _require(engine.stats().state == "ready", "after start() the state is ready; start() is idempotent")


async def _loads(engine: Engine, expert: ExpertId) -> None:
    await engine.ensure_ready(expert)
    swaps = engine.stats().swaps
    await engine.ensure_ready(expert)
    _require(expert in engine.stats().awake, "after ensure_ready() the expert is among stats().awake")
    _require(engine.stats().swaps == swaps, "ensure_ready() of a ready expert swaps nothing")


async def _answers(engine: Engine, expert: ExpertId) -> None:
    body = await _whole(engine, expert)
    content = body["choices"][0]["message"].get("content")
    _require(isinstance(content, str) and content != "", "a chat completion has content")
    again = await _whole(engine, expert)
    _require(
        content == again["choices"][0]["message"].get("content"), "the same greedy request answers the same"
    )


async def _streams(engine: Engine, expert: ExpertId) -> None:
    answer = await engine.ask(expert, _call(stream=True))
    try:
        data = b"".join([chunk async for chunk in answer.chunks()])
    finally:
        await answer.aclose()
    events = [line.removeprefix(b"data: ") for line in data.splitlines() if line.startswith(b"data: ")]
    _require(bool(events) and events[-1] == b"[DONE]", "a stream ends with data: [DONE]")
    chunks = [json.loads(event) for event in events[:-1]]
    _require(bool(chunks), "a stream has events before [DONE]")
    models = {chunk.get("model") for chunk in chunks}
    _require(models == {expert}, f"the chunks' model is the expert's id, not {models}")


async def _aborts(engine: Engine, expert: ExpertId) -> None:
    answer = await engine.ask(expert, _call(stream=True, tokens=64))
    chunks = answer.chunks()
    await anext(chunks)
    await answer.aclose()
    await answer.aclose()
    await _whole(engine, expert)


async def _refuses_strangers(engine: Engine) -> None:
    stranger = "no-such-expert"
    for what in (engine.ensure_ready(stranger), engine.ask(stranger, _call())):
        try:
            await what
        except EngineError as error:
            _require(bool(error.message), "errors have a message")
        else:
            raise EngineContractError("an unknown expert raises EngineError")


async def _sleeps_and_wakes(engine: Engine, expert: ExpertId) -> None:
    before = await _whole(engine, expert)
    await engine.sleep(expert)
    await engine.sleep(expert)
    _require(expert not in engine.stats().awake, "an expert put to sleep is not among stats().awake")
    try:
        await engine.ask(expert, _call())
    except EngineError:
        pass
    else:
        raise EngineContractError("asking an expert that sleeps raises EngineError and does not hang")
    await engine.ensure_ready(expert)
    after = await _whole(engine, expert)
    same = before["choices"][0]["message"] == after["choices"][0]["message"]
    _require(same, "an expert that was woken answers as before")


async def _adopts(engine: Engine, expert: ExpertId, adoption: Adoption) -> None:
    """A newcomer joins beside ``expert``, which leaves while it is awake; then both changes are undone."""
    present, newcomer = adoption.present, adoption.newcomer
    others = tuple(spec for spec in present if spec.id != expert)
    await engine.ensure_ready(expert)
    await engine.set_experts((*present, newcomer))
    await engine.set_experts((*present, newcomer))
    await _answers(engine, expert)
    await engine.set_experts((*others, newcomer))
    await _answers(engine, expert)
    await engine.sleep(expert)
    await engine.ensure_ready(newcomer.id)
    await _answers(engine, newcomer.id)
    await engine.set_experts(present)
    await _answers(engine, newcomer.id)
    await engine.sleep(newcomer.id)
    await engine.ensure_ready(expert)
    await _answers(engine, expert)


async def _stops(engine: Engine, expert: ExpertId) -> None:
    await engine.stop()
    await engine.stop()
    stats = engine.stats()
    _require(stats.state == "stopped" and not stats.awake, "after stop() nothing is awake; it is idempotent")
    try:
        await engine.ask(expert, _call())
    except CoeError:
        return
    raise EngineContractError("asking a stopped engine raises an error")


async def _whole(engine: Engine, expert: ExpertId) -> dict[str, Any]:
    answer = await engine.ask(expert, _call())
    try:
        _require(answer.status == 200, "an answer's status is 200; other ones are raised as errors")
        body = json.loads(b"".join([chunk async for chunk in answer.chunks()]))
    finally:
        await answer.aclose()
    _require(isinstance(body, dict), "an answer is a JSON object")
    _require(body.get("model") == expert, "an answer's model is the expert's id")
    return dict(body)


def _call(stream: bool = False, tokens: int = 8) -> EngineCall:
    body = {"model": "ignored", "messages": list(QUESTION), "temperature": 0, "max_tokens": tokens}
    return EngineCall("chat/completions", {**body, "stream": True} if stream else body)


def _require(held: bool, rule: str) -> None:
    if not held:
        raise EngineContractError(rule)
