"""Profiles made by asking an expert."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from coe.core.errors import BadRequest, EngineError
from coe.onboarding import profiler
from coe.onboarding.profiler import ProbeProfiler, Probes, profile_asked
from coe.profiles.evidence import evidence_of
from coe.profiles.store import open_store
from tests.support.profiles import choice_data, registry_of


async def _expert_that_answers_b(request: web.Request) -> web.Response:
    body = await request.json()
    request.app[ASKED].append(body["messages"][0]["content"])
    return web.json_response(
        {"choices": [{"message": {"content": "So. The answer is (B)."}}], "usage": {"completion_tokens": 7}}
    )


ASKED = web.AppKey("asked", list)


def test_asked_expert_gets_a_profile_and_the_run_goes_on_where_it_was(tmp_path: Path) -> None:
    registry = registry_of("lawyer", "stranger")
    with Served(_expert_that_answers_b) as server:
        ask = functools.partial(
            profile_asked, registry, tmp_path, registry.experts[1], choice_data(), server.url
        )
        first = ask(Probes(20))
        again = ask(Probes(20))
        asked = len(server.asked)
        other = registry.experts[1].model_copy(update={"model": "org/other"})
        profile_asked(registry, tmp_path, other, choice_data(), server.url, Probes(20))
    assert (asked, len(server.asked)) == (20, 40)  # what the former model answered does not count for another
    assert first == again
    assert 0.5 < first.overall.mean < 1
    assert first.cost.mean_output_tokens == 7
    assert evidence_of(open_store(registry, tmp_path), registry.experts) is not None


def test_running_expert_is_asked_by_the_service_it_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiler, "read_recorded", lambda folder: choice_data(400))
    asked: list[str] = []

    async def ask(question: str) -> str:
        asked.append(question)
        return "The answer is (B)."

    registry = registry_of("lawyer", "stranger", probes="questions")
    report = asyncio.run(ProbeProfiler(tmp_path).profile(registry, "stranger", ask))
    assert report.questions == len(set(asked)) == 200
    found = open_store(registry, tmp_path).of(registry.experts[1])
    assert [profile.overall.count for profile in found] == [200]
    assert 0.6 < found[0].overall.mean < 0.9
    assert found[0].estimate is not None


async def test_where_one_question_fails_the_others_are_not_asked_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiler, "read_recorded", lambda folder: choice_data(400))
    ends: list[str] = []

    async def ask(question: str) -> str:
        if not ends:
            ends.append("failed")
            await asyncio.sleep(0)  # those that may be asked with it have begun
            raise EngineError("the expert is gone")
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("stopped")
        raise AssertionError("nobody ends it")

    with pytest.raises(EngineError, match="is gone"):
        await ProbeProfiler(tmp_path).profile(
            registry_of("lawyer", "stranger", probes="questions"), "stranger", ask
        )
    assert ends == ["failed"] + ["stopped"] * (len(ends) - 1)
    assert len(ends) > 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_open_questions_are_put_as_they_stand_and_marked_strictly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golds = ("35", "Road", '{"age": 60, "name": "Maria"}')
    made = choice_data(120)
    questions = tuple(
        replace(q, options=(), gold=golds[i % len(golds)]) for i, q in enumerate(made.outcomes.questions)
    )
    data = replace(made, outcomes=replace(made.outcomes, questions=questions))
    monkeypatch.setattr(profiler, "read_recorded", lambda folder: data)
    gold = {q.text: q.gold for q in questions}
    says = {"35": "The answer is 35.", "Road": "road.", golds[2]: "I would say Maria, who is 60."}

    async def ask(question: str) -> str:
        return says[gold[question] or ""]

    registry = registry_of("lawyer", "stranger", probes="questions")
    asyncio.run(ProbeProfiler(tmp_path).profile(registry, "stranger", ask))
    (profile,) = open_store(registry, tmp_path).of(registry.experts[1])
    # Categories take turns as the gold answers do.
    assert {name: tally.mean for name, tally in profile.categories.items()} == {
        "law": 1.0, "maths": 1.0, "biology": 0.0,
    }  # fmt: skip


def test_registry_without_probe_questions_says_how_to_name_some(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="names no questions") as refused:
        ProbeProfiler(tmp_path).require(registry_of("lawyer"))
    assert "probes: DIR" in str(refused.value.hint)


def test_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    registry = registry_of("stranger", "lawyer")
    with pytest.raises(EngineError, match="did not answer a probe question"):
        profile_asked(
            registry, tmp_path, registry.experts[0], choice_data(), "http://127.0.0.1:9", Probes(20)
        )


class Served:
    """An HTTP server in a thread of its own."""

    def __init__(self, handler: Callable[[web.Request], Awaitable[web.Response]]) -> None:
        self.asked: list[str] = []
        self._app = web.Application()
        self._app[ASKED] = self.asked
        self._app.router.add_post("/v1/chat/completions", handler)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def _start(self) -> int:
        self._runner = web.AppRunner(self._app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return int(self._runner.addresses[0][1])

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
