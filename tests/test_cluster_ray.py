"""The service on a real Ray cluster of several nodes, while parts of it are changed and killed.

Every node counts as another machine: what a gateway asks elsewhere goes through doors. vLLM is the stand-in.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from benchmarks.chaos_cluster import Event, Load, Outcome, Row, ask, bearer, end_of, run_events
from coe.access.api_keys import Holder, KeyLimits, digest
from coe.cluster.settings import LOCAL_ENV
from tests.support.redis_server import running_redis
from tests.support.tiny_models import build_tiny_family

if TYPE_CHECKING:
    from coe.cluster.operator import ClusterStatus
    from tests.support.ray_cluster import ServiceOnRay

pytestmark = pytest.mark.timeout(900)

ENDS_WELL = {"answer"}
ENDS_CLEARLY = {"answer", "error"}
KEY, SMALL = "coe-" + "k" * 43, "coe-" + "s" * 43
BUDGET = 8
REDIS = shutil.which("redis-server") is not None


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceOnRay]:
    """Open to holders of keys; with limits that all gateways count together where there is a Redis."""
    folder = tmp_path_factory.mktemp("ray")
    with ExitStack() as held:
        patch = held.enter_context(pytest.MonkeyPatch.context())
        for name, value in LOCAL_ENV.items():
            patch.setenv(name, value)
        from tests.support.ray_cluster import service_on_ray

        more: dict[str, Any] = {"access": {"keys_file": "keys.yaml"}}
        holders = [
            Holder(id="all", sha256=digest(KEY)),
            Holder(id="small", sha256=digest(SMALL), limits=KeyLimits(requests_per_month=BUDGET)),
        ]
        listed = [holder.model_dump(mode="json", exclude_none=True) for holder in holders]
        (folder / "keys.yaml").write_text(json.dumps({"keys": listed}), encoding="utf-8")
        if REDIS:
            more["state"] = {"redis_url": held.enter_context(running_redis(folder)).url}
        family = build_tiny_family(folder / "tiny")
        yield held.enter_context(service_on_ray(family, folder, workers=2, copies=1, gateways=2, more=more))


@pytest.fixture
def whole(service: ServiceOnRay) -> Callable[[], None]:
    return lambda: service.until_whole(copies=1, gateways=2)


def under_load(service: ServiceOnRay, event: Event) -> Row:
    """The requests from the event until the service was whole again, and a little longer."""
    with Load(service.where.url, clients=4, key=KEY) as load:
        until_answers(load, 4)
        return run_events(load, [event])[0]


def until_answers(load: Load, count: int) -> None:
    deadline = time.monotonic() + 200
    while len(load.outcomes) < count:
        assert time.monotonic() < deadline, load.outcomes
        time.sleep(0.05)


async def _ask(url: str, model: str, stream: bool) -> Outcome:
    async with aiohttp.ClientSession(headers=bearer(KEY)) as session:
        return await ask(session, url, model, stream=stream)


@pytest.mark.real_ray
@pytest.mark.redis
def test_both_kinds_of_answers_come_through_doors(service: ServiceOnRay, whole: Callable[[], None]) -> None:
    whole()
    for stream in (False, True):
        outcome = asyncio.run(_ask(service.where.url, "b", stream))
        assert outcome.kind == "answer", outcome


@pytest.mark.real_ray
@pytest.mark.redis
def test_keys_and_a_budget_hold_over_all_gateways(service: ServiceOnRay, whole: Callable[[], None]) -> None:
    async def statuses(key: str | None, count: int) -> list[tuple[int, str]]:
        found = []
        async with aiohttp.ClientSession(headers=bearer(key)) as session:
            for _ in range(count):
                body = {"model": "b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
                async with session.post(f"{service.where.url}/v1/chat/completions", json=body) as response:
                    told = await response.json()
                    found.append((response.status, told.get("error", {}).get("code", "")))
        return found

    whole()
    assert asyncio.run(statuses(None, 2)) == [(401, "invalid_api_key")] * 2
    assert asyncio.run(statuses("coe-wrong", 2)) == [(401, "invalid_api_key")] * 2
    assert asyncio.run(statuses(KEY, 1)) == [(200, "")]
    if not REDIS:
        pytest.skip("redis-server is not installed: each gateway counts for itself")
    ends = Counter(asyncio.run(statuses(SMALL, 5 * BUDGET)))
    # Serve spreads requests over both gateways: had each counted for itself, they would have answered twice
    # the budget. A few more than the budget may come in before the charge for the last answers.
    assert BUDGET <= ends[200, ""] < 2 * BUDGET, ends
    assert ends[200, ""] + ends[429, "budget_exceeded"] == 5 * BUDGET, ends
    assert asyncio.run(statuses(KEY, 1)) == [(200, "")]


@pytest.mark.real_ray
@pytest.mark.redis
def test_a_client_that_hangs_up_in_mid_stream_frees_the_expert(
    service: ServiceOnRay, whole: Callable[[], None]
) -> None:
    """Often, since how Serve cancels a request and how we give its lease back are two clocks."""
    whole()

    async def hang_up() -> None:
        body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5_000}
        async with aiohttp.ClientSession(headers=bearer(KEY)) as session:
            url = f"{service.where.url}/v1/chat/completions"
            response = await session.post(url, json={**body, "stream": True})
            assert response.status == 200
            await response.content.readline()
            response.close()

    def idle(status: ClusterStatus) -> bool:
        return bool(status.owners) and all(e.running == 0 for o in status.owners for e in o.experts.values())

    for _ in range(12):
        asyncio.run(hang_up())
        service.wait_until(idle, timeout_s=40.0)  # the answer would take 50 s


@pytest.mark.real_ray
@pytest.mark.redis
def test_an_edited_registry_reaches_every_gateway_and_restarts_nothing(
    service: ServiceOnRay, whole: Callable[[], None]
) -> None:
    from coe.cluster import operator as ray_control

    whole()
    before = ray_control.status()
    edit = Event("edit", lambda: service.deploy("edited", gateways=2, copies=1), whole)
    row = under_load(service, edit)
    after = ray_control.status()
    assert set(row.ends) == ENDS_WELL, row
    assert after.generation == (before.generation or 0) + 1
    assert {g.session for g in after.gateways} == {g.session for g in before.gateways}
    assert {o.owner for o in after.owners} == {o.owner for o in before.owners}


@pytest.mark.real_ray
@pytest.mark.redis
@pytest.mark.parametrize(
    "what", ["kill_directory", "kill_expert", "silence_expert", "kill_gateway", "kill_owner", "kill_node"]
)
def test_whatever_dies_every_request_ends_clearly_and_the_service_is_whole_again(
    service: ServiceOnRay, whole: Callable[[], None], what: str
) -> None:
    whole()
    row = under_load(service, Event(what, getattr(service, what), whole))
    assert set(row.ends) <= (ENDS_WELL if what == "kill_directory" else ENDS_CLEARLY), row
    assert row.ends["answer"] > 0, row
    # The last resort for what hangs:
    assert not any("expert_timeout" in detail for detail in row.details), row


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
