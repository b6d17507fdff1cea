"""Shared state: the same behaviour in memory and in a real Redis, and what happens when Redis is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml

from coe.state.memory import MemoryStore
from coe.state.redis_store import RedisStore
from coe.state.store import Admission, Bill, Bucket, Refusal, Reservation, Store, StoreDown, fill
from tests.support.redis_server import RedisServer, reachable, running_redis
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[1]
REQUESTS = Bucket("requests", limit=3, period_s=60.0, charged=1.0)
TOKENS = Bucket("tokens", limit=100, period_s=60.0, charged=0.0)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    store = RedisStore(request.getfixturevalue("redis_server").url, timeout_s=20.0)
    await reachable(store)
    yield store
    await store.close()


async def test_a_rate_lets_a_burst_in_and_says_when_the_next_one_fits(store: Store) -> None:
    ask = Admission("key", (REQUESTS,))
    assert [await store.admit(ask) for _ in range(3)] == [None, None, None]
    refused = await store.admit(ask)
    assert refused is not None
    assert refused.name == "requests"
    assert refused.retry_after_s == pytest.approx(20.0, abs=5.0)


async def test_keys_do_not_share_their_rates(store: Store) -> None:
    for _ in range(3):
        await store.admit(Admission("one", (REQUESTS,)))
    assert await store.admit(Admission("other", (REQUESTS,))) is None


async def test_tokens_are_charged_afterwards_and_hold_back_the_next_request(store: Store) -> None:
    ask = Admission("key", (TOKENS,))
    assert await store.admit(ask) is None
    await store.charge(Bill("key", {"tokens": 250.0}, (TOKENS,)))
    refused = await store.admit(ask)
    assert refused is not None
    assert refused.name == "tokens"
    assert refused.retry_after_s == pytest.approx(90.6, abs=5.0)


async def test_a_refused_request_charges_no_bucket(store: Store) -> None:
    await store.charge(Bill("key", {"tokens": 500.0}, (TOKENS,)))
    ask = Admission("key", (REQUESTS, TOKENS))
    assert {await store.admit(ask) is not None for _ in range(5)} == {True}
    assert [await store.admit(Admission("key", (REQUESTS,))) for _ in range(3)] == [None, None, None]


async def test_a_used_up_budget_refuses_until_the_next_period(store: Store) -> None:
    await store.charge(Bill("key", {"usd": 1.5, "swaps": 2.0}, period="2026-11", keep_s=100.0))
    await store.charge(Bill("key", {"usd": 0.5}, period="2026-11", keep_s=100.0))
    assert await store.used("key", "2026-11") == {"usd": 2.0, "swaps": 2.0}
    assert await store.admit(Admission("key", budgets={"usd": 2.0}, period="2026-11")) == Refusal("usd", None)
    assert await store.admit(Admission("key", budgets={"usd": 2.1}, period="2026-11")) is None
    assert await store.admit(Admission("key", budgets={"usd": 2.0}, period="2026-12")) is None


def asking(name: str, hold_s: float = 600.0, **amounts: float) -> Admission:
    budgets = {"requests": 20.0, "usd": 1.0}
    return Admission("key", budgets=budgets, period="2026-11", reserve=Reservation(name, amounts, hold_s))


def bill(ask: Admission, **used: float) -> Bill:
    return Bill("key", used, period="2026-11", keep_s=100.0, reserved=ask.reserve)


async def test_of_sixty_at_once_exactly_as_many_come_in_as_the_budget_has_requests(store: Store) -> None:
    asked = [asking(f"r{number}", requests=1) for number in range(60)]
    answers = await asyncio.gather(*(store.admit(ask) for ask in asked))
    assert sum(answer is None for answer in answers) == 20
    assert {answer for answer in answers if answer} == {Refusal("requests", None, under_way=True)}
    inside = [ask for ask, answer in zip(asked, answers, strict=True) if answer is None]
    await asyncio.gather(*(store.charge(bill(ask)) for ask in inside[:5]))  # never came to be asked
    await asyncio.gather(*(store.charge(bill(ask, requests=1)) for ask in inside[5:]))
    more = [await store.admit(asking(f"more{number}", requests=1)) for number in range(6)]
    assert more == [None] * 5 + [Refusal("requests", None, under_way=True)]
    for number in range(5):
        await store.charge(bill(asking(f"more{number}", requests=1), requests=1))
    assert await store.admit(asking("last", requests=1)) == Refusal("requests", None)
    assert await store.used("key", "2026-11") == {"requests": 20.0}


async def test_a_request_that_counts_as_many_has_to_fit_as_a_whole(store: Store) -> None:
    assert await store.admit(asking("one", requests=15)) is None
    assert await store.admit(asking("two", requests=6)) == Refusal("requests", None, under_way=True)
    assert await store.admit(asking("three", requests=5)) is None
    assert await store.admit(asking("four", requests=21)) == Refusal("requests", None)


async def test_what_is_estimated_may_go_over_the_budget_once(store: Store) -> None:
    dear = asking("dear", requests=1, usd=70.0)
    assert await store.admit(dear) is None
    assert await store.admit(asking("other", requests=1, usd=0.1)) == Refusal("usd", None, under_way=True)
    await store.charge(bill(dear, requests=1, usd=0.25))
    for number in range(3):
        assert await store.admit(asking(f"r{number}", requests=1, usd=0.25)) is None
    assert await store.admit(asking("late", requests=1, usd=0.25)) == Refusal("usd", None, under_way=True)


async def test_a_bill_takes_back_its_own_reservation_once(store: Store) -> None:
    one, other = asking("one", requests=10), asking("other", requests=10)
    assert [await store.admit(one), await store.admit(other)] == [None, None]
    for _ in range(3):
        await store.charge(bill(one))
    await store.charge(bill(asking("unknown", requests=10)))
    assert await store.admit(asking("third", requests=11)) == Refusal("requests", None, under_way=True)
    assert await store.admit(asking("third", requests=10)) is None


@pytest.mark.redis
async def test_the_reservations_of_a_gateway_that_died_end(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url, timeout_s=20.0)
    await reachable(store)
    for number in range(20):
        assert await store.admit(asking(f"r{number}", hold_s=0.3, requests=1, usd=0.001)) is None
    await until(lambda: admitted(store, asking("next", requests=20)))
    await store.charge(
        bill(asking("r0", hold_s=0.3, requests=1, usd=0.001), requests=1)
    )  # it lives after all
    assert await store.admit(asking("one more", requests=1)) == Refusal("requests", None, under_way=True)
    await store.charge(bill(asking("next", requests=20)))
    assert await store.admit(asking("one more", requests=19)) is None
    await store.close()


async def admitted(store: Store, ask: Admission) -> bool:
    return await store.admit(ask) is None


@pytest.mark.redis
async def test_many_gateways_together_admit_no_more_than_the_rate(redis_server: RedisServer) -> None:
    patient = 20.0  # a busy machine does not make Redis look dead here
    stores = [RedisStore(redis_server.url, timeout_s=patient) for _ in range(4)]
    await reachable(stores[0])
    bucket = Bucket("requests", limit=10, period_s=600.0, charged=1.0)
    asked = [each.admit(Admission("key", (bucket,))) for _ in range(10) for each in stores]
    answers = await asyncio.gather(*asked)
    assert sum(answer is None for answer in answers) == 10
    for each in stores:
        await each.close()


async def test_values_are_kept_until_their_time_is_over(store: Store) -> None:
    assert await store.get("answer") is None
    await store.put("answer", b"42", ttl_s=100.0)
    await store.put("brief", b"x", ttl_s=0.001)
    await asyncio.sleep(0.02)
    assert (await store.get("answer"), await store.get("brief")) == (b"42", None)


async def test_a_value_is_replaced_only_by_those_who_know_it(store: Store) -> None:
    assert not await store.replace("r", b"nothing yet", b"x")
    assert await store.replace("r", None, b"one")
    assert not await store.replace("r", None, b"two")
    assert not await store.replace("r", b"two", b"three")
    assert await store.replace("r", b"one", b"\xff\x00 two")
    assert await store.get("r") == b"\xff\x00 two"


async def test_memory_forgets_the_oldest_value_first() -> None:
    store = MemoryStore(max_values=2)
    for name in ("a", "b", "c"):
        await store.put(name, name.encode(), ttl_s=100.0)
    assert [await store.get(name) for name in ("a", "b", "c")] == [None, b"b", b"c"]


async def test_a_message_reaches_everybody_who_listens(store: Store) -> None:
    heard = [asyncio.create_task(first_word(store)) for _ in range(2)]
    async with asyncio.timeout(10):
        while not all(task.done() for task in heard):
            await store.publish("registry", b"7")
            await asyncio.sleep(0.01)
    assert [task.result() for task in heard] == [b"7", b"7"]


async def first_word(store: Store) -> bytes:
    async for message in store.listen("registry"):
        if message:
            return message
    raise AssertionError("listening ended")


@pytest.mark.redis
async def test_a_killed_redis_is_reported_and_its_return_is_noticed(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url)
    await reachable(store)
    listening = asyncio.create_task(first_word(store))
    redis_server.kill()
    with pytest.raises(StoreDown):
        await store.admit(Admission("key", (REQUESTS,)))
    redis_server.start()
    await reachable(store)
    assert await store.admit(Admission("key", (REQUESTS,))) is None
    async with asyncio.timeout(20):
        while not listening.done():
            await store.publish("registry", b"8")
            await asyncio.sleep(0.05)
    assert listening.result() == b"8"
    await store.close()


@pytest.mark.redis
async def test_the_redis_of_compose_keeps_what_was_used_and_reserved_when_it_is_killed(
    tmp_path: Path,
) -> None:
    services = yaml.safe_load((ROOT / "deploy" / "docker-compose.yaml").read_text())["services"]
    _, *options = services["redis"]["command"]
    with running_redis(tmp_path, *options) as server:
        store = RedisStore(server.url, timeout_s=20.0)
        await reachable(store)
        await store.charge(Bill("key", {"requests": 15}, period="2026-11", keep_s=1000.0))
        assert await store.admit(asking("under way", requests=4)) is None
        server.kill()
        server.start()
        await reachable(store)
        assert await store.used("key", "2026-11") == {"requests": 15}
        assert await store.admit(asking("many", requests=2)) == Refusal("requests", None, under_way=True)
        assert await store.admit(asking("one", requests=1)) is None
        await store.close()


def test_a_bucket_empties_steadily() -> None:
    after = fill(until=100.0, now=100.0, bucket=REQUESTS, amount=3.0)
    assert (after.until, after.retry_after_s) == (160.0, 0.0)
    assert fill(160.0, 110.0, REQUESTS, 1.0).retry_after_s == pytest.approx(10.0)
    assert fill(160.0, 120.0, REQUESTS, 1.0).retry_after_s == 0.0


@pytest.mark.redis
async def test_no_call_is_lost_once_redis_is_back(redis_server: RedisServer) -> None:
    """Each pooled connection is stale then; none of them may cost a request."""
    store, other = (RedisStore(redis_server.url, timeout_s=20.0) for _ in range(2))
    await reachable(store)
    burst = [Admission(f"key-{number}", (REQUESTS,)) for number in range(60)]
    await asyncio.gather(*(store.admit(ask) for ask in burst))
    redis_server.kill()
    redis_server.start()
    await reachable(other)
    assert await asyncio.gather(*(store.admit(ask) for ask in burst)) == [None] * 60
    await store.close()
    await other.close()
