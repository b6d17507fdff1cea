"""Keys, limits, budgets, kept answers and the record under `coe deploy`: gateway replicas as Serve runs them,
without Ray, over a real redis-server and a real upstream."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from coe.access.api_keys import Holder, KeyLimits, digest
from coe.cluster.gateway_replica import GatewayReplica
from coe.registry.schema import Registry
from coe.registry.service_settings import Access
from coe.state.redis_store import RedisStore
from tests.support.owners import NoOwners
from tests.support.redis_server import reachable, running_redis
from tests.support.serving import serving_app
from tests.support.waiting import until

KEY, OTHER = "coe-" + "k" * 43, "coe-" + "o" * 43


@dataclass
class Cluster:
    """Two replicas of one registry, and what their upstream was asked."""

    replicas: list[httpx.AsyncClient]
    asked: list[web.Request]
    served: list[GatewayReplica]
    registry: Registry

    async def ask(self, replica: int, key: str | None = KEY, **fields: Any) -> httpx.Response:
        body = {"model": "sums", "messages": [{"role": "user", "content": "2+2?"}], **fields}
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = await self.replicas[replica].post("/v1/chat/completions", json=body, headers=headers)
        # A client has its answer before it is charged and kept.
        await self.until_shown(replica, 'coe_requests_in_flight{endpoint="/v1/chat/completions"} 0.0')
        return answer

    async def until_shown(self, replica: int, metric: str) -> None:
        async def shown() -> bool:
            return metric in (await self.replicas[replica].get("/metrics")).text

        await until(shown)


def write_keys(folder: Path, *holders: Holder) -> None:
    listed = [holder.model_dump(mode="json", exclude_none=True) for holder in holders]
    (folder / "keys.yaml").write_text(json.dumps({"keys": listed}), encoding="utf-8")


@asynccontextmanager
async def cluster(folder: Path, limits: dict[str, float], **fields: Any) -> AsyncIterator[Cluster]:
    asked: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request)
        choice = {"index": 0, "message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        return web.json_response({"id": f"c{len(asked)}", "choices": [choice], "usage": usage})

    holders = [
        Holder(id="alice", sha256=digest(KEY), limits=KeyLimits(**limits)),
        Holder(id="bob", sha256=digest(OTHER)),
    ]
    write_keys(folder, *holders)
    async with AsyncExitStack() as held:
        redis = held.enter_context(running_redis(folder))
        probe = RedisStore(redis.url)
        await reachable(probe)
        await probe.close()
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        held.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        registry = Registry.model_validate(
            {
                "pool": {
                    "hosts": [
                        {"id": "far", "kind": "remote", "url": f"http://127.0.0.1:{runner.addresses[0][1]}"}
                    ]
                },
                "experts": [
                    {"id": "sums", "host": "far", "model": "m", "price": {"input": 1e5, "output": 1e5}}
                ],
                "routers": {"default": "random"},
                "access": {"keys_file": "keys.yaml"},
                "state": {"redis_url": redis.url},
                **fields,
            }
        )
        found = Cluster([], asked, [], registry)
        for number in range(2):
            replica = await asyncio.to_thread(
                GatewayReplica, f"gateway-{number}", "here", NoOwners(), 1, registry, folder
            )
            await replica.start()
            held.push_async_callback(replica.stop, 1.0)
            url = await held.enter_async_context(serving_app(replica.app))
            found.replicas.append(await held.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30)))
            found.served.append(replica)
        yield found


@pytest.mark.redis
async def test_without_a_known_key_no_replica_answers(tmp_path: Path) -> None:
    async with cluster(tmp_path, {}) as c:
        refused = [await c.ask(replica, key) for replica in (0, 1) for key in (None, "coe-wrong")]
        assert (await c.ask(0)).status_code == (await c.ask(1)).status_code == 200
    assert [answer.status_code for answer in refused] == [401] * 4
    assert len(c.asked) == 2


@pytest.mark.redis
async def test_a_rate_holds_over_all_replicas_and_for_its_key_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path, {"requests_per_minute": 4}) as c:
        answers = await asyncio.gather(*(c.ask(number % 2) for number in range(10)))
        other = await c.ask(0, OTHER)
    assert Counter(answer.status_code for answer in answers) == {200: 4, 429: 6}
    assert other.status_code == 200


@pytest.mark.redis
async def test_of_sixty_at_once_at_two_replicas_exactly_the_budget_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine does not make Redis look dead here: then each replica would count for itself.
    monkeypatch.setattr(RedisStore.__init__, "__defaults__", ("coe:", 20.0))
    async with cluster(tmp_path, {"requests_per_month": 20}) as c:
        answers = await asyncio.gather(*(c.ask(number % 2, stream=number % 3 == 0) for number in range(60)))
        late = await c.ask(0)
    assert Counter(answer.status_code for answer in answers) == {200: 20, 429: 40}
    assert late.json()["error"]["code"] == "budget_exceeded"
    assert "used up" in late.json()["error"]["message"]


@pytest.mark.redis
async def test_a_budget_in_money_is_charged_by_one_replica_and_refused_by_the_other(tmp_path: Path) -> None:
    async with cluster(tmp_path, {"usd_per_month": 1.5}) as c:
        first, second = await c.ask(0), await c.ask(0)
        over = await c.ask(1)
    assert (first.status_code, second.status_code) == (200, 200)  # a dollar each: the second goes over
    assert over.status_code == 429
    assert over.json()["error"]["code"] == "budget_exceeded"


@pytest.mark.redis
async def test_an_edited_keys_file_counts_at_every_replica_and_what_was_used_stays(tmp_path: Path) -> None:
    async with cluster(tmp_path, {"usd_per_month": 0.5}) as c:
        assert [(await c.ask(0)).status_code, (await c.ask(1)).status_code] == [200, 429]
        write_keys(tmp_path, Holder(id="alice", sha256=digest(KEY), limits=KeyLimits(usd_per_month=1.5)))
        for replica in (0, 1):
            await c.until_shown(replica, 'coe_keys_edits_total{result="accepted"} 1.0')
        assert [(await c.ask(replica, OTHER)).status_code for replica in (0, 1)] == [401, 401]
        assert [(await c.ask(1)).status_code, (await c.ask(0)).status_code] == [200, 429]


@pytest.mark.redis
async def test_an_answer_kept_by_one_replica_is_given_by_the_other_within_the_tenant(tmp_path: Path) -> None:
    async with cluster(tmp_path, {}, cache={"ttl_s": 60}) as c:
        first = await c.ask(0, temperature=0)
        again = await c.ask(1, temperature=0)
        bobs = await c.ask(1, OTHER, temperature=0)
    assert "x-coe-cache" not in first.headers
    assert again.headers["x-coe-cache"] == "hit"
    assert again.json()["id"] == first.json()["id"]
    assert "x-coe-cache" not in bobs.headers


@pytest.mark.redis
async def test_the_record_of_all_replicas_of_a_machine_is_one_file(tmp_path: Path) -> None:
    async with cluster(tmp_path, {}, observe={"capture": {}}) as c:
        for replica in (0, 1):
            await c.ask(replica)
    lines = (tmp_path / "var/prompts.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["alice", "alice"]
    assert KEY not in "".join(lines)


@pytest.mark.redis
async def test_a_generation_with_other_keys_says_that_replicas_must_be_replaced(tmp_path: Path) -> None:
    async with cluster(tmp_path, {}) as c:
        (replica, _) = c.served
        assert replica.outdated == ()
        await replica.change_to(2, c.registry.model_copy(update={"access": Access()}))
        assert replica.outdated == ("access.keys_file",)
        assert (await c.ask(0, None)).status_code == 401
