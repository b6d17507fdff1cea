"""Gateways and pool owners, without Ray: leases over a boundary, and what happens when one side vanishes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from coe.cluster.cluster_pool import ClusterPool
from coe.cluster.journal import Journal
from coe.cluster.messages import Granted, LeaseRequest, OwnerLost, OwnerReport, Refused
from coe.cluster.owner import SILENCE_S, PoolOwner
from coe.core.errors import EngineError, ExpertUnavailable, Overloaded
from coe.core.types import EngineCall
from coe.engines.address import Address
from coe.testing.engines import Script
from tests.support import engine_hosts
from tests.support.owners import Calls, Slot, Time, gateway, owner_of, running, until, wanted
from tests.support.tiny_models import TinyFamily

CALL = EngineCall("chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4})


async def test_an_expert_on_the_same_machine_is_asked_by_its_socket(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    owner = owner_of(engine_hosts.slot(tiny_family, tmp_path), tmp_path)
    async with running(owner), gateway(Calls(owner)) as pool, pool.lease("r", "a") as lease:
        answer = await lease.engine.ask("a", CALL)
        body = json.loads(b"".join([chunk async for chunk in answer.chunks()]))
        await answer.aclose()
    assert body["model"] == "a"


@pytest.mark.slow
async def test_an_expert_on_another_machine_is_asked_through_a_door_that_lets_only_completions_pass(
    tiny_family: TinyFamily, tmp_path: Path
) -> None:
    owner = owner_of(engine_hosts.slot(tiny_family, tmp_path), tmp_path)
    async with running(owner), httpx.AsyncClient() as client:
        granted = await owner.acquire(replace(wanted("t"), machine="elsewhere"))
        assert isinstance(granted, Granted)
        assert granted.address is not None
        url, body = granted.address.url, {**CALL.body, "model": granted.address.model}
        key = {"Authorization": f"Bearer {granted.address.token}"}
        completion = await client.post(f"{url}/v1/chat/completions", json=body, headers=key, timeout=60)
        without_key = await client.post(f"{url}/v1/chat/completions", json=body)
        control = await client.post(f"{url}/collective_rpc", json={"method": "reload_weights"}, headers=key)
        await owner.release("gateway-1", "t", None)
    assert completion.json()["choices"][0]["message"]["content"]
    assert (without_key.status_code, control.status_code) == (401, 404)


async def test_an_error_of_the_pool_reaches_the_gateways_client_whole(tmp_path: Path) -> None:
    owner = owner_of(Slot("slot", Script()), tmp_path)
    async with running(owner), gateway(Calls(owner)) as pool, pool.lease("r0", "a"):
        waiting = [asyncio.create_task(owner.acquire(wanted(f"t{n}"))) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="3 requests are waiting") as refused:
            async with pool.lease("r4", "a"):
                pass
        assert (refused.value.code, refused.value.hint is not None) == ("queue_full", True)
        for number, task in enumerate(waiting):
            await owner.release("gateway-1", f"t{number}", None)
            assert isinstance(await task, Refused)


async def test_a_silent_gateway_loses_its_leases_and_the_next_one_gets_them(tmp_path: Path) -> None:
    time = Time()
    owner = owner_of(Slot("slot", Script()), tmp_path, time)
    async with running(owner):
        assert isinstance(await owner.acquire(wanted("t1", session="dead")), Granted)
        waiting = asyncio.create_task(owner.acquire(wanted("t2", session="alive")))
        time.now = SILENCE_S + 1
        await owner.heartbeat("alive")
        await owner.forget_the_silent()
        assert isinstance(await waiting, Granted)


async def test_a_wish_of_a_gateway_that_vanished_is_not_granted_to_nobody(tmp_path: Path) -> None:
    time = Time()
    owner = owner_of(Slot("slot", Script()), tmp_path, time)
    async with running(owner):
        assert isinstance(await owner.acquire(wanted("t1", session="dead")), Granted)
        wish = asyncio.create_task(owner.acquire(wanted("t2", "b", session="dead")))
        await asyncio.sleep(0.01)
        time.now = SILENCE_S + 1
        await owner.heartbeat("alive")
        await owner.forget_the_silent()
        assert isinstance(await wish, Refused)
        assert owner.held_leases == 0
        assert isinstance(await owner.acquire(wanted("t3", session="alive")), Granted)


async def test_a_client_that_hangs_up_while_waiting_leaves_no_lease_behind(tmp_path: Path) -> None:
    owner = owner_of(Slot("slot", Script()), tmp_path)
    async with running(owner), gateway(Calls(owner)) as pool:
        async with pool.lease("r1", "a"):

            async def impatient() -> None:
                async with pool.lease("r2", "b"):
                    pass

            task = asyncio.create_task(impatient())
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        report = owner.report()
        assert {e: (s.queued, s.running) for e, s in report.experts.items()} == {"a": (0, 0), "b": (0, 0)}


async def test_what_was_given_up_before_it_was_wished_for_is_not_granted(tmp_path: Path) -> None:
    owner = owner_of(Slot("slot", Script()), tmp_path)
    async with running(owner):
        await owner.release("gateway-1", "t", None)
        assert isinstance(await owner.acquire(wanted("t")), Refused)
        assert owner.report().experts["a"].running == 0


async def test_another_owner_serves_when_one_is_lost(tmp_path: Path) -> None:
    first, second = (Calls(owner_of(Slot("slot", Script()), tmp_path / name)) for name in "xy")
    async with running(first.owner), running(second.owner), gateway(first, second) as pool:
        first.gone = True
        async with pool.lease("r", "a") as lease:
            assert lease.expert == "a"
        assert second.owner.report().swaps == 1


async def test_a_request_waits_for_an_owner_that_is_being_restarted(tmp_path: Path) -> None:
    calls = Calls(owner_of(Slot("slot", Script()), tmp_path))
    async with running(calls.owner), gateway(calls) as pool:
        calls.gone = True

        async def ask() -> str:
            async with pool.lease("r", "a", timeout_s=30) as lease:
                return lease.expert

        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        calls.gone = False
        assert await asking == "a"


async def test_an_owner_that_stops_sends_those_who_wait_elsewhere_and_lets_the_others_finish(
    tmp_path: Path,
) -> None:
    owner = owner_of(Slot("slot", Script()), tmp_path)
    await owner.start()
    assert isinstance(await owner.acquire(wanted("t1")), Granted)
    waiting = asyncio.create_task(owner.acquire(wanted("t2", expert="b")))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(owner.stop(drain_s=30.0))
    with pytest.raises(OwnerLost):
        await waiting
    with pytest.raises(OwnerLost):
        await owner.acquire(wanted("t3"))
    assert not stopping.done()
    await owner.release("gateway-1", "t1", None)
    await stopping


async def test_who_waits_is_refused_at_once_when_the_service_ends_and_leases_go_on(tmp_path: Path) -> None:
    owner = owner_of(Slot("slot", Script()), tmp_path)

    async def ask(expert: str) -> str:
        with pytest.raises(ExpertUnavailable) as refused:
            async with pool.lease(f"r-{expert}", expert):
                pass
        assert refused.value.retry_after_s is not None
        return refused.value.code

    async with running(owner), gateway(Calls(owner)) as pool:
        await until(lambda: len(pool.reports) == 1)
        async with pool.lease("r", "a"):
            waiting = [asyncio.create_task(ask(expert)) for expert in ("a", "a", "b")]
            await until(lambda: sum(e.queued for e in owner.report().experts.values()) == 3)
            pool.refuse()
            pool.refuse()
            assert await asyncio.gather(*waiting, ask("a")) == ["stopping"] * 4
            assert owner.held_leases == 1
        assert owner.held_leases == 0
        await until(lambda: not any(e.queued for e in owner.report().experts.values()))


async def test_who_waits_for_an_owner_that_is_gone_is_refused_when_the_service_ends(tmp_path: Path) -> None:
    calls = Calls(owner_of(Slot("slot", Script()), tmp_path))
    calls.gone = True
    async with gateway(calls) as pool:
        waiting = asyncio.create_task(pool.lease("r", "a").__aenter__())
        await asyncio.sleep(0.05)
        pool.refuse()
        with pytest.raises(ExpertUnavailable) as refused:
            await waiting
    assert refused.value.code == "stopping"


async def test_a_lease_goes_back_to_an_owner_that_has_left_the_directory(tmp_path: Path) -> None:
    calls = Calls(owner_of(Slot("slot", Script()), tmp_path))
    async with running(calls.owner), gateway(calls) as pool:
        async with pool.lease("r", "a"):
            pool._owners = {}
        assert calls.owner.held_leases == 0


async def test_a_lease_whose_owner_cannot_be_told_of_its_end_is_given_back_when_it_answers_again(
    tmp_path: Path,
) -> None:
    calls = Calls(owner_of(Slot("slot", Script()), tmp_path))
    async with running(calls.owner), gateway(calls) as pool:
        async with pool.lease("r", "a"):
            calls.gone = True
        assert calls.owner.held_leases == 1
        calls.gone = False
        await until(lambda: calls.owner.held_leases == 0)


async def test_an_expert_whose_lease_was_lost_on_the_way_serves_the_same_request(tmp_path: Path) -> None:
    class LosesTheFirstAnswer(Calls):
        lost = False

        async def acquire(self, wanted: LeaseRequest) -> Granted | Refused:
            answer = await super().acquire(wanted)
            if not self.lost:
                self.lost = True
                raise OwnerLost("the connection broke")
            return answer

    calls = LosesTheFirstAnswer(owner_of(Slot("slot", Script()), tmp_path))
    async with running(calls.owner), gateway(calls) as pool:
        async with pool.lease("r", "a", timeout_s=60):
            assert (calls.lost, calls.owner.held_leases) == (True, 1)
        assert calls.owner.held_leases == 0


async def test_a_lease_is_given_back_though_its_request_is_cancelled_again_meanwhile(tmp_path: Path) -> None:
    class Slow(Calls):
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def release(self, session: str, ticket: str, failure: str | None) -> None:
            self.asked.set()
            await self.go_on.wait()
            await super().release(session, ticket, failure)

    calls = Slow(owner_of(Slot("slot", Script()), tmp_path))
    async with running(calls.owner), gateway(calls) as pool:

        async def request() -> None:
            async with pool.lease("r", "a"):
                await asyncio.Event().wait()

        task = asyncio.create_task(request())
        await until(lambda: calls.owner.held_leases == 1)
        task.cancel()
        await calls.asked.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        calls.go_on.set()
        await until(lambda: calls.owner.held_leases == 0)


async def test_an_expert_that_died_before_it_was_handed_out_is_a_failure_of_its_engine(
    tmp_path: Path,
) -> None:
    class Dead(Slot):
        def address(self, expert: str) -> Address:
            raise EngineError(f"{expert} is not ready", code="expert_not_ready")

    owner = owner_of(Dead("slot", Script()), tmp_path)
    async with running(owner):
        answer = await owner.acquire(wanted("t"))
        assert isinstance(answer, Refused)
        assert answer.error().code == "expert_not_ready"
        assert owner.held_leases == 0
        assert owner.report().experts["a"].running == 0


async def test_an_owner_that_stays_away_is_a_clear_error(tmp_path: Path) -> None:
    calls = Calls(owner_of(Slot("slot", Script()), tmp_path))
    async with gateway(calls) as pool:
        calls.gone = True
        with pytest.raises(ExpertUnavailable, match="no pool owner of a"):
            async with pool.lease("r", "a", timeout_s=0.0):
                pass


async def test_a_restarted_owner_brings_back_what_was_in_memory(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.json").note({"slot": ["b"]})
    engine = Slot("slot", Script())
    async with running(owner_of(engine, tmp_path)) as owner:
        async with asyncio.timeout(5):
            while owner.report().experts["b"].state != "awake":  # noqa: ASYNC110 (the report is all there is)
                await asyncio.sleep(0.01)
    assert engine.stats().swaps == 1


async def test_what_is_expected_comes_in_early_and_is_forgotten_when_it_is_not_wanted(tmp_path: Path) -> None:
    calls = Calls(owner_of(Slot("slot", Script()), tmp_path))
    async with running(calls.owner), gateway(calls) as pool:
        with pool.expect("r", "a", group="r"):
            async with pool.lease("r", "a", group="r") as lease:
                assert (lease.expert, lease.asked_for) == ("a", "a")
        with pool.expect("r2", "b", group="r2"):
            pass
        async with asyncio.timeout(5):
            while calls.owner.held_leases:  # noqa: ASYNC110 (a hint has no answer)
                await asyncio.sleep(0.01)


async def test_an_expert_behind_a_remote_api_is_leased_by_the_gateway_itself(tmp_path: Path) -> None:
    calls = Calls(owner_of(Slot("slot", Script()), tmp_path))
    async with running(calls.owner), gateway(calls) as pool:
        calls.gone = True
        async with pool.lease("r", "remote") as lease:
            assert lease.engine.id == "far"


def test_a_broken_journal_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "journal.json").write_text('{"residents": [')
    assert Journal(tmp_path / "journal.json").residents() == {}


def test_a_successor_claims_the_journal_of_the_dead_and_a_neighbour_gets_its_own(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from coe.cluster.cluster_pool import ClusterPool
from coe.cluster.journal import Journal
journal = Journal.claim(Path(sys.argv[1]), "gpu")
print(dict(journal.residents()), flush=True)
journal.note({"slot": [sys.argv[2]]})
print("noted", flush=True)
sys.stdin.read()
"""

    def owner(expert: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, str(tmp_path), expert]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process

    def says(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        found = process.stdout.readline().strip()
        assert process.stdout.readline().strip() == "noted"
        return found

    first, second = owner("sql"), None
    try:
        assert says(first) == "{}"
        second = owner("logic")
        assert says(second) == "{}"
        first.kill()
        first.wait()
        third = owner("units")
        assert says(third) == "{'slot': ('sql',)}"
        third.communicate("")
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.communicate()


class Stopped(Calls):
    """An owner whose process can be stopped (SIGSTOP): its calls arrive and are never answered."""

    def __init__(self, owner: PoolOwner) -> None:
        super().__init__(owner)
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def acquire(self, wanted: LeaseRequest) -> Granted | Refused:
        await self.goes_on.wait()
        return await super().acquire(wanted)

    async def release(self, session: str, ticket: str, failure: str | None) -> None:
        await self.goes_on.wait()
        await super().release(session, ticket, failure)

    async def heartbeat(self, session: str) -> OwnerReport:
        await self.goes_on.wait()
        return await super().heartbeat(session)


@pytest.mark.parametrize("holds", [True, False], ids=["holds a lease", "waits for one"])
async def test_an_owner_that_falls_silent_is_lost_until_it_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    monkeypatch.setattr("coe.cluster.cluster_pool.OWNER_SILENCE_S", 0.5)
    monkeypatch.setattr("coe.cluster.cluster_pool.HEARTBEAT_S", 0.05)
    silent = Stopped(owner_of(Slot("slot", Script()), tmp_path / "x"))
    other = Calls(owner_of(Slot("slot", Script()), tmp_path / "y"))
    async with running(silent.owner), running(other.owner), gateway(silent, other) as pool:
        await until(lambda: len(pool.reports) == 2)
        other.gone = True
        await until(lambda: pool.lost == {"owner-1"})
        if holds:
            async with pool.lease("first", "a"):
                silent.goes_on.clear()
        else:
            silent.goes_on.clear()
        waiting = asyncio.create_task(lease_of(pool, "second"))
        await until(lambda: "owner-0" in pool.lost)
        other.gone = False
        await asyncio.wait_for(waiting, timeout=60)
        silent.goes_on.set()
        await until(lambda: not pool.lost)
        await until(lambda: not silent.owner.held_leases)


async def lease_of(pool: ClusterPool, request: str) -> None:
    async with pool.lease(request, "a"):
        pass
