"""Experts join and leave a running service: over HTTP, the real pool, fake engines."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from coe.core.errors import BadRequest, ConfigError, UnknownModel
from coe.onboarding.profiler import Probes, profile_recorded
from coe.profiles.outcomes import Source, recorded
from coe.registry.edit import add_experts, remove_expert
from coe.routers.encoders.encoder import open_encoder
from coe.service.build_generation import GenerationBuilder
from coe.service.registry_file import parse_registry
from coe.testing.engines import Script
from tests.support.live import TEXT, live_world
from tests.support.profiles import outcome_set
from tests.support.waiting import until

LAW = "  - id: law\n    host: slot\n    model: org/law\n"


async def test_an_edit_of_the_file_becomes_the_next_generation(tmp_path: Path) -> None:
    async with live_world(tmp_path) as w:
        assert (await w.ask("law")).status_code == 404
        w.write("routers:", LAW + "routers:")
        await until(lambda: w.generation == 2)
        answer = await w.ask("law")
        assert answer.json()["model"] == "law"
        assert answer.headers["x-coe-generation"] == "2"
        assert w.engines["slot"].adopted == ("sums", "words", "law")


async def test_a_bad_edit_is_refused_with_its_line_and_the_last_good_one_serves_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with live_world(tmp_path) as w:
        w.write("host: slot\n    model: org/words", "host: slto\n    model: org/words")
        await until(lambda: w.live.refusal is not None)
        assert w.live.refusal is not None
        assert 'experts.yaml:13:5: expert "words" is on host "slto"' in w.live.refusal.message
        assert "generation 1 keeps serving" in caplog.text
        ready = await w.http.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["reasons"] == [
            "the last edit of experts.yaml was refused; generation 1 keeps serving"
        ]
        assert (await w.ask("words")).status_code == 200
        w.write("slto", "slot")
        await until(lambda: w.live.refusal is None)
        assert w.generation == 1


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("max_running: 4", "max_running: 5", r"experts.yaml:6:7: host slot cannot change its max_running"),
        ("org/words", "./nowhere", r"experts.yaml:12:5: words: The checkpoint folder .* does not exist"),
        ("default: random", "default: rndom", r"experts.yaml:16:3: .*did you mean \"random\""),
        ("pool:", "pool: [", r"YAML syntax"),
    ],
)
async def test_what_the_running_service_cannot_follow_is_refused(
    tmp_path: Path, old: str, new: str, fault: str
) -> None:
    async with live_world(tmp_path) as w:
        w.write(old, new)
        with pytest.raises(ConfigError, match=fault):
            await w.live.reload()
        assert (w.generation, w.live.refusal is None) == (1, False)


async def test_a_removed_expert_finishes_its_work_and_takes_no_more(tmp_path: Path) -> None:
    script = Script()
    gate = script.hold("ask")
    async with live_world(tmp_path, script) as w:
        asked = [asyncio.create_task(w.ask("words")) for _ in range(6)]  # four running, two in the queue
        await until(lambda: w.service.pool.snapshot().running == 4)
        await w.live.edit(lambda text: remove_expert(text, w.file, "words"))
        refused = await w.ask("words")
        models = await w.http.get("/v1/models")
        gate.set()
        answers = await asyncio.gather(*asked)
        await until(lambda: w.service.pool.snapshot().expert("words") is None)
        assert w.engines["slot"].stats().awake == ()
    assert [answer.status_code for answer in answers] == [200] * 6
    assert {answer.headers["x-coe-generation"] for answer in answers} == {"1"}
    assert refused.status_code == 404
    assert refused.json()["error"]["message"] == (
        'the expert "words" left in generation 2 and takes no new requests'
    )
    assert [model["id"] for model in models.json()["data"]] == ["coe", "sums"]


async def test_a_new_host_is_started_and_one_without_experts_stopped(tmp_path: Path) -> None:
    async with live_world(tmp_path) as w:
        w.write("experts:", "    - id: other\nexperts:")
        w.write("host: slot\n    model: org/words", "host: other\n    model: org/words")
        await w.live.reload()
        assert (await w.ask("words")).status_code == 200
        assert w.service.readiness().ready
        await w.live.edit(lambda text: remove_expert(text, w.file, "words"))
        await until(lambda: w.engines["other"].stats().state == "stopped")
        assert set(w.service.engines()) == {"slot"}


async def test_an_expert_with_another_checkpoint_is_loaded_anew(tmp_path: Path) -> None:
    async with live_world(tmp_path) as w:
        await w.ask("words")
        w.write("org/words", "org/words-2")
        await w.live.reload()
        assert (await w.ask("words")).status_code == 200
        assert w.engines["slot"].called("ensure_ready") == ["words", "words"]


async def test_a_shadow_answers_by_name_and_is_never_routed_to(tmp_path: Path) -> None:
    async with live_world(tmp_path) as w:
        w.write("model: org/words", "model: org/words\n    shadow: true")
        await w.live.reload()
        routed = Counter([(await w.ask()).json()["model"] for _ in range(20)])
        assert routed == {"sums": 20}
        assert (await w.ask("words")).json()["model"] == "words"
        preview = await w.http.post("/v1/route", json={"input": "2+2?"})
        assert [ranked["expert"] for ranked in preview.json()["experts"]] == ["sums"]


@pytest.mark.slow
async def test_adding_and_removing_under_load_loses_no_request(tmp_path: Path) -> None:
    entry = {"id": "law", "host": "slot", "model": "org/law"}
    done = asyncio.Event()
    answers: list[int] = []

    async with live_world(tmp_path, Script(load_s=0.001, first_byte_s=0.001)) as w:

        async def client() -> None:
            while not done.is_set():
                answers.append((await w.ask()).status_code)

        clients = [asyncio.create_task(client()) for _ in range(8)]
        for _ in range(5):
            await w.live.edit(lambda text: add_experts(text, w.file, [entry]))
            await until(lambda: w.service.pool.snapshot().expert("law") is not None)
            await w.live.edit(lambda text: remove_expert(text, w.file, "law"))
        done.set()
        await asyncio.gather(*clients)
        assert w.generation == 11
        assert set(answers) == {200}
        assert w.file.read_text(encoding="utf-8") == TEXT


@pytest.mark.slow
async def test_streams_outlive_removals_bad_edits_and_rollbacks_under_load(tmp_path: Path) -> None:
    entry = {"id": "law", "host": "slot", "model": "org/law"}
    done = asyncio.Event()
    ends: list[tuple[int, bool]] = []

    async with live_world(tmp_path, Script(load_s=0.001, first_byte_s=0.001, chunk_s=0.001)) as w:

        async def client() -> None:
            body = {"model": "coe", "messages": [{"role": "user", "content": "2+2?"}], "stream": True}
            while not done.is_set():
                async with w.http.stream("POST", "/v1/chat/completions", json=body, timeout=30) as answer:
                    raw = await answer.aread()
                ends.append((answer.status_code, raw.endswith(b"data: [DONE]\n\n")))

        clients = [asyncio.create_task(client()) for _ in range(8)]
        for _ in range(3):
            added = await w.live.edit(lambda text: add_experts(text, w.file, [entry]))
            good = w.file.read_text(encoding="utf-8")
            w.write("host: slot\n    model: org/law", "host: slto\n    model: org/law")
            with pytest.raises(ConfigError, match="slto"):
                await w.live.reload()
            assert w.service.generations.current is added
            w.file.write_text(good, encoding="utf-8")
            removed = await w.live.edit(lambda text: remove_expert(text, w.file, "law"))
            await until(lambda n=removed.number: w.live.history.entries()[-1].number == n)  # type: ignore[misc]
            await w.live.rollback(added.number)
            await w.live.edit(lambda text: remove_expert(text, w.file, "law"))
        done.set()
        await asyncio.gather(*clients)
        await until(lambda: w.service.pool.snapshot().expert("law") is None)
        assert set(ends) == {(200, True)}
        assert w.generation == 13


async def test_a_rollback_is_a_new_generation_with_the_old_text(tmp_path: Path) -> None:
    async with live_world(tmp_path) as w:
        await w.live.edit(lambda text: remove_expert(text, w.file, "words"))
        await until(lambda: len(w.live.history.entries()) == 2)
        generation = await w.live.rollback(1)
        assert (generation.number, w.file.read_text(encoding="utf-8")) == (3, TEXT)
        assert [entry.number for entry in w.live.history.entries()] == [1, 2, 3]
        assert (await w.ask("words")).status_code == 200
    async with live_world(tmp_path) as again:
        assert again.generation == 3


async def test_an_edit_that_is_not_valid_leaves_the_file_alone(tmp_path: Path) -> None:
    async with live_world(tmp_path) as w:
        with pytest.raises(ConfigError, match='on host "ghost"'):
            await w.live.edit(
                lambda text: add_experts(text, w.file, [{"id": "x", "host": "ghost", "model": "m"}])
            )
        with pytest.raises(UnknownModel):
            await w.live.edit(lambda text: remove_expert(text, w.file, "ghost"))
        assert (w.file.read_text(encoding="utf-8"), w.generation) == (TEXT, 1)


THEIRS = {
    "a note": TEXT + "# a note\n",
    "another model": TEXT.replace("org/words", "org/verbs"),
    "empty": "",
    "invalid": TEXT.replace("max_running: 4", "nonsense"),
}
UNWATCHED = TEXT + "service: {watch: false}\n"


@pytest.mark.parametrize("theirs", THEIRS.values(), ids=list(THEIRS))
async def test_an_edit_by_somebody_else_at_the_same_time_stays(tmp_path: Path, theirs: str) -> None:
    async with live_world(tmp_path, text=UNWATCHED) as w:

        def change(text: str) -> str:
            w.file.write_text(theirs, encoding="utf-8")
            return text.replace("routers:", LAW + "routers:")

        with pytest.raises(BadRequest, match="changed by someone else") as refused:
            await w.live.edit(change)
        assert refused.value.code == "registry_changed"
        assert w.file.read_text(encoding="utf-8") == theirs
        assert w.generation == 1
        assert (await w.ask("law")).status_code == 404


@pytest.mark.parametrize("theirs", [None, *THEIRS.values()], ids=["nobody", *THEIRS])
async def test_a_change_that_could_not_be_made_is_taken_back_but_no_edit_that_came_since(
    tmp_path: Path, theirs: str | None
) -> None:
    async with live_world(tmp_path, text=UNWATCHED) as w:

        async def refuse(_: object) -> None:
            assert "law" in w.file.read_text(encoding="utf-8")
            if theirs is not None:
                w.file.write_text(theirs, encoding="utf-8")
            raise ConfigError("the engine does not follow")

        w.service.registry_pool.switch_to = refuse  # type: ignore[method-assign, assignment]
        with pytest.raises(ConfigError, match="does not follow"):
            await w.live.edit(lambda text: text.replace("routers:", LAW + "routers:"))
        assert w.file.read_text(encoding="utf-8") == (UNWATCHED if theirs is None else theirs)
        assert w.generation == 1


@pytest.mark.parametrize(("asked", "given"), [(0, 2), (1, 2), (2, 2), (7, 7)])
async def test_an_edit_is_the_next_generation_or_a_later_one_that_is_named(
    tmp_path: Path, asked: int, given: int
) -> None:
    async with live_world(tmp_path, text=UNWATCHED) as w:
        made = await w.live.edit(lambda text: text.replace("routers:", LAW + "routers:"), number=asked)
        assert (made.number, w.generation) == (given, given)
        assert (await w.ask("law")).headers["x-coe-generation"] == str(given)


async def test_settings_that_count_after_a_restart_are_named(tmp_path: Path) -> None:
    async with live_world(tmp_path) as w:
        w.write("min_residency_s: 0\n", "min_residency_s: 1\n")
        await w.live.reload()
        assert w.live.needs_restart == ("pool.min_residency_s",)


@pytest.mark.slow
def test_a_router_is_built_again_only_where_its_inputs_changed(tmp_path: Path) -> None:
    examples = tmp_path / "examples.jsonl"
    examples.write_text(
        '{"text": "one and two", "category": "sums"}\n{"text": "a noun", "category": "words"}\n'
    )
    options = "{name: category, kind: category, options: {examples: examples.jsonl}}"
    text = TEXT.replace("default: random", f"default: category\n  available: [{options}]")
    file = tmp_path / "experts.yaml"
    builder = GenerationBuilder(tmp_path)
    first = builder.build(parse_registry(text, file), 1).routers["category"]
    unchanged = builder.build(parse_registry(text + "limits: {max_queue: 5}\n", file), 2)
    assert unchanged.routers["category"] is first
    more = builder.build(parse_registry(text.replace("routers:", LAW + "routers:"), file), 3)
    renewed = more.routers["category"]
    assert renewed is not first
    assert vars(renewed)["_classifier"] is vars(first)["_classifier"]
    assert {ranked.expert for ranked in renewed.route("3 and 4", more.experts).ranking} == {
        "sums",
        "words",
        "law",
    }
    examples.write_text('{"text": "one", "category": "sums"}\n{"text": "a verb", "category": "words"}\n')
    anew = builder.build(parse_registry(text, file), 4).routers["category"]
    assert vars(anew)["_classifier"] is not vars(first)["_classifier"]


async def test_a_new_profile_counts_without_a_restart(tmp_path: Path) -> None:
    text = TEXT.replace(
        "default: random", "default: knn\n  available: [{name: knn, kind: knn, options: {encoder: static}}]"
    )
    async with live_world(tmp_path, text=text) as w:
        assert (await w.ask()).json()["coe"]["reason"].count("by cards alone")
        outcomes = outcome_set(60)
        vectors = open_encoder("static", tmp_path).encode([q.text or "" for q in outcomes.questions])
        told = recorded(
            replace(outcomes, experts=("sums", *outcomes.experts[1:])), vectors, "static", Source("made")
        )
        registry = w.service.generations.current.registry
        profile_recorded(registry, tmp_path, registry.experts[0], told, Probes())
        await until(lambda: w.generation == 2)
        assert w.service.generations.current.reason == "profiles or files that routers read were changed"
        assert "by cards alone" not in (await w.ask()).json()["coe"]["reason"]
