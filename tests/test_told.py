"""What anybody is told of failures: what failed, and nothing of where things are inside the service."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from coe.core.errors import (
    BadRequest,
    CoeError,
    ConfigError,
    EngineError,
    ExpertRefused,
    ExpertUnavailable,
    QuorumMissed,
    RoutingError,
    ServiceDown,
    told,
)
from coe.core.status import reason
from coe.core.types import EngineStats
from coe.gateway.responses import error_event
from coe.registry.schema import Registry
from coe.service.service import LocalService, build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.serving import serving
from tests.support.upstream import Act, scripted_upstream, whole
from tests.support.waiting import until


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("up did not answer: url='http://127.0.0.1:18201/v1/x'", "up did not answer: url='[address]'"),
        (
            "Cannot connect to host up.example:8000 ssl:default [Connect call failed ('10.0.0.3', 8000)]",
            "Cannot connect to host [address] ssl:default [Connect call failed ('[address]', 8000)]",
        ),
        ("Cannot connect to host localhost:9 ssl", "Cannot connect to host [address] ssl"),
        ("no route to [fd00::1]:8000", "no route to [address]"),
        ("Cannot connect to unix socket /run/coe/slot/vllm.sock", "Cannot connect to unix socket [path]"),
        ("redis://:secret@redis:6379/0 is down", "[address] is down"),
        ("The model `/srv/models/sql-7b` does not exist.", "The model `[path]` does not exist."),
        ("missing: file ~/keys/up.key.", "missing: file [path]"),
        ("ended (exit code 1). Last lines of its log:\nsecret\nlines", "ended (exit code 1)."),
    ],
)
def test_addresses_paths_and_logs_stay_inside(text: str, shown: str) -> None:
    assert told(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "maximum context length is 4096 tokens; you asked for 5000 and/or more",
        "sums answered 500: Grammar error at 3:15 (1/2)",
        "experts.yaml:13:5: expert words",
        "version 1.2.3 of the API",
        "took too long",
    ],
)
def test_other_words_stay_as_they_are(text: str) -> None:
    assert told(text) == text


INSIDE = "failed at http://10.1.2.3:8000/v1 by /run/coe/vllm.sock with /srv/models/a/config.json"
SECRETS = ("10.1.2.3", "vllm.sock", "/srv", "/run")


@pytest.mark.parametrize(
    "error",
    [
        EngineError(INSIDE, hint=INSIDE),
        ExpertUnavailable(INSIDE),
        ExpertRefused(400, INSIDE),
        QuorumMissed(INSIDE),
        ServiceDown(INSIDE),
        RoutingError(INSIDE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_error_of_an_expert_or_of_the_service_tells_them(error: CoeError) -> None:
    for raw in (json.dumps(error.envelope()), error_event(error).decode()):
        assert not [secret for secret in SECRETS if secret in raw]
    assert error.message == INSIDE, "the log has it"


def test_what_the_client_wrote_itself_and_what_the_operator_asks_for_is_quoted() -> None:
    for error in (BadRequest(INSIDE), ConfigError(INSIDE)):
        assert error.envelope()["error"]["message"] == INSIDE


@asynccontextmanager
async def asked(
    registry: Registry, *engines: FakeEngine
) -> AsyncIterator[tuple[LocalService, httpx.AsyncClient]]:
    builder = (lambda *_: engines[0],) if engines else ()
    service = build_service(registry, Path(), *builder)
    async with serving(service) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        yield service, http


def registry(**host: object) -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot", **host}]},
            "experts": [{"id": "sums", "host": "slot", "model": "m"}],
            "routers": {"default": "random"},
        }
    )


def question(stream: bool = False) -> dict[str, object]:
    return {"model": "sums", "stream": stream, "messages": [{"role": "user", "content": "2+2?"}]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "act",
    [
        whole({"error": {"message": INSIDE}}, 500),
        whole({"error": {"message": INSIDE}}, 404),
        whole({"error": {"message": INSIDE}}, 400),
        whole({"error": {"message": INSIDE}}),
        Act((), framing="short"),
        Act((), status=302, headers=(("Location", "http://10.1.2.3:8000/"),)),
    ],
    ids=["500", "404", "400", "200", "broken", "redirect"],
)
async def test_no_answer_of_an_upstream_tells_where_it_is(act: Act, stream: bool) -> None:
    async with scripted_upstream() as upstream:
        upstream.play("m", act)
        async with asked(registry(kind="remote", url=upstream.url)) as (_, http):
            answer = await http.post("/v1/chat/completions", json=question(stream))
    assert answer.status_code >= 400
    assert not [
        secret for secret in (*SECRETS, upstream.url.removeprefix("http://")) if secret in answer.text
    ]


async def test_an_upstream_that_is_not_there_is_not_named() -> None:
    async with asked(registry(kind="remote", url="http://127.0.0.1:9/v1")) as (_, http):
        answer = await http.post("/v1/chat/completions", json=question())
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_unreachable")
    assert "127.0.0.1" not in answer.text


LAST = "The vLLM process of slot ended (exit code 1). Last lines of its log:\nValueError: /srv/models/a"


async def test_readiness_has_the_state_and_a_short_reason_for_everybody() -> None:
    script = Script()
    script.fail("start", LAST)
    async with asked(registry(), FakeEngine("slot", script)) as (service, http):
        await until(lambda: service.engines()["slot"].state == "failed")
        ready = await http.get("/readyz")
        experts = await http.get("/healthz/experts")
        metrics = await http.get("/metrics")
    assert ready.json()["reasons"] == ["engine slot is failed: The vLLM process of slot ended (exit code 1)."]
    for said in (ready.text, experts.text, metrics.text):
        assert "ValueError" not in said
        assert "/srv" not in said
    assert service.engines()["slot"].last_error == LAST, "whoever runs the service sees all of it"


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (None, "engine slot is failed"),
        ("no such checkpoint", "engine slot is failed: no such checkpoint"),
        ("/srv/models/a is missing\nline\nline", "engine slot is failed: [path] is missing"),
        ("x" * 500, "engine slot is failed: " + "x" * 120),
    ],
)
def test_a_reason_is_one_short_line(error: str | None, shown: str) -> None:
    assert reason("slot", EngineStats("failed", last_error=error)) == shown
