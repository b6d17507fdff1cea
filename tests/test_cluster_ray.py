"""The service on a real Ray cluster of several nodes, while parts of it are changed and killed.

Every node counts as another machine: what a gateway asks elsewhere goes through doors. vLLM is the stand-in.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import aiohttp
import pytest

from coe.cluster.settings import LOCAL_ENV
from coe.testing.tiny_models import build_tiny_family
from eval.bench.chaos import Event, Load, Outcome, Row, ask, end_of, run_events

if TYPE_CHECKING:
    from coe.cluster.ray_control import ClusterStatus

pytestmark = pytest.mark.timeout(400)

ENDS_WELL = {"answer"}
ENDS_CLEARLY = {"answer", "error"}


killing = pytest.mark.skipif(
    not os.environ.get("COE_CHAOS"),
    reason="minutes of killing parts of a cluster, not dependable yet on two busy cores: set COE_CHAOS=1",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LOCAL_ENV.items():
            patch.setenv(name, value)
        from coe.testing.ray_cluster import service_on_ray

        folder = tmp_path_factory.mktemp("ray")
        family = build_tiny_family(folder / "tiny")
        with service_on_ray(family, folder, workers=2, copies=1, gateways=2) as running:
            yield running


@pytest.fixture
def whole(service: object) -> Callable[[], object]:
    return lambda: service.until_whole(copies=1, gateways=2)  # type: ignore[attr-defined]


def under_load(service: object, event: Event) -> Row:
    """The requests from the event until the service was whole again, and a little longer."""
    with Load(service.where.url, clients=4) as load:  # type: ignore[attr-defined]
        until_answers(load, 4)
        return run_events(load, [event])[0]


def until_answers(load: Load, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(load.outcomes) < count:
        assert time.monotonic() < deadline, load.outcomes
        time.sleep(0.05)


async def _ask(url: str, model: str, stream: bool) -> Outcome:
    async with aiohttp.ClientSession() as session:
        return await ask(session, url, model, stream=stream)


@pytest.mark.real_ray
def test_both_kinds_of_answers_come_through_doors(service: object, whole: Callable[[], object]) -> None:
    whole()
    for stream in (False, True):
        outcome = asyncio.run(_ask(service.where.url, "b", stream))  # type: ignore[attr-defined]
        assert outcome.kind == "answer", outcome


@killing
@pytest.mark.real_ray
def test_a_client_that_hangs_up_in_mid_stream_frees_the_expert(
    service: object, whole: Callable[[], object]
) -> None:
    whole()

    async def hang_up() -> None:
        body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5_000}
        async with aiohttp.ClientSession() as session:
            url = f"{service.where.url}/v1/chat/completions"  # type: ignore[attr-defined]
            response = await session.post(url, json={**body, "stream": True})
            await response.content.readline()
            response.close()

    def idle(status: ClusterStatus) -> bool:
        return bool(status.owners) and all(e.running == 0 for o in status.owners for e in o.experts.values())

    asyncio.run(hang_up())
    service.wait_until(idle, timeout_s=30.0)  # type: ignore[attr-defined]  # the answer would take 50 s


@killing
@pytest.mark.real_ray
def test_an_edited_registry_reaches_every_gateway_and_restarts_nothing(
    service: object, whole: Callable[[], object]
) -> None:
    from coe.cluster import ray_control

    whole()
    before = ray_control.status()
    row = under_load(service, Event("edit", lambda: service.deploy("edited", gateways=2, copies=1), whole))  # type: ignore[attr-defined]
    after = ray_control.status()
    assert set(row.ends) == ENDS_WELL, row
    assert after.generation == (before.generation or 0) + 1
    assert {g.session for g in after.gateways} == {g.session for g in before.gateways}
    assert {o.owner for o in after.owners} == {o.owner for o in before.owners}


@killing
@pytest.mark.real_ray
@pytest.mark.parametrize("what", ["directory", "expert", "gateway", "owner", "node"])
def test_whatever_dies_every_request_ends_clearly_and_the_service_is_whole_again(
    service: object, whole: Callable[[], object], what: str
) -> None:
    whole()
    row = under_load(service, Event(what, getattr(service, f"kill_{what}"), whole))
    assert set(row.ends) <= (ENDS_WELL if what == "directory" else ENDS_CLEARLY), row
    assert row.ends["answer"] > 0, row
    assert not any("expert_timeout" in detail for detail in row.details), (
        row
    )  # the last resort for what hangs


@pytest.mark.parametrize(
    ("status", "raw", "stream", "end"),
    [
        (200, b'{"choices": [{}]}', False, "answer"),
        (200, b'{"choi', False, "silent"),
        (200, b'data: {"choices": []}\n\ndata: [DONE]\n\n', True, "answer"),
        (200, b'data: {"choices": []}\n\n', True, "silent"),
        (200, b"", True, "silent"),
        (200, b'data: {}\n\ndata: {"error": {"message": "broke"}}\n\n', True, "error"),
        (503, b'{"error": {"message": "no"}}', True, "error"),
        (500, b"Internal Server Error", False, "foreign"),
    ],
)
def test_the_judge_of_ends_sees_what_only_looks_like_an_answer(
    status: int, raw: bytes, stream: bool, end: str
) -> None:
    assert end_of(status, raw, stream) == end


def test_a_request_counts_for_the_last_event_before_its_end() -> None:
    load = Load("http://127.0.0.1:9", clients=0)
    with load:
        rows = run_events(
            load,
            [
                Event("first", lambda: load.outcomes.append(_outcome("answer")), lambda: None),
                Event("second", lambda: load.outcomes.append(_outcome("error")), lambda: None),
            ],
            settle_s=0.0,
        )
    assert [dict(row.ends) for row in rows] == [{"answer": 1}, {"error": 1}]


def _outcome(kind: str) -> Outcome:
    now = time.monotonic()
    return Outcome(now, now, kind, stream=False)  # type: ignore[arg-type]
