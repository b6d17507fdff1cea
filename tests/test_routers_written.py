"""Routers that let an expert write first: what they make of it, and the errand through a running service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from coe.core.errors import ConfigError
from coe.core.types import EngineAnswer, EngineCall, ExpertView, Request, RouterCall, RouterText
from coe.pipeline.legs import Account
from coe.pipeline.writer_calls import MISSES, Run, WriterCalls
from coe.registry.schema import Expert, Registry, RouterSpec
from coe.routers import build_router
from coe.routers.base import Setting
from coe.routers.instruction import InstructionOptions, InstructionRouter
from coe.routers.learning.written_router import WriterOptions, WritingRouter
from coe.routers.skill import SkillOptions, SkillRouter
from coe.service.service import LocalService, build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.serving import serving
from tests.support.waiting import until

GARDEN = ExpertView("garden", card="Plants, trees, flowers and gardening.")
MONEY = ExpertView("money", card="Banks, interest, loans and money.")
VIEWS = [GARDEN, MONEY]
NOTE = "interest of a bank loan"
MEANINGLESS = "what about this one"


def router(kind: str, **options: Any) -> WritingRouter:
    made: tuple[type[WritingRouter], type[WriterOptions]]
    made = (SkillRouter, SkillOptions) if kind == "skill" else (InstructionRouter, InstructionOptions)
    cls, options_type = made
    chosen = options_type(encoder="static", **{"writer": "money", **options})
    return cls("mine", chosen, Setting(experts=tuple(VIEWS)))


# The router


@pytest.mark.parametrize("kind", ["skill", "instruction"])
def test_the_note_is_compared_with_cards_in_the_place_of_the_question(kind: str) -> None:
    asking = router(kind)
    call = asking.call(MEANINGLESS)
    assert call is not None
    assert (call.writer, MEANINGLESS in call.prompt) == ("money", True)
    for note, expert in ((NOTE, "money"), ("flowers and trees", "garden")):
        decision = asking.route_with(MEANINGLESS, VIEWS, RouterText(note))
        assert decision.expert == expert
        assert f'by money "{note}"' in decision.reason


@pytest.mark.parametrize("kind", ["skill", "instruction"])
def test_without_a_note_the_question_decides_and_the_reason_says_why(kind: str) -> None:
    asking = router(kind)
    late = asking.route_with("which trees have flowers", VIEWS, RouterText(None, "late"))
    assert (late.expert, late.reason.endswith("by money (late)")) == ("garden", True)
    unasked = asking.route("which trees have flowers", VIEWS)
    assert unasked.ranking == late.ranking
    assert unasked.reason.endswith("(not asked)")


def test_without_a_writer_nothing_is_wanted() -> None:
    asking = router("skill", writer=None)
    assert asking.call(MEANINGLESS) is None
    assert "by None" not in asking.route(MEANINGLESS, VIEWS).reason


def test_a_writer_must_exist() -> None:
    experts = [Expert(id="parrot", host="h", model="m")]
    with pytest.raises(ConfigError, match='did you mean "parrot"'):
        build_router(RouterSpec(name="x", kind="skill", options={"writer": "parot"}), experts, Path())


# The errand, through the pool of a running service with one slot


class WriterEngine(FakeEngine):
    """One slot; its writer answers ``note``, after ``gate`` is set."""

    def __init__(self) -> None:
        super().__init__("slot")
        self.note = NOTE
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False
        self.prompts: list[str] = []
        self.bounds: list[object] = []

    async def ask(self, expert: str, call: EngineCall) -> EngineAnswer:
        self.script = Script(text="The answer of {expert}.")
        if expert == "writer" and "max_tokens" in call.body:
            self.prompts.append(call.body["messages"][0]["content"])
            self.bounds.append(call.body["max_tokens"])
            self.script = Script(text=self.note)
            if self.broken:
                self.script.fail("ask", "out of memory")
            await self.gate.wait()
        return await super().ask(expert, call)


@dataclass
class World:
    http: httpx.AsyncClient
    engine: WriterEngine
    service: LocalService

    async def ask(self, text: str = MEANINGLESS, **coe: Any) -> dict[str, Any]:
        body = {"model": "coe", "messages": [{"role": "user", "content": text}], "coe": coe}
        answer = await self.http.post("/v1/chat/completions", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def counts(self) -> dict[str, int]:
        return {result: count for result, count in self.service.pipeline.writer_calls.counts.items() if count}


@dataclass
class NotesWorld:
    """The errands of a running service, run by hand; the writer waits for the gate."""

    engine: WriterEngine
    calls: WriterCalls
    call: RouterCall
    writer: Expert

    def request(self, name: str, private: bool = False) -> Request:
        return Request(name, "chat/completions", "coe", {"messages": []}, MEANINGLESS, private=private)

    def begin(self, name: str, patience_s: float = 60.0, private: bool = False) -> asyncio.Task[Run]:
        request = self.request(name, private)
        return asyncio.create_task(self.calls.run(self.call, self.writer, request, patience_s))


@asynccontextmanager
async def notes_world() -> AsyncIterator[NotesWorld]:
    async with world(writer_deadline_s=60) as w:
        w.engine.gate.clear()
        current = w.service.generations.current
        call = current.routers["task"].call(MEANINGLESS)  # type: ignore[attr-defined]
        writer = current.registry.expert("writer")
        assert writer is not None
        yield NotesWorld(w.engine, w.service.pipeline.writer_calls, call, writer)


def registry(**options: Any) -> Registry:
    chosen = {"encoder": "static", "writer": "writer", "writer_tokens": 16, **options}
    cards = {view.id: view.card for view in VIEWS} | {"writer": "General chat."}
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot", "max_running": 2}], "min_residency_s": 0},
            "experts": [
                {"id": name, "host": "slot", "model": f"org/{name}", "card": card}
                for name, card in cards.items()
            ],
            "routers": {
                "default": "task",
                "available": [{"name": "task", "kind": "instruction", "options": chosen}],
            },
        }
    )


@asynccontextmanager
async def world(**options: Any) -> AsyncIterator[World]:
    engine = WriterEngine()
    service = build_service(registry(**options), Path(), lambda *_: engine)
    async with serving(service) as url, httpx.AsyncClient(base_url=url) as http:
        yield World(http, engine, service)
    assert engine.violations == []


async def test_the_writer_is_a_leg_of_its_own_that_ends_before_the_expert_s_begins() -> None:
    async with world() as w:
        receipt = (await w.ask())["coe"]
        legs = [(leg["expert"], leg["role"], leg["outcome"]) for leg in receipt["legs"]]
        assert legs == [("writer", "router", "ok"), ("money", "answer", "ok")]
        assert receipt["legs"][0]["tokens"] > 0
        assert f'instruction by writer "{NOTE}"' in receipt["reason"]
        assert w.engine.bounds == [16]
        assert w.engine.called("ensure_ready") == ["writer", "money"]


async def test_a_question_said_again_in_other_case_and_spaces_costs_no_call() -> None:
    async with world() as w:
        await w.ask("what about this one")
        again = (await w.ask("  What about\nthis one "))["coe"]
        assert [leg["role"] for leg in again["legs"]] == ["answer"]
        assert f'"{NOTE}"' in again["reason"]
        assert (len(w.engine.prompts), w.counts()) == (1, {"written": 1, "kept": 1})
        metrics = (await w.http.get("/metrics")).text
        assert 'coe_writer_calls_total{result="kept"} 1.0' in metrics
        assert 'coe_legs_total{outcome="ok",role="router"} 1.0' in metrics


async def test_a_writer_that_is_late_is_done_without() -> None:
    async with world(writer_deadline_s=0.05) as w:
        w.engine.gate.clear()
        receipt = (await w.ask("which trees have flowers"))["coe"]
        assert [leg["outcome"] for leg in receipt["legs"]] == ["late", "ok"]
        assert receipt["expert"] == "garden"
        assert receipt["reason"].endswith("without instruction by writer (late)")


async def test_the_client_s_patience_is_shared_with_the_answer() -> None:
    async with world(writer_deadline_s=60) as w:
        w.engine.gate.clear()
        receipt = (await w.ask("which trees have flowers", patience_s=1.0))["coe"]
        assert [leg["outcome"] for leg in receipt["legs"]] == ["late", "ok"]


async def test_a_writer_that_keeps_failing_is_left_alone_for_a_while() -> None:
    async with world() as w:
        w.engine.broken = True
        reasons = [
            (await w.ask(f"trees and flowers {number}"))["coe"]["reason"] for number in range(MISSES + 1)
        ]
        assert all("by writer (failed: " in reason for reason in reasons[:MISSES])
        assert reasons[MISSES].endswith("by writer (paused: it gave nothing several times)")
        assert (len(w.engine.prompts), w.counts()) == (MISSES, {"failed": MISSES, "paused": 1})


async def test_a_writer_without_words_is_not_asked_the_same_again() -> None:
    async with world() as w:
        w.engine.note = " "
        reasons = [(await w.ask())["coe"]["reason"] for _ in range(2)]
        assert all(reason.endswith("by writer (it wrote nothing)") for reason in reasons)
        assert w.counts() == {"empty": 1, "kept": 1}


async def test_many_questions_at_once_all_get_through_a_single_slot() -> None:
    async with world(writer_deadline_s=60) as w:
        answers = await asyncio.gather(*(w.ask(f"question {number}") for number in range(12)))
        assert {answer["coe"]["expert"] for answer in answers} == {"money"}
        assert w.counts() == {"written": 12}


async def test_a_preview_asks_nobody_and_knows_what_was_written_before() -> None:
    async with world() as w:
        first = (await w.http.post("/v1/route", json={"input": MEANINGLESS})).json()
        assert first["reason"].endswith("by writer (not asked)")
        await w.ask()
        second = (await w.http.post("/v1/route", json={"input": MEANINGLESS})).json()
        assert f'"{NOTE}"' in second["reason"]
        assert len(w.engine.prompts) == 1


async def test_several_experts_usage_counts_the_writer_s() -> None:
    async with world() as w:
        body = await w.ask(experts=2, aggregate="vote")
        by_leg = body["coe"]["usage_by_leg"]
        assert [leg["role"] for leg in by_leg][:2] == ["router", "proposer"]
        assert body["usage"]["completion_tokens"] == sum(leg["completion_tokens"] for leg in by_leg)


async def test_a_client_that_goes_away_gives_the_writer_s_place_back() -> None:
    async with world(writer_deadline_s=60) as w:
        w.engine.gate.clear()
        request = Request("r", "chat/completions", "coe", {"messages": []}, MEANINGLESS)
        asked = asyncio.create_task(w.service.pipeline.answer(request))
        await until(lambda: bool(w.engine.prompts))
        asked.cancel()
        await asyncio.wait([asked])
        await until(lambda: w.service.pool.snapshot().running == 0)
        w.engine.gate.set()
        assert (await w.ask("another"))["coe"]["expert"] == "money"


@pytest.mark.parametrize("late", [False, True])
async def test_what_a_writer_worked_is_on_the_account_when_it_is_late_or_nobody_waits(late: bool) -> None:
    async with world(writer_deadline_s=0.2 if late else 60) as w:
        w.engine.gate.clear()
        account = Account()
        request = Request("r", "chat/completions", "coe", {"messages": []}, MEANINGLESS)
        asked = asyncio.create_task(w.service.pipeline.answer(request, account))
        await until(lambda: bool(w.engine.prompts))
        await asyncio.sleep(0.05)
        if late:
            await (await asked).aclose()
        else:
            asked.cancel()
            await asyncio.wait([asked])
        (writing, *_) = [each.leg() for each in account.legs]
    assert (writing.expert, writing.role) == ("writer", "router")
    assert writing.run_ms is not None
    assert writing.run_ms >= 45
    assert writing.outcome == "cancelled"
    assert account.prompts == ({"r"} if late else set())


async def test_another_model_behind_the_writer_writes_anew() -> None:
    async with world() as w:
        await w.ask()
        notes, call = w.service.pipeline.writer_calls, w.service.generations.current.routers["task"]
        wanted: RouterCall = call.call(MEANINGLESS)  # type: ignore[attr-defined]
        writer = w.service.generations.current.registry.expert("writer")
        assert writer is not None
        assert notes.find(wanted, writer) == RouterText(NOTE)
        assert notes.find(wanted, writer.model_copy(update={"model": "org/newer"})) is None
        assert notes.find(replace(wanted, prompt="another"), writer) is None


# Equal errands at once


async def test_equal_questions_at_once_have_their_text_written_once() -> None:
    async with world(writer_deadline_s=60) as w:
        w.engine.gate.clear()
        asked = [asyncio.create_task(w.ask()) for _ in range(5)]
        await until(lambda: bool(w.engine.prompts))
        w.engine.gate.set()
        answers = await asyncio.gather(*asked)
        assert all(f'"{NOTE}"' in answer["coe"]["reason"] for answer in answers)
        roles = [leg["role"] for answer in answers for leg in answer["coe"]["legs"]]
        assert (roles.count("router"), len(w.engine.prompts)) == (1, 1)
        counts = w.counts()
        assert counts.pop("written") == 1
        assert set(counts) <= {"shared", "kept"}, "one may come when all is written"
        assert sum(counts.values()) == 4


async def test_who_waits_for_the_text_of_a_request_that_goes_away_has_it_written_anew() -> None:
    async with notes_world() as w:
        first, second = w.begin("a"), w.begin("b")
        await until(lambda: len(w.engine.prompts) == 1)
        first.cancel()
        await until(lambda: len(w.engine.prompts) == 2)
        w.engine.gate.set()
        run = await second
        assert (run.found, run.leg is not None) == (RouterText(NOTE), True)


async def test_who_waits_too_long_for_another_s_text_decides_without() -> None:
    async with notes_world() as w:
        first = w.begin("a")
        await until(lambda: len(w.engine.prompts) == 1)
        assert (await w.begin("b", patience_s=0.05)) == Run(RouterText(None, "late"))
        w.engine.gate.set()
        assert (await first).found == RouterText(NOTE)


async def test_a_private_request_neither_waits_for_another_s_text_nor_leaves_its_own() -> None:
    async with notes_world() as w:
        first, private = w.begin("a"), w.begin("b", private=True)
        await until(lambda: len(w.engine.prompts) == 2)
        first.cancel()
        w.engine.gate.set()
        assert (await private).found == RouterText(NOTE)
        await asyncio.wait([first])
        assert w.calls.find(w.call, w.writer) is None


async def test_a_shadow_writes_nothing() -> None:
    async with notes_world() as w:
        shadow = w.writer.model_copy(update={"shadow": True})
        run = await w.calls.run(w.call, shadow, w.request("a"), 10.0)
        assert (run.found.text, run.leg, w.engine.prompts) == (None, None, [])
    experts = [Expert(id=name, host="h", model="m", shadow=name == "writer") for name in ("writer", "money")]
    listed = Registry.model_validate(
        {**registry().model_dump(), "experts": [e.model_dump() for e in experts]}
    )
    with pytest.raises(ConfigError, match='no expert "writer", or it is a shadow'):
        build_router(listed.routers.available[0], listed.routed, Path())
