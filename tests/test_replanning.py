"""Experts follow their work to other hosts: the account of it, the decision, and the running service."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coe.core.status import RebalanceCounts
from coe.placement.rebalance import Looks, Observed, observed, relocate
from coe.registry.load import hosts_of
from coe.registry.schema import Registry
from coe.scheduler.estimates import WorkDone
from coe.scheduler.plan import ExpertPlan, HostPlan, PoolPlan
from coe.service.rebalancer import Rebalancer
from coe.service.registry_file import parse_registry
from coe.testing.engines import Script
from coe.testing.scheduling import World
from tests.support.live import LiveWorld, live_world
from tests.support.waiting import until

LONG_S = 1e6
"""A horizon within which any saving is worth any load."""


# The account


def world() -> World:
    hosts = (HostPlan("one"), HostPlan("two"))
    experts = [
        ExpertPlan(e, (host,), max_running=4, load_s=2.0)
        for e, host in zip("abc", ("one", "two", "one"), strict=True)
    ]
    return World(PoolPlan(hosts, tuple(experts)))


def test_the_time_of_a_host_is_shared_among_its_leases() -> None:
    w = world()
    w.arrive("r1", "a")
    w.ready("a")
    w.wait(3.0)
    w.arrive("r2", "a")
    w.wait(4.0)
    assert w.scheduler.work_done(w.now).work_s == {"a": pytest.approx(7.0)}
    w.finish("r1")
    w.wait(1.0)
    w.finish("r2")
    w.wait(5.0)
    done = w.scheduler.work_done(w.now)
    assert (done.work_s, done.requests) == ({"a": pytest.approx(8.0)}, 2)
    assert done.load_s == {"a": 0.0, "b": 2.0, "c": 2.0}


def test_experts_that_one_request_used_are_counted_though_one_came_after_the_other() -> None:
    w = world()
    for expert in "abc":
        w.arrive(f"r{expert}", expert, group="r")
    w.arrive("alone", "b")
    w.settle()
    done = w.scheduler.work_done(w.now)
    assert done.together == {("a", "b"): 1, ("a", "c"): 1, ("b", "c"): 1}
    assert done.requests == 2


def test_what_was_seen_is_what_came_since_the_look_before() -> None:
    before = WorkDone({"a": 10.0}, {("a", "b"): 4}, 10)
    after = WorkDone({"a": 40.0, "b": 6.0}, {("a", "b"): 5, ("b", "c"): 2}, 14, {"a": 3.0})
    seen = observed(before, after, 60.0)
    assert seen.loads == {"a": 0.5, "b": 0.1}
    assert {(p.one, p.other): p.share for p in seen.recruited} == {("a", "b"): 0.25, ("b", "c"): 0.5}
    looks = Looks()
    looks.begin(before, 0.0)
    looks.add(after, 60.0)
    assert looks() == ()
    looks.add(after, 90.0)
    assert [each.loads["a"] for each in looks()] == [0.5, 0.0]


# The decision


def registry(experts: Mapping[str, str], **pool: Any) -> Registry:
    """Two hosts that hold one expert each, and the experts' hosts."""
    hosts = [{"id": "one"}, {"id": "two"}]
    entries = [{"id": e, "host": host, "model": "m"} for e, host in experts.items()]
    return parse_registry(json.dumps({"pool": {"hosts": hosts, **pool}, "experts": entries}), Path("f"))


FOUR = {"a": "one", "b": "one", "c": "two", "d": "two"}
SHIFTED = Observed({"a": 0.5, "b": 0.4, "c": 0.0, "d": 0.0}, dict.fromkeys("abcd", 5.0))
EVEN = Observed({"a": 0.3, "b": 0.2, "c": 0.3, "d": 0.2}, dict.fromkeys("abcd", 5.0))


def test_experts_whose_work_has_come_to_one_host_part() -> None:
    found = relocate(registry(FOUR), "abcd", (SHIFTED, SHIFTED), 60.0)
    assert len(found.hosts) == 1
    assert found.hosts.items() <= {"a": "two", "b": "two"}.items()
    assert found.gain_s > found.moves_s == 5.0


def test_what_was_seen_once_moves_nobody() -> None:
    assert not relocate(registry(FOUR), "abcd", (EVEN, SHIFTED), 60.0).hosts
    assert not relocate(registry(FOUR), "abcd", (), 60.0).hosts


def test_a_move_that_takes_more_than_it_saves_is_not_made() -> None:
    dear = Observed(SHIFTED.loads, dict.fromkeys("abcd", 500.0))
    assert not relocate(registry(FOUR), "abcd", (dear, dear), 60.0).hosts


