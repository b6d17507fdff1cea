"""Work is paid for, whatever came of it, and budgets hold while many ask at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from coe.access.api_keys import Holder, KeyLimits, digest
from coe.access.limits import TOKENS_PER_S, Used, estimate, used
from coe.core.errors import EngineError, ExpertRefused
from coe.core.types import Leg, Options, Request
from coe.gateway import middlewares as building
from coe.pipeline import Pipeline
from coe.pipeline.generation import Generations
from coe.pipeline.legs import Account
from coe.registry.schema import Registry
from coe.service.registry_file import parse_registry
from coe.service.service import build_service
from coe.state.memory import MemoryStore
from coe.state.store import Admission, Bill, Refusal
from coe.testing.engines import FakeEngine, Script
from tests.support import several
from tests.support.serving import serving
from tests.support.upstream import chunk, completion, event, scripted_upstream, stream, whole
from tests.support.waiting import until

KEY = "coe-secret"
HEADERS = {"Authorization": f"Bearer {KEY}"}
CHAT: dict[str, Any] = {"model": "sums", "messages": [{"role": "user", "content": "x" * 400}]}
WORK_S = 0.1


class Book(MemoryStore):
    """What alice has used this month, and what is reserved for her."""

    def amounts(self) -> dict[str, float]:
        (found,) = [*self._totals.values()] or [{}]
        return found

    def reserved(self) -> int:
        return sum(map(len, self._reserved.values()))


def registry(**fields: Any) -> Registry:
    price = {"input": 1_000_000, "output": 2_000_000}
    experts = [
        {"id": name, "host": "slot", "model": name, "price": price} for name in ("sums", "words", "base")
    ]
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot", "max_running": 64}]},
            "experts": experts,
            "routers": {"default": "random"},
            **fields,
        }
    )


def keys(folder: Path, **limits: float) -> dict[str, str]:
    holder = Holder(id="alice", sha256=digest(KEY), limits=KeyLimits(**limits))
    (folder / "keys.yaml").write_text(
        json.dumps({"keys": [holder.model_dump(mode="json", exclude_none=True)]})
    )
    return {"keys_file": "keys.yaml"}


@dataclass
class World:
    client: httpx.AsyncClient
    engine: FakeEngine
    book: Book

    async def ask(self, **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json={**CHAT, **fields}, headers=HEADERS)

    async def charged(self) -> dict[str, float]:
        """Once nothing is reserved any more."""
        await until(lambda: not self.book.reserved())
        return self.book.amounts()

    async def metric(self, name: str) -> float:
        lines = (await self.client.get("/metrics")).text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name + " "))


@asynccontextmanager
async def world(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: Script,
    allowed: Mapping[str, float],
    elsewhere: bool = False,
    **fields: Any,
) -> AsyncIterator[World]:
    book, engine = Book(), FakeEngine("slot", script, None if elsewhere else 1)
    if elsewhere:  # all experts are there at once
        engine.wake_at_start("sums", "words", "base")
        host = {"id": "slot", "kind": "remote", "url": "http://127.0.0.1:1/v1"}
        fields = {"pool": {"hosts": [host]}, **fields}
    monkeypatch.setattr(building, "open_store", lambda _: book)
    built = build_service(registry(access=keys(folder, **allowed), **fields), folder, lambda *_: engine)
    async with serving(built) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        yield World(client, engine, book)


MANY: dict[str, float] = {"requests_per_month": 1000, "tokens_per_month": 1e9, "gpu_seconds_per_month": 1e9}


# Every end of a request is charged


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_hangs_up_before_the_first_byte_pays_for_the_work(
    streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch, Script(first_byte_s=60), MANY) as w:
        asked = asyncio.create_task(w.ask(stream=streamed, max_tokens=7))
        await until(lambda: w.engine.called("ask"))
        await asyncio.sleep(WORK_S)
        asked.cancel()
        await until(w.book.amounts)
        charged = await w.charged()
        assert charged["requests"] == 1
        assert charged["gpu_seconds"] >= WORK_S * 0.9
        assert charged["tokens"] >= 100, "the prompt was read"
        assert await w.metric("coe_gpu_seconds_total") == pytest.approx(charged["gpu_seconds"])


async def test_a_time_out_is_paid_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"request_timeout_s": 2.0}
    async with world(tmp_path, monkeypatch, Script(), MANY, limits=limits) as w:
        assert (await w.ask()).status_code == 200  # the expert is here from now on
        before = dict(await w.charged())
        w.engine.script.first_byte_s = 60
        answer = await w.ask()
        charged = await w.charged()
    assert answer.status_code == 504
    assert charged["requests"] == 2
    assert charged["gpu_seconds"] - before["gpu_seconds"] > 0.2
    assert charged["tokens"] - before["tokens"] > 101, "the prompt, and what it was worth"


@pytest.mark.parametrize(
    "errors", [["broken"], ["broken", "broken again", "and again"]], ids=["one expert", "all experts"]
)
async def test_legs_that_failed_are_paid_for_by_their_time(
    errors: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(first_byte_s=WORK_S, text="four")
    script.fail("ask", *errors)
    async with world(tmp_path, monkeypatch, script, MANY, elsewhere=True) as w:
        answer = await w.ask(model="coe")
        charged = await w.charged()
        asked = len(w.engine.called("ask"))
    assert answer.status_code == (200 if len(errors) < asked else 502)
    assert charged["requests"] == 1
    assert charged["gpu_seconds"] >= asked * WORK_S * 0.9
    assert asked >= min(2, len(errors) + 1)


async def test_a_request_that_never_got_a_place_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script()
    gate = script.hold("ensure_ready")
    async with world(tmp_path, monkeypatch, script, MANY) as w:
        refused = await w.ask(coe={"patience_s": 0.05})
        left = asyncio.create_task(w.ask())
        await until(w.book.reserved)
        left.cancel()
        charged = await w.charged()
        unknown, wrong = await w.ask(model="nobody"), await w.ask(temperature="hot")
        gate.set()
        assert refused.status_code in (429, 504)
        assert (unknown.status_code, wrong.status_code) == (404, 400)
        assert await w.metric("coe_gpu_seconds_total") == 0.0
    assert charged == {} == {name: value for name, value in w.book.amounts().items() if value}


async def test_a_panel_that_is_given_up_pays_for_each_of_its_experts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(first_byte_s=60)
    async with world(tmp_path, monkeypatch, script, MANY, elsewhere=True) as w:
        asked = asyncio.create_task(w.ask(model="coe", coe={"experts": 3, "aggregate": "vote"}))
        await until(lambda: len(w.engine.called("ask")) == 3)
        await asyncio.sleep(WORK_S)
        asked.cancel()
        await until(w.book.amounts)
        charged = await w.charged()
    assert charged["requests"] == 1
    assert charged["gpu_seconds"] >= 3 * WORK_S * 0.9
    assert charged["tokens"] >= 3 * 100


@pytest.mark.parametrize("options", [{"experts": 3}, {"experts": 2, "aggregate": "synthesise"}])
@pytest.mark.parametrize("streamed", [False, True])
async def test_legs_of_all_roles_have_their_time_when_the_request_is_given_up(
    options: dict[str, Any], streamed: bool
) -> None:
    says: dict[str, Any] = {"sums": asyncio.Event(), "words": "4", "base": asyncio.Event()}
    if "aggregate" in options:  # both propose, and the one that writes does not come to an end
        says = {"sums": ["4", asyncio.Event()], "words": "5"}
    script, account = several.Script(says), Account()
    pipeline = Pipeline(Generations(several.generation()), script)
    asked = several.request(body={"stream": streamed}, **options)

    async def read() -> None:
        answer = await pipeline.answer(asked, account)
        async with asyncio.timeout(60):
            try:
                async for _ in answer.chunks():
                    pass
            finally:
                await answer.aclose()

    reading = asyncio.create_task(read())
    await until(lambda: len(account.legs) == 3)
    reading.cancel()
    await asyncio.wait([reading])
    legs = [each.leg() for each in account.legs]
    assert script.out == []
    assert all(leg.run_ms is not None for leg in legs)
    assert {leg.outcome for leg in legs} == {"ok", "cancelled"}
    assert [leg.role for leg in legs].count("aggregator") == ("aggregate" in options)
    assert all(each.sent["messages"] for each in account.legs)


@pytest.mark.parametrize(
    "error", [EngineError("dead"), ExpertRefused(429, "busy", elsewhere=True)], ids=["error", "refusal"]
)
async def test_failed_legs_of_a_receipt_have_their_times(error: Exception) -> None:
    script = several.Script({"sums": error, "words": "4"})  # type: ignore[dict-item]
    answer = await Pipeline(Generations(several.generation()), script).answer(several.request())
    async for _ in answer.chunks():
        pass
    failed, good = answer.receipt().legs
    assert failed.outcome.startswith("failed: ")
    assert (failed.run_ms is not None, failed.queue_ms, good.outcome) == (True, 5.0, "ok")


# What is counted where nobody says


BODY: dict[str, Any] = {"prompt": "x" * 40}


@pytest.mark.parametrize(
    ("leg", "body", "tokens"),
    [
        (Leg("sums", run_ms=2000, outcome="cancelled"), BODY, 10 + 2 * TOKENS_PER_S),
        (Leg("sums", run_ms=2000, outcome="failed: engine_broke_off"), BODY, 10 + 2 * TOKENS_PER_S),
        (Leg("sums", run_ms=2000, outcome="cancelled"), {**BODY, "max_tokens": 5}, 15),
        (Leg("sums", run_ms=2000, outcome="cancelled"), {**BODY, "max_tokens": 5, "n": 3}, 25),
        (Leg("sums", run_ms=2000, outcome="cancelled", events=6), {**BODY, "stream": True}, 16),
        (Leg("sums", run_ms=2000, outcome="cancelled"), {**BODY, "stream": True}, 10),
        (Leg("sums", run_ms=2000, outcome="failed: stream_broken", events=3), {**BODY, "stream": True}, 13),
        (Leg("sums", run_ms=2000, outcome="failed: engine_failed"), BODY, 0),
        (Leg("sums", run_ms=2000, outcome="failed: rate_limit_exceeded"), BODY, 0),
        (Leg("sums", run_ms=2000, outcome="ok", tokens=4, prompt_tokens=3), BODY, 7),
        (Leg("sums", run_ms=2000, outcome="ok", prompt_tokens=0, tokens=4), BODY, 4),
        (Leg("sums"), BODY, 0),
    ],
)
def test_tokens_of_a_leg(leg: Leg, body: dict[str, Any], tokens: float) -> None:
    found = used([(leg, body)], registry())
    assert found.tokens == tokens
    assert found.gpu_seconds == (leg.run_ms or 0) / 1000


@pytest.mark.parametrize(
    ("fields", "tokens", "usd"),
    [
        ({"max_tokens": 5}, 10 + 5, 10 + 10),
        ({"max_completion_tokens": 6}, 10 + 6, 10 + 12),
        ({"max_tokens": 5, "n": 3}, 10 + 15, 10 + 30),
        ({}, 10 + 50, 10 + 100),
        ({"max_tokens": 5, "prompt": ["x" * 20, "y" * 20]}, 10 + 10, 10 + 20),
    ],
)
def test_an_estimate_is_the_prompt_and_what_the_answer_may_have(
    fields: dict[str, Any], tokens: float, usd: float
) -> None:
    asked = Request("r", "completions", "sums", {**BODY, **fields}, "", Options())
    found = estimate(asked, registry(), Used(tokens=50))
    assert (found["tokens"], found["usd"]) == (tokens, usd)


def test_a_routed_request_is_estimated_by_the_dearest_expert_for_each_that_it_asks() -> None:
    dear = registry().experts[0].model_copy(update={"id": "dear", "price": registry().experts[0].price})
    cheap = [each.model_copy(update={"price": None}) for each in registry().experts]
    mixed = registry().model_copy(update={"experts": (*cheap, dear)})
    asked = Request("r", "completions", "coe", {**BODY, "max_tokens": 5}, "", Options(experts=3))
    assert estimate(asked, mixed, Used())["usd"] == 3 * (10 + 10)


UPSTREAM = """
access: {{keys_file: keys.yaml}}
pool: {{hosts: [{{id: api, kind: remote, url: "{url}/v1", timeout_s: 5, max_failures: 1000}}]}}
experts: [{{id: sums, host: api, model: m}}, {{id: words, host: api, model: m}}]
routers: {{default: random}}
"""
ABSURD: list[Any] = [
    {"prompt_tokens": -3, "completion_tokens": -5, "total_tokens": -8},
    {"prompt_tokens": 10**400, "completion_tokens": 10**30},
    {"prompt_tokens": 1.5, "completion_tokens": "7"},
    {"prompt_tokens": None, "completion_tokens": [1]},
    ["no", "object"],
]


@pytest.mark.parametrize("usage", ABSURD)
async def test_an_upstreams_absurd_usage_is_no_usage(
    usage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    book = Book()
    monkeypatch.setattr(building, "open_store", lambda _: book)
    keys(tmp_path, tokens_per_month=1e9)
    async with scripted_upstream() as upstream:
        text = UPSTREAM.format(url=upstream.url)
        built = build_service(parse_registry(text, tmp_path / "experts.yaml"), tmp_path)
        async with serving(built) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
            w = World(client, FakeEngine(), book)
            upstream.play("m", whole(completion("y" * 40, usage=usage)))
            first = await w.ask()
            told = (await w.charged())["tokens"]
            merged = await w.ask(model="coe", coe={"experts": 2, "aggregate": "vote"})
            chunks = [chunk({"content": "4"}), chunk({"content": "2"}, "stop"), chunk(None, usage=usage)]
            upstream.play("m", stream(*map(event, chunks), b"data: [DONE]\n\n"))
            streamed = await w.ask(stream=True)
            before = dict(await w.charged())
            await until(lambda: w.book.amounts()["requests"] == 3)
            assert (first.status_code, merged.status_code, streamed.status_code) == (200, 200, 200)
            assert streamed.text.endswith("data: [DONE]\n\n")
            assert (
                'coe_requests_total{endpoint="/v1/chat/completions",status="200"} 3.0'
                in (await client.get("/metrics")).text
            )
    assert told == 101 + 10, "four characters are a token"
    assert before["tokens"] >= told
    assert not [record for record in caplog.records if record.exc_info]


# Budgets while many ask at once


async def test_of_sixty_at_once_exactly_the_budget_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(text="four")
    gate = script.hold("ask")
    async with world(tmp_path, monkeypatch, script, {"requests_per_month": 20}) as w:
        asked = [asyncio.create_task(w.ask()) for _ in range(60)]
        await until(lambda: sum(task.done() for task in asked) == 40)
        gate.set()
        answers = await asyncio.gather(*asked)
        late = await w.ask()
        assert (await w.charged())["requests"] == 20
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (20, 40)
    under_way = next(answer for answer in answers if answer.status_code == 429)
    assert under_way.json()["error"]["code"] == late.json()["error"]["code"] == "budget_exceeded"
    assert "under way" in under_way.json()["error"]["message"]
    assert "used up" in late.json()["error"]["message"]


async def test_what_fails_or_is_given_up_counts_and_what_never_began_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(text="four", first_byte_s=0.01)
    script.fail("ask", *["broken"] * 4)
    async with world(tmp_path, monkeypatch, script, {"requests_per_month": 20}) as w:
        broken = [await w.ask() for _ in range(4)]
        unknown = [await w.ask(model="nobody") for _ in range(10)]
        streams = [await w.ask(stream=True) for _ in range(4)]
        script.first_byte_s = 60.0
        for number in range(4):
            hanging = asyncio.create_task(w.ask())
            await until(lambda: w.book.reserved() == 1)
            await until(lambda: len(w.engine.called("ask")) >= 9 + number)  # noqa: B023
            await asyncio.sleep(0.05)
            hanging.cancel()
            await w.charged()
        script.first_byte_s = 0.01
        rest = [await w.ask() for _ in range(12)]
    assert {answer.status_code for answer in broken} == {502}
    assert {answer.status_code for answer in unknown} == {404}
    assert {answer.status_code for answer in streams} == {200}
    assert [answer.status_code for answer in rest] == [200] * 8 + [429] * 4


@pytest.mark.parametrize("budget", [{"usd_per_month": 1000.0}, {"tokens_per_month": 700.0}])
async def test_money_goes_over_its_budget_by_the_last_request_alone(
    budget: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request costs at most what is reserved for it: 100 tokens of prompt, 20 of an answer."""
    script = Script(text=" ".join(["word"] * 20))
    gate = script.hold("ask")
    async with world(tmp_path, monkeypatch, script, budget) as w:
        asked = [asyncio.create_task(w.ask(max_tokens=20)) for _ in range(60)]
        admitted = 8 if "usd_per_month" in budget else 6
        await until(lambda: sum(task.done() for task in asked) == 60 - admitted)
        gate.set()
        statuses = [answer.status_code for answer in await asyncio.gather(*asked)]
        assert statuses.count(200) == admitted
        more = 0
        while (await w.ask(max_tokens=20)).status_code == 200:
            more += 1
            assert more < 200
        (bound,) = budget.values()
        name = next(iter(budget)).removesuffix("_per_month")
        total = (await w.charged())[name]
    assert bound <= total <= bound + 140


