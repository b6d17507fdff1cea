"""The benchmark of routers with a writer: its stream of questions, its account, a run on a fake engine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks.llm_routers import Load, Sent, result, send, stream, with_writers
from coe.registry.schema import Registry
from coe.service.service import build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.serving import serving

QUESTIONS = ["What is 2 + 3?", "Spell cat.", "Sort 3 1 2."]


def test_every_question_comes_and_the_first_comes_most() -> None:
    texts = stream(QUESTIONS, 60, zipf=1.5, seed=0)
    counts = Counter(" ".join(text.casefold().split()) for text in texts)
    assert set(counts) == {question.casefold() for question in QUESTIONS}
    assert counts.most_common(1)[0][0] == QUESTIONS[0].casefold()
    assert (len(texts), texts) == (60, stream(QUESTIONS, 60, zipf=1.5, seed=0))


def test_calls_hits_and_fall_backs_are_told_apart() -> None:
    answer = {"role": "answer", "outcome": "ok", "queue_ms": 0.0, "run_ms": 1.0, "tokens": 1}
    wrote = {"role": "router", "outcome": "ok", "queue_ms": 10.0, "run_ms": 30.0, "tokens": 4}
    late = {"role": "router", "outcome": "late", "queue_ms": 900.0, "run_ms": None, "tokens": None}
    sent = [Sent((wrote, answer), 0.2), Sent((late, answer), 2.0), Sent((answer,), 0.1), None]
    counts = {"kept": 1, "written": 1, "late": 1, "failed": 0, "paused": 0, "empty": 0}
    found = result("skill", sent, counts, 3.0)
    assert (found.requests, found.failed) == (4, 1)
    assert (found.hit_rate, found.fall_backs) == (1 / 3, 1 / 3)
    assert (found.queue_p50_ms, found.run_p50_ms, found.call_p50_ms) == (10.0, 30.0, 40.0)
    assert found.request_p50_with_hit_ms == 100.0


async def test_requests_go_to_the_router_that_is_measured() -> None:
    registry = Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}], "min_residency_s": 0},
            "experts": [{"id": name, "host": "slot", "model": name} for name in ("writer", "sums")],
            "routers": {"default": "random"},
        }
    )
    chosen = with_writers(registry, ["skill", "instruction"], {"writer": "writer", "encoder": "static"})
    service = build_service(chosen, Path(), lambda *_: FakeEngine("slot", Script()))
    async with serving(service):
        sent = await send(service, "instruction", Load(["one", "two", " ONE "], 1))
        assert await send(service, "skill", Load(["one"], 1, seconds=-1.0)) == []
    assert [each is not None and each.writing is not None for each in sent] == [True, True, False]