def test_who_names_a_host_or_is_pinned_stays() -> None:
    assert relocate(registry(FOUR), "acd", (SHIFTED, SHIFTED), LONG_S).hosts == {"a": "two"}
    assert not relocate(registry(FOUR), "cd", (SHIFTED, SHIFTED), LONG_S).hosts
    assert relocate(registry(FOUR, pinned=["a"]), "abcd", (SHIFTED, SHIFTED), LONG_S).hosts == {"b": "two"}


def test_work_that_comes_now_here_now_there_moves_nobody() -> None:
    """By each look alone an expert would have moved, and back again by the next."""
    bursts = [{"a": 0.5, "b": 0.3, "c": 0.1, "d": 0.1}, {"a": 0.1, "b": 0.1, "c": 0.5, "d": 0.3}]
    looks = [Observed(loads, dict.fromkeys("abcd", 1.0)) for loads in bursts]
    present = registry(FOUR)
    for before, last in [looks, looks[::-1]]:
        assert relocate(present, "abcd", (last, last), 120.0).hosts
        assert not relocate(present, "abcd", (before, last), 120.0).hosts


def test_an_even_load_moves_nobody() -> None:
    assert not relocate(registry(FOUR), "abcd", (EVEN, EVEN), LONG_S).hosts


def test_experts_that_requests_use_together_part() -> None:
    done = WorkDone(dict.fromkeys("abcd", 25.0), {("a", "b"): 90}, 100, dict.fromkeys("abcd", 0.1))
    seen = observed(WorkDone(), done, 100.0)
    found = relocate(registry(FOUR), "abcd", (seen, seen), 600.0)
    after = {**FOUR, **found.hosts}
    assert after["a"] != after["b"]
    assert Counter(after.values()) == {"one": 2, "two": 2}


def test_hosts_that_are_not_alike_or_have_no_experts_take_nobody() -> None:
    both = {"a": "one", "b": "one"}
    assert not relocate(registry(both), "ab", (SHIFTED, SHIFTED), LONG_S).hosts
    hosts = [{"id": "one"}, {"id": "two", "dtype": "float32"}]
    assert not relocate(registry(FOUR, hosts=hosts), "abcd", (SHIFTED, SHIFTED), LONG_S).hosts


# The service

TEXT = """\
pool:
  hosts:
    - id: one
    - id: two
experts:
  - id: a
    model: org/a
  - id: b
    model: org/b
  - id: c
    model: org/c
  - id: d
    model: org/d
routers:
  default: random
"""
QUICK = {"load_s": 0.001, "first_byte_s": 0.001, "chunk_s": 0.001}


class Clients:
    """They stream answers of ``wanted`` experts without end, and keep how each stream ended."""

    def __init__(self, world: LiveWorld) -> None:
        self.wanted: tuple[str, ...] = ()
        self.ends: Counter[tuple[int, bool]] = Counter()
        self.answered: Counter[str] = Counter()
        self._world, self._done = world, asyncio.Event()

    async def run(self) -> None:
        turn = 0
        while not self._done.is_set():
            turn += 1
            expert = self.wanted[turn % len(self.wanted)]
            body = {"model": expert, "messages": [{"role": "user", "content": "2+2?"}], "stream": True}
            async with self._world.http.stream("POST", "/v1/chat/completions", json=body, timeout=60) as it:
                raw = await it.aread()
            self.ends[it.status_code, raw.endswith(b"data: [DONE]\n\n")] += 1
            self.answered[expert] += 1

    def stop(self) -> None:
        self._done.set()

    async def served(self, times: int = 10) -> None:
        """Wait for so many further answers of each expert that is wanted now."""
        goal = {expert: self.answered[expert] + times for expert in self.wanted}
        await until(lambda: all(self.answered[expert] >= goal[expert] for expert in goal))


async def look(world: LiveWorld) -> None:
    assert world.service.rebalancer is not None
    await world.service.rebalancer.look(LONG_S)


def where(world: LiveWorld) -> dict[str, str]:
    return hosts_of(world.service.generations.current.registry)


def pair_on(host: str, world: LiveWorld) -> tuple[str, ...]:
    return tuple(expert for expert, on in where(world).items() if on == host)


@pytest.mark.slow
async def test_an_expert_moves_to_where_there_is_room_while_answers_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "coe.service.live_registry")
    async with live_world(tmp_path, Script(**QUICK), TEXT) as w:
        before, identity = where(w), w.service.generations.current.identity
        (first, second), (elsewhere, _) = pair_on("one", w), pair_on("two", w)
        crowd = Clients(w)
        crowd.wanted = (first, elsewhere)
        clients = [asyncio.create_task(crowd.run()) for _ in range(6)]
        for _ in range(4):  # a steady load, one busy expert on each host
            await crowd.served()
            await look(w)
        assert (w.generation, where(w)) == (1, before)
        crowd.wanted = (first, second)  # both on one host, which now swaps for every other request
        for _ in range(5):
            await crowd.served()
            await look(w)
        await crowd.served()
        crowd.stop()
        await asyncio.gather(*clients)
        after = where(w)
        assert after[first] != after[second]
        assert set(crowd.ends) == {(200, True)}
        assert w.file.read_text(encoding="utf-8") == TEXT
        current = w.service.generations.current
        assert current.reason.startswith("rebalanced: ")
        assert f"generation {current.number}: rebalanced: " in caplog.text
        assert current.identity == identity
        shown = (await w.http.get("/metrics")).text
        assert 'coe_rebalances_total{result="moved"} 0.0' not in shown
        assert "coe_rebalanced_experts_total 0.0" not in shown