async def test_a_budget_that_is_smaller_than_an_estimate_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch, Script(text="four"), {"tokens_per_month": 5}) as w:
        assert [(await w.ask()).status_code for _ in range(2)] == [200, 200]
        await until(lambda: w.book.amounts()["tokens"] > 3)
        assert (await w.ask()).status_code == 200
        assert (await w.ask()).status_code == 429


async def test_an_answer_from_the_cache_counts_as_a_request_of_no_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch, Script(), {"requests_per_month": 2}, cache={}) as w:
        first = await w.ask(temperature=0)
        tokens = (await w.charged())["tokens"]
        hit, third = await w.ask(temperature=0), await w.ask(temperature=0)
        assert (await w.charged())["tokens"] == tokens
    assert (first.status_code, hit.headers["x-coe-cache"], third.status_code) == (200, "hit", 429)


# Rates


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/route", {"input": "2+2?"}, 200),
        ("/v1/chat/completions", {**CHAT, "temperature": "hot"}, 400),
        ("/v1/completions", {"model": "sums", "prompt": []}, 400),
    ],
)
async def test_routing_and_bad_bodies_count_to_the_rate(
    path: str, body: dict[str, Any], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch, Script(), {"requests_per_minute": 2}) as w:
        answers = [await w.client.post(path, json=body, headers=HEADERS) for _ in range(3)]
        assert (await w.ask()).status_code == 429
        assert await w.charged() == {}
    assert [each.status_code for each in answers] == [status, status, 429]
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("step_s", [-3600.0, -1.0, 86_400.0])
async def test_rates_and_kept_answers_do_not_look_at_the_wall_clock(
    step_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch, Script(), {"requests_per_minute": 2}) as w:
        assert [(await w.ask()).status_code for _ in range(2)] == [200, 200]
        await w.book.put("answer", b"42", ttl_s=0.05)
        await w.book.put("other", b"43", ttl_s=600)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + step_s)
        refused = await w.ask()
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 31
        await asyncio.sleep(0.06)
        assert (await w.book.get("answer"), await w.book.get("other")) == (None, b"43")


