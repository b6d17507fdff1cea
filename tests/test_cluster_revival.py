"""Engines of pool owners that die, and where gateways send requests meanwhile."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from coe.core.errors import EngineError
from coe.pool.revival import REVIVE_S
from coe.testing.engines import Script
from tests.support.owners import Calls, Slot, Time, gateway, owner_of, running, until


async def test_requests_go_to_a_copy_whose_engine_runs_though_the_dead_one_has_no_queue(
    tmp_path: Path,
) -> None:
    dead, alive = Slot("slot", Script()), Slot("slot", Script())
    first, second = (Calls(owner_of(engine, tmp_path / name)) for engine, name in ((dead, "x"), (alive, "y")))
    async with running(first.owner), running(second.owner), gateway(first, second) as pool:
        await until(lambda: len(pool.reports) == 2)
        async with pool.lease("r1", "a"):
            assert (dead.stats().swaps, alive.stats().swaps) == (1, 0)  # they are equally good
        dead.script.hold("start")
        dead.crash()
        await until(lambda: pool.reports["owner-0"].engines["slot"].state == "starting")
        async with pool.lease("r2", "a"):
            assert alive.stats().swaps == 1


async def test_a_request_whose_engine_has_just_died_is_tried_again_elsewhere(tmp_path: Path) -> None:
    engines = [Slot("slot", Script()), Slot("slot", Script())]
    calls = [Calls(owner_of(engine, tmp_path / str(number))) for number, engine in enumerate(engines)]
    async with running(calls[0].owner), running(calls[1].owner), gateway(*calls) as pool:
        await until(lambda: len(pool.reports) == 2)
        try:
            async with pool.lease("r", "a"):
                raise EngineError("the connection was refused")
        except EngineError:
            pass
        async with pool.lease("r", "a"):
            assert engines[1].stats().swaps == 1


async def test_an_engine_that_died_is_started_again_though_nobody_asks(tmp_path: Path) -> None:
    engine = Slot("slot", Script())
    async with running(owner_of(engine, tmp_path)) as owner:
        await until(lambda: engine.stats().state == "ready")
        engine.crash()
        await until(lambda: engine.stats().state == "ready")
        assert owner.report().experts["a"].state == "cold"


async def test_an_engine_that_dies_of_starting_is_started_less_and_less_often(tmp_path: Path) -> None:
    time, engine = Time(), Slot("slot", Script())
    engine.script.failures["start"] = deque([None, *["out of memory"] * 100])
    async with running(owner_of(engine, tmp_path, time)) as owner:
        await until(lambda: engine.stats().state == "ready")
        engine.crash()
        for moment, starts in ((0.0, 2), (1.9, 2), (2.1, 3), (6.0, 3), (6.2, 4), (14.1, 4), (14.3, 5)):
            time.now = moment
            owner.revivals.look()
            await until(
                lambda n=starts: len(engine.called("start")) == n and engine.stats().state == "failed"
            )
    assert REVIVE_S[0] == 2.0
