"""The circuit breaker of remote experts: when it opens, probes and closes, and where that shows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coe.core.errors import CoeError, EngineError, ExpertRefused
from coe.core.status import judge
from coe.core.types import EngineCall, EngineStats
from coe.engines import build_engine
from coe.engines.remote.openai_url import Breaker
from coe.registry.hosts import RemoteHost
from coe.registry.schema import Expert
from tests.support.upstream import Act, good, scripted_upstream, whole

PAUSE_S = 10.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("far", failures=2, pause_s=PAUSE_S, clock=clock)


def call(breaker: Breaker, error: BaseException | None = None, request: object = None) -> str:
    """How one call ends: ``ok``, or the code of its error."""
    try:
        with breaker.guard({"messages": request}):
            if error is not None:
                raise error
    except CoeError as raised:
        return raised.code
    return "ok"


def broken(breaker: Breaker) -> Breaker:
    for _ in range(2):
        call(breaker, EngineError("gone"))
    return breaker


def test_it_opens_after_failures_in_a_row(breaker: Breaker) -> None:
    assert [call(breaker, EngineError("gone")) for _ in range(2)] == ["engine_failed"] * 2
    assert breaker.open
    assert call(breaker) == "circuit_open"


def test_a_success_between_failures_keeps_it_closed(breaker: Breaker) -> None:
    for error in (EngineError("gone"), None, EngineError("gone")):
        call(breaker, error)
    assert not breaker.open


def test_a_refusal_of_the_request_is_no_failure_of_the_expert(breaker: Breaker) -> None:
    for _ in range(5):
        call(breaker, ExpertRefused(400, "too long", code="context_length_exceeded"))
    assert not breaker.open


def test_after_the_pause_one_probe_passes_and_its_success_closes_it(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    clock.now = PAUSE_S
    with breaker.guard():
        assert call(breaker) == "circuit_open", "only one may probe"
    assert not breaker.open
    assert call(breaker) == "ok"


def test_a_probe_that_fails_opens_it_for_another_pause(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    clock.now = PAUSE_S
    assert call(breaker, EngineError("still gone")) == "engine_failed"
    clock.now = 2 * PAUSE_S - 1
    assert call(breaker) == "circuit_open"


def test_a_cancelled_probe_lets_another_one_try(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    clock.now = PAUSE_S
    with pytest.raises(KeyboardInterrupt), breaker.guard():
        raise KeyboardInterrupt
    assert call(breaker) == "ok"


@pytest.mark.parametrize(("waited_s", "opens"), [(0.0, False), (29.0, False), (30.0, True), (300.0, True)])
def test_who_never_answers_is_left_alone_though_its_callers_give_up_first(
    breaker: Breaker, clock: Clock, waited_s: float, opens: bool
) -> None:
    for _ in range(2):
        with pytest.raises(asyncio.CancelledError), breaker.guard():
            clock.now += waited_s
            raise asyncio.CancelledError
    assert breaker.open == breaker.resting == opens


def test_it_rests_for_the_pause_and_while_it_is_probed(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    assert breaker.resting
    clock.now = PAUSE_S
    assert not breaker.resting, "the next call may probe it"
    with breaker.guard():
        assert breaker.resting


def test_a_service_whose_only_experts_are_left_alone_is_not_ready(clock: Clock) -> None:
    well = EngineStats("ready", ("a", "b"))
    half = EngineStats("ready", ("a", "b"), broken=("a",))
    left = EngineStats("ready", ("a", "b"), broken=("b", "a"))
    assert judge({"far": half}).ready
    assert judge({"far": half}).reasons == ()
    assert not judge({"far": left}).ready
    assert judge({"far": left}).reasons == ("engine far keeps failing and is left alone for the moment",)
    assert judge({"far": left, "slot": well}).ready
    assert judge({"far": left, "slot": well}).reasons == judge({"far": left}).reasons


def own_words() -> EngineError:
    """What a server says that is there: a 500 about a grammar, for example."""
    error = EngineError("far answered 500: no such grammar")
    error.answered = True
    return error


def test_one_request_that_a_server_cannot_do_closes_it_to_nobody(breaker: Breaker) -> None:
    assert {call(breaker, own_words(), "the same") for _ in range(100)} == {"engine_failed"}
    assert not breaker.open


def test_many_different_ones_without_a_success_between_open_it(breaker: Breaker) -> None:
    for number in range(9):
        assert call(breaker, own_words(), number) == "engine_failed"
    assert not breaker.open
    call(breaker, own_words(), 9)
    assert breaker.open
    assert call(breaker, None, 10) == "circuit_open"


def test_a_success_forgets_them(breaker: Breaker) -> None:
    for number in range(30):
        call(breaker, own_words(), number)
        assert call(breaker, None) == "ok"
    assert not breaker.open


def test_they_and_lost_connections_add_up(breaker: Breaker) -> None:
    call(breaker, EngineError("gone"))
    for number in range(4):
        call(breaker, own_words(), number)
    assert not breaker.open
    call(breaker, EngineError("gone"))
    assert breaker.open


def test_a_probe_that_is_answered_so_lets_the_next_one_pass(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    clock.now = PAUSE_S
    assert call(breaker, own_words()) == "engine_failed"
    assert call(breaker) == "ok"
    assert not breaker.open


ERROR = {"error": {"message": "Grammar error", "type": "InternalServerError"}}


@pytest.mark.parametrize(
    ("act", "opens"),
    [
        (whole(ERROR, 500), False),
        (whole({"message": "Grammar error", "object": "error"}, 500), False),
        (whole({"detail": "gone"}, 500), True),
        (whole(b"Internal Server Error", 500, content_type="text/plain"), True),
        (whole(ERROR, 502), True),
        (whole(ERROR, 503), True),
        (whole(ERROR, 504), True),
        (whole(ERROR, 429), True),
        (whole(ERROR, 400), False),
    ],
    ids=["500", "500 flat", "500 without", "500 as text", "502", "503", "504", "429", "400"],
)
async def test_a_client_s_bad_grammar_does_not_take_an_expert_from_the_others(
    act: Act, opens: bool, tmp_path: Path
) -> None:
    async with scripted_upstream() as upstream:
        host = RemoteHost(id="far", kind="remote", url=upstream.url, max_failures=2)
        engine = build_engine(host, (Expert(id="far-expert", host="far", model="m"),), tmp_path)
        await engine.start()
        upstream.play("m", act)
        for _ in range(6):
            with pytest.raises((EngineError, ExpertRefused)):
                await engine.ask("far-expert", EngineCall("chat/completions", {"messages": []}))
        assert (engine.stats().broken == ("far-expert",)) is opens
        upstream.play("m", good(False))
        if opens:
            with pytest.raises(EngineError, match="left alone"):
                await engine.ask("far-expert", EngineCall("chat/completions", {"messages": ["other"]}))
        else:
            answer = await engine.ask("far-expert", EngineCall("chat/completions", {"messages": ["other"]}))
            await answer.aclose()
        await engine.stop()


async def test_a_remote_expert_that_keeps_failing_is_left_alone_and_its_stats_say_so(tmp_path: Path) -> None:
    host = RemoteHost(id="far", kind="remote", url="http://127.0.0.1:9/v1", max_failures=2)
    engine = build_engine(host, (Expert(id="far-expert", host="far", model="m"),), tmp_path)
    await engine.start()
    codes = []
    for _ in range(3):
        with pytest.raises(EngineError) as raised:
            await engine.ask("far-expert", EngineCall("chat/completions", {"messages": []}))
        codes.append(raised.value.code)
    assert codes == ["engine_unreachable", "engine_unreachable", "circuit_open"]
    assert engine.stats().broken == ("far-expert",)
    await engine.stop()
