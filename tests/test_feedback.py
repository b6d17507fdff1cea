"""Clients' marks: what they change, by how much, and that they survive a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.core.types import Decision, Leg, Ranked, Receipt
from coe.pipeline.feedback import Feedback, FeedbackLog, Rating, UnknownAnswer, open_feedback
from coe.registry.schema import Registry
from coe.registry.service_settings import FeedbackSettings
from coe.service.service import build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.serving import serving

ASK: dict[str, Any] = {"model": "coe", "messages": [{"role": "user", "content": "2+2?"}]}


def decision(*chances: float, category: str | None = "sums") -> Decision:
    ranking = tuple(Ranked(name, p) for name, p in zip("abc", chances, strict=False))
    return Decision("category", ranking, ("a",), chances[0], "because", category)


def answer(feedback: Feedback, request: str, expert: str = "a", completion: str | None = None) -> None:
    feedback.applied(request, decision(0.6, 0.4))
    receipt = Receipt(request, 1, "category", expert, 0.6, None, None, "", (Leg(expert),))
    feedback.answered(receipt, completion)


def marked(feedback: Feedback, count: int, score: float, expert: str = "a") -> None:
    for number in range(count):
        answer(feedback, f"{expert}{number}", expert)
        feedback.rate(f"{expert}{number}", score)


def test_without_marks_a_decision_is_untouched() -> None:
    before = decision(0.6, 0.4)
    assert Feedback().applied("r", before) == before


def test_one_bad_mark_moves_little_and_many_change_the_expert() -> None:
    feedback = Feedback()
    marked(feedback, 1, 0.0)
    once = feedback.applied("r", decision(0.6, 0.4))
    assert once.expert == "a"
    assert 0.58 < once.ranking[0].probability < 0.6
    marked(feedback, 40, 0.0)
    often = feedback.applied("r", decision(0.6, 0.4))
    assert often.expert == "b"
    assert often.confidence == often.ranking[0].probability == 0.4
    assert "feedback puts b before a" in often.reason


def test_marks_count_in_their_category_only() -> None:
    feedback = Feedback()
    marked(feedback, 40, 0.0)
    other = decision(0.6, 0.4, category="law")
    assert feedback.applied("r", other) == other


@pytest.mark.slow
@given(st.lists(st.floats(0, 1), max_size=300), st.floats(0.01, 0.99))
def test_no_campaign_moves_a_probability_beyond_the_bound(scores: list[float], chance: float) -> None:
    feedback = Feedback(cap=50.0, bound=1.0)
    for number, score in enumerate(scores):
        answer(feedback, f"r{number}")
        feedback.rate(f"r{number}", score)
    assert abs(feedback.step("sums", "a")) <= 1.0
    moved = next(
        r.probability for r in feedback.applied("r", decision(chance, 0.0)).ranking if r.expert == "a"
    )
    odds = (moved / (1 - moved)) / (chance / (1 - chance))
    assert 0.36 < odds < 2.72


def test_a_second_mark_replaces_the_first() -> None:
    feedback, once = Feedback(), Feedback()
    answer(feedback, "r", completion="chatcmpl-1")
    feedback.rate("r", 0.0)
    feedback.rate("chatcmpl-1", 1.0)
    answer(once, "r")
    once.rate("r", 1.0)
    assert feedback.step("sums", "a") == once.step("sums", "a") > 0


def test_pinned_and_unknown_answers_cannot_be_marked() -> None:
    feedback = Feedback()
    feedback.answered(Receipt("pinned", 1, "pinned", "a", None, None, None, "", ()), None)
    for name in ("pinned", "never"):
        with pytest.raises(UnknownAnswer):
            feedback.rate(name, 1.0)


def test_marks_survive_a_restart_once_each(tmp_path: Path) -> None:
    settings = FeedbackSettings(file="marks.jsonl")
    first = open_feedback(settings, tmp_path)
    assert first is not None
    answer(first.counts, "r")
    first.take("r", 0.0)
    first.take("r", 1.0)
    first.close()
    with (tmp_path / "marks.jsonl").open("a") as file:
        file.write('{"half": \n')
    second = open_feedback(settings, tmp_path)
    assert second is not None
    assert second.counts.step("sums", "a") == first.counts.step("sums", "a")
    second.close()


@pytest.mark.parametrize("bad", [b"\xff\xfe\x00", b'{"request": "\xe9"}', b"[" * 100_000, b"\x00", b"[1]"])
def test_bytes_that_are_no_rating_are_skipped_by_name(
    tmp_path: Path, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    kept = FeedbackLog(tmp_path / "marks.jsonl")
    kept.append(Rating("r0", "sums", "a", 1.0))
    with (tmp_path / "marks.jsonl").open("ab") as file:
        file.write(bad + b"\n")
    kept.append(Rating("r1", "sums", "a", 1.0))
    assert [rating.request for rating in kept.ratings()] == ["r0", "r1"]
    assert "marks.jsonl has 1 lines that are no ratings" in caplog.text


def test_a_folder_in_the_log_s_place_does_not_prevent_a_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "marks.jsonl").mkdir()
    open_feedback(FeedbackSettings(file="marks.jsonl"), tmp_path).close()
    assert "marks.jsonl cannot be read" in caplog.text


def test_a_long_log_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coe.pipeline.feedback.MAX_LOG_BYTES", 10)
    kept = FeedbackLog(tmp_path / "marks.jsonl")
    for number in range(2):
        kept.append(Rating(f"r{number}", "sums", "a", 1.0))
    assert [rating.request for rating in kept.ratings()] == ["r1"]
    assert json.loads((tmp_path / "marks.previous.jsonl").read_text())["request"] == "r0"


def registry(**fields: Any) -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [{"id": "sums", "host": "slot", "model": "m"}],
            "routers": {"default": "random"},
            **fields,
        }
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_marked_by_its_completions_id_over_http(tmp_path: Path, stream: bool) -> None:
    service = build_service(
        registry(feedback={}), tmp_path, lambda *_: FakeEngine("slot", Script(text="four"))
    )
    async with serving(service) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        given = await client.post("/v1/chat/completions", json={**ASK, "stream": stream})
        first = given.text.removeprefix("data: ").splitlines()[0]
        taken = await client.post("/v1/feedback", json={"id": json.loads(first)["id"], "score": 0.0})
        by_request = await client.post(
            "/v1/feedback", json={"id": given.headers["x-coe-request-id"], "score": 1}
        )
        unknown = await client.post("/v1/feedback", json={"id": "nothing", "score": 1.0})
        wrong = await client.post("/v1/feedback", json={"id": "x", "score": 7})
    assert (taken.status_code, taken.json()["expert"]) == (200, "sums")
    assert by_request.status_code == 200
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_answer")
    assert wrong.status_code == 400
    assert [json.loads(line)["score"] for line in (tmp_path / "var/feedback.jsonl").open()] == [0.0, 1.0]


async def test_a_service_without_feedback_says_how_to_have_it(tmp_path: Path) -> None:
    service = build_service(registry(), tmp_path, lambda *_: FakeEngine("slot", Script(text="four")))
    async with serving(service) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        refused = await client.post("/v1/feedback", json={"id": "x", "score": 1.0})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "feedback_off")
