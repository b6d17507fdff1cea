"""The record of prompts and answers: off by default, redacted, bounded, without what is not to be stored."""

from __future__ import annotations

import fcntl
import json
import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

import coe.observe.capture
from coe.core.types import Request
from coe.observe.capture import BoundedFile, CapturedExchange, Recorder, answer_text, redactor
from coe.registry.schema import Registry
from coe.registry.service_settings import CaptureSettings
from coe.service.service import build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.serving import serving

ALL = ("email", "key", "number")


def registry(capture: dict[str, Any] | None, **fields: Any) -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}], "min_residency_s": 0},
            "experts": [{"id": "sums", "host": "slot", "model": "m"}],
            "observe": {"capture": capture},
            **fields,
        }
    )


@asynccontextmanager
async def service(
    root: Path, capture: dict[str, Any] | None, script: Script | None = None, **fields: Any
) -> AsyncIterator[httpx.AsyncClient]:
    built = build_service(registry(capture, **fields), root, lambda *_: FakeEngine("slot", script))
    async with serving(built) as url, httpx.AsyncClient(base_url=url) as http:
        yield http


async def ask(http: httpx.AsyncClient, text: str = "2+2?", **fields: Any) -> httpx.Response:
    headers = fields.pop("headers", None)
    body = {"model": "sums", "messages": [{"role": "user", "content": text}], **fields}
    return await http.post("/v1/chat/completions", json=body, headers=headers, timeout=30)


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


async def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    async with service(tmp_path, None) as http:
        await ask(http)
    assert not (tmp_path / "var/prompts.jsonl").exists()


async def test_whole_and_streamed_answers_are_recorded_with_who_answered(tmp_path: Path) -> None:
    async with service(tmp_path, {}, Script(text="Write to bob@example.org now.")) as http:
        first = await ask(http, "Mail ann@example.org", user="ann")
        await ask(http, "Call +49 30 1234567", stream=True)
        counted = (await http.get("/metrics")).text
    one, two = records(tmp_path / "var/prompts.jsonl")
    assert one["request_id"] == first.headers["x-coe-request-id"]
    assert one["request"] == {"model": "sums", "messages": [{"role": "user", "content": "Mail [email]"}]}
    assert (one["expert"], one["generation"], one["key"], one["error"]) == ("sums", 1, "anonymous", None)
    assert one["answer"] == two["answer"] == "Write to [email] now."
    assert two["request"]["messages"][0]["content"] == "Call [number]"
    assert "coe_records_total" in counted
    assert stat.S_IMODE((tmp_path / "var/prompts.jsonl").stat().st_mode) == 0o600


async def test_a_failure_is_recorded_with_its_code(tmp_path: Path) -> None:
    script = Script()
    script.fail("ask", *["it broke"] * 3)
    async with service(tmp_path, {}, script) as http:
        assert (await ask(http)).status_code == 502
    (only,) = records(tmp_path / "var/prompts.jsonl")
    assert (only["error"], only["answer"], only["expert"]) == ("engine_failed", "", None)


async def test_what_a_client_forbids_to_store_is_neither_recorded_nor_kept(tmp_path: Path) -> None:
    async with service(tmp_path, {}, cache={"ttl_s": 60}) as http:
        for _ in range(2):
            answer = await ask(http, temperature=0, headers={"Cache-Control": "private, No-Store"})
            assert "x-coe-cache" not in answer.headers
        await ask(http, store=False)
    assert not (tmp_path / "var/prompts.jsonl").exists()