# Without Redis a month's usage survives the process


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_budget_that_was_used_up_is_used_up_after_a_restart(streamed: bool, tmp_path: Path) -> None:
    access = keys(tmp_path, requests_per_month=1)
    answers = []
    for _ in range(2):
        engine = FakeEngine("slot", Script(text="four"))
        built = build_service(registry(access=access), tmp_path, lambda *_: engine)  # noqa: B023
        async with serving(built) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
            body = {**CHAT, "stream": streamed}
            answers.append(await client.post("/v1/chat/completions", json=body, headers=HEADERS))
    assert [answer.status_code for answer in answers] == [200, 429]


MONTH = "2026-11"


async def kept(path: Path) -> MemoryStore:
    store = MemoryStore()
    store.keep_totals(path)
    store.start()
    return store


async def test_usage_is_saved_while_the_service_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coe.state.memory.SAVE_EVERY_S", 0.01)
    store = await kept(tmp_path / "var" / "usage.json")
    await store.charge(Bill("alice", {"usd": 1.5, "requests": 1}, period=MONTH))
    await until((tmp_path / "var" / "usage.json").exists)
    killed = MemoryStore()
    killed.keep_totals(tmp_path / "var" / "usage.json")
    assert await killed.used("alice", MONTH) == {"usd": 1.5, "requests": 1}
    await store.close()