@pytest.mark.slow
async def test_experts_whose_host_is_written_never_move(tmp_path: Path) -> None:
    text = TEXT.replace("model: org/a", "model: org/a\n    host: one")
    text = text.replace("model: org/b", "model: org/b\n    host: one")
    async with live_world(tmp_path, Script(**QUICK), text) as w:
        before, crowd = where(w), Clients(w)
        crowd.wanted = ("a", "b")
        clients = [asyncio.create_task(crowd.run()) for _ in range(4)]
        for _ in range(4):
            await crowd.served()
            await look(w)
        crowd.stop()
        await asyncio.gather(*clients)
        assert (w.generation, where(w)) == (1, before)
        assert 'coe_rebalances_total{result="kept"} 4.0' in (await w.http.get("/metrics")).text


async def moved(world: LiveWorld) -> None:
    """Have one of the two experts on host one move to the other host."""
    for _ in range(3):
        for expert in pair_on("one", world)[:2]:
            assert (await world.ask(expert)).status_code == 200
        await look(world)
        if world.generation > 1:
            return
    raise AssertionError("nobody moved")


@pytest.mark.slow
async def test_a_later_edit_keeps_where_experts_are_and_a_rollback_takes_them_back(tmp_path: Path) -> None:
    async with live_world(tmp_path, Script(**QUICK), TEXT) as w:
        before = where(w)
        await moved(w)
        after = where(w)
        assert after != before
        w.write("routers:", "  - id: e\n    model: org/e\nrouters:")
        await w.live.reload()
        assert w.generation == 3
        assert where(w).items() >= after.items()
        await w.live.rollback(1)
        assert (where(w), w.file.read_text(encoding="utf-8")) == (before, TEXT)
        await w.live.rollback(2)
        assert (where(w), w.file.read_text(encoding="utf-8")) == (after, TEXT)
        reasons = [entry.circumstances.reason for entry in w.live.history.entries()]
        assert reasons[1].startswith("rebalanced: ")
        assert [reasons[0], *reasons[2:]] == [
            "",
            "added expert e",
            "back to generation 1",
            "back to generation 2",
        ]
    async with live_world(tmp_path, text=TEXT) as again:  # a restart plans anew, and counts as a version
        assert (again.generation, where(again)) == (6, before)


async def test_what_the_service_cannot_go_over_to_leaves_everybody_where_they_are(tmp_path: Path) -> None:
    script = Script(**QUICK)
    async with live_world(tmp_path, script, TEXT) as w:
        before = where(w)
        script.fail("set_experts", *["no"] * 3)
        with pytest.raises(AssertionError, match="nobody moved"):
            await moved(w)
        assert (w.generation, where(w)) == (1, before)
        assert 'coe_rebalances_total{result="failed"} 2.0' in (await w.http.get("/metrics")).text
        assert {(await w.ask(expert)).status_code for expert in "abcd"} == {200}


async def test_nobody_moves_while_a_host_is_down(tmp_path: Path) -> None:
    async with live_world(tmp_path, Script(**QUICK), TEXT) as w:
        await until(lambda: w.engines["two"].stats().state == "ready")
        w.engines["two"].crash()
        with pytest.raises(AssertionError, match="nobody moved"):
            await moved(w)
        assert w.generation == 1


@pytest.mark.slow
async def test_the_service_looks_as_often_as_its_file_says_from_the_edit_on(tmp_path: Path) -> None:
    now, counts = [0.0], RebalanceCounts()
    async with live_world(tmp_path, text=TEXT) as w:
        service = w.service
        placement = Rebalancer(
            w.live, service.generations, service.pool.work_done, service.engines, counts, lambda: now[0]
        )
        running = asyncio.create_task(placement.run())
        now[0] = 1e5
        await edit(w, "routers:", "# never\nrouters:")
        await edit(w, "pool:\n", "pool:\n  rebalance_s: 60\n")
        assert w.live.needs_restart == ()
        assert counts.kept == 0
        for number in (1, 2):
            now[0] += 61.0
            await edit(w, "routers:", f"# {number}\nrouters:")  # wakes it: its clock is ours
            await until(lambda n=number: counts.kept == n)  # type: ignore[misc]
        running.cancel()


async def edit(world: LiveWorld, old: str, new: str) -> None:
    world.write(old, new)
    await world.live.reload()