@pytest.mark.parametrize(("bound", "value"), [("MAX_PENDING", 3), ("MAX_PENDING_BYTES", 3_000)])
def test_what_waits_to_be_written_is_bounded_in_number_and_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    monkeypatch.setattr(coe.observe.capture, bound, value)
    recorder = Recorder(tmp_path / "r.jsonl", CaptureSettings())
    body = {"messages": [{"role": "user", "content": "2+2?"}]}
    choice = json.dumps({"choices": [{"message": {"content": "x" * 500}}]}).encode()
    with (tmp_path / "r.jsonl.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as another process that writes: nothing gets on meanwhile
        for number in range(10):
            request = Request(str(number), "chat/completions", "sums", body, "2+2?", size=1_000 - len(choice))
            recorder.take(CapturedExchange(request, "alice", None, choice))
        assert recorder.results == {"written": 0, "dropped": 7}
    recorder.close()
    assert recorder.results == {"written": 3, "dropped": 7}
    assert [record["request_id"] for record in records(tmp_path / "r.jsonl")] == ["0", "1", "2"]


async def test_a_request_weighs_what_its_body_does(tmp_path: Path) -> None:
    exchange: list[CapturedExchange] = []
    async with service(tmp_path, {}) as http:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Recorder, "take", lambda _, each: exchange.append(each))
            answer = await ask(http, "2+2?")
    assert exchange[0].size == len(answer.request.content) + len(answer.content)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("ask ann.b+c@mail.example.co.uk, please", "ask [email], please"),
        ("key sk-proj-abcdefghijklmnop1234", "key [key]"),
        ("Authorization: Bearer abc.def-ghi_jkl", "Authorization: [key]"),
        ("password: hunter22!", "[key]"),
        ("aws AKIAIOSFODNN7EXAMPLE", "aws [key]"),
        ("a " + "0a1b" * 8, "a [key]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\nxyz\n-----END RSA PRIVATE KEY-----", "[key]"),
        ("jwt eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJ", "jwt [key]"),
        ("card 4111 1111 1111 1111.", "card [number]."),
        ("tel (030) 123-4567", "tel ([number]"),
        ("DE89 3704 0044 0532 0130 00", "[number]"),
        ("12 + 30 = 42, in 1984, 3.1415", "12 + 30 = 42, in 1984, 3.1415"),
        ("the order ACME-77", "the order [redacted]"),
    ],
)
def test_redaction_blanks_known_forms_and_leaves_the_rest(given: str, left: str) -> None:
    assert redactor(ALL, ["ACME-[0-9]+"])(given) == left


def test_redaction_can_be_chosen() -> None:
    assert redactor(("number",))("a@b.de 1234567") == "a@b.de [number]"
    assert redactor(())("a@b.de 1234567") == "a@b.de 1234567"


@pytest.mark.slow
def test_a_long_text_is_redacted_in_time_that_grows_with_its_length() -> None:
    """Were it to grow with the square, this would take minutes."""
    redact = redactor(ALL)
    begin = "-----BEGIN PRIVATE KEY-----"
    for piece in (
        "a",
        "1 ",
        "1-",
        "a.a@",
        "AA11 ",
        begin,
        "eyJaaaaaaaa-",
        "sk-",
        "bearer ",
        "token",
        "\t",
        "F0",
    ):
        redact(piece * (300_000 // len(piece)))


def test_files_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    bounded = BoundedFile(file, max_bytes=50, keep=2)
    for number in range(12):
        bounded.append(f"line {number:02} {'x' * 10}")
    kept = sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock"))
    assert kept == ["r.jsonl", "r.jsonl.1", "r.jsonl.2"]
    assert [path.stat().st_size <= 50 for path in tmp_path.iterdir()] == [True] * 4
    texts = [(tmp_path / name).read_text() for name in reversed(kept)]
    assert [line[5:7] for line in "".join(texts).splitlines()] == ["06", "07", "08", "09", "10", "11"]


def test_writers_side_by_side_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: BoundedFile(file, 100, 1000).append(f"{n:03}"), range(200)))
    lines = [line for path in tmp_path.glob("r.jsonl*") for line in path.read_text().splitlines()]
    assert sorted(lines) == [f"{n:03}" for n in range(200)]


def test_images_are_not_recorded_and_text_completions_are(tmp_path: Path) -> None:
    assert answer_text(b'{"choices": [{"text": "hi", "index": 0}]}', stream=False) == "hi"
    assert answer_text(b'data: {"choices": [{"text": "h"}]}\n\ndata: {"choices": [{"te', stream=True) == "h"
    assert answer_text(b"", stream=False) == ""


async def test_data_urls_are_blanked(tmp_path: Path) -> None:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    async with service(tmp_path, {}) as http:
        await ask(http, messages=[{"role": "user", "content": parts}])
    (only,) = records(tmp_path / "var/prompts.jsonl")
    assert only["request"]["messages"][0]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "[data]"},
    }


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="is not a regular expression"):
        CaptureSettings(patterns=("(",))