async def test_processes_in_one_folder_add_up(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    one, other = await kept(path), await kept(path)
    await one.charge(Bill("alice", {"requests": 2}, period=MONTH))
    await other.charge(Bill("alice", {"requests": 3}, period=MONTH))
    await other.charge(Bill("bob", {"usd": 0.25}, period=MONTH))
    await one.close()
    await other.close()
    assert await other.used("alice", MONTH) == {"requests": 5}
    again = await kept(path)
    assert await again.used("alice", MONTH) == {"requests": 5}
    assert await again.used("bob", MONTH) == {"usd": 0.25}
    assert await again.admit(Admission("alice", budgets={"requests": 5}, period=MONTH)) == Refusal(
        "requests", None
    )
    await again.close()


async def test_a_new_month_begins_at_nothing_and_a_late_bill_of_the_old_one_harms_nobody(
    tmp_path: Path,
) -> None:
    path = tmp_path / "usage.json"
    store = await kept(path)
    await store.charge(Bill("alice", {"requests": 2}, period=MONTH))
    await store.charge(Bill("alice", {"requests": 3}, period="2026-12"))
    await store.charge(Bill("alice", {"requests": 9}, period=MONTH))
    assert await store.used("alice", "2026-12") == {"requests": 3}
    await store.close()
    again = await kept(path)
    assert await again.used("alice", MONTH) == {}
    assert await again.used("alice", "2026-12") == {"requests": 3}
    await again.close()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"period": "2026-11"}', '{"period": 1, "used": {"a": 2}}'])
async def test_a_file_that_cannot_be_read_stops_nobody(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "usage.json"
    path.write_text(text)
    store = await kept(path)
    await store.charge(Bill("alice", {"requests": 2}, period=MONTH))
    await store.close()
    assert "cannot be read" in caplog.text
    again = await kept(path)
    assert await again.used("alice", MONTH) == {"requests": 2}
    await again.close()


async def test_a_disk_that_refuses_costs_no_usage_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("coe.state.memory.SAVE_EVERY_S", 0.01)
    (tmp_path / "var").write_text("a file where the folder should be")
    store = await kept(tmp_path / "var" / "usage.json")
    await store.charge(Bill("alice", {"requests": 2}, period=MONTH))
    await until(lambda: "cannot be saved" in caplog.text)
    (tmp_path / "var").unlink()
    await until((tmp_path / "var" / "usage.json").exists)
    assert await store.used("alice", MONTH) == {"requests": 2}
    await store.close()
    assert caplog.text.count("cannot be saved") == 1
