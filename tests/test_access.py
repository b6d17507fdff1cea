"""API keys, limits and the response cache, through the HTTP API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from coe.access.api_keys import Holder, KeyLimits, KeyRing, digest, make_key, read_keys
from coe.access.limits import ANYBODY, AccessControl, Used, used
from coe.access.response_cache import ResponseCache, cache_key
from coe.cli import main
from coe.core.errors import ConfigError
from coe.core.types import Leg, Options, Request
from coe.gateway import middlewares as building
from coe.gateway.http import WATCH_AFTER_S
from coe.gateway.middlewares import open_store, without_access
from coe.registry.schema import Registry
from coe.registry.service_settings import State
from coe.service.service import build_service
from coe.state.memory import MemoryStore
from coe.state.store import Admission, Bill, Refusal, StoreDown
from coe.testing.engines import FakeEngine, Script
from tests.support.serving import serving

ASK: dict[str, Any] = {"model": "sums", "messages": [{"role": "user", "content": "2+2?"}], "temperature": 0}
KEY = "coe-secret"


class DownStore(MemoryStore):
    """A store that cannot be reached."""

    async def admit(self, ask: Admission) -> Refusal | None:
        raise StoreDown("gone")

    async def charge(self, bill: Bill) -> None:
        raise StoreDown("gone")

    async def get(self, key: str) -> bytes | None:
        raise StoreDown("gone")

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        raise StoreDown("gone")


class SlowStore(MemoryStore):
    """One that takes longer for a charge than a gateway waits until it looks whether its client has left."""

    def __init__(self) -> None:
        super().__init__()
        self.charging, self.go_on, self.charged = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def charge(self, bill: Bill) -> None:
        self.charging.set()
        await asyncio.sleep(10 * WATCH_AFTER_S)
        await self.go_on.wait()
        await super().charge(bill)
        self.charged.set()


def registry(**fields: Any) -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [
                {
                    "id": "sums",
                    "host": "slot",
                    "model": "m",
                    "price": {"input": 1_000_000, "output": 2_000_000},
                }
            ],
            "routers": {"default": "random"},
            **fields,
        }
    )


def keys_file(folder: Path, **limits: float) -> str:
    holder = Holder(id="alice", sha256=digest(KEY), limits=KeyLimits(**limits))
    entry = holder.model_dump(mode="json", exclude_none=True)
    (folder / "keys.yaml").write_text(json.dumps({"keys": [entry]}))
    return "keys.yaml"


@asynccontextmanager
async def service(
    folder: Path, script: Script | None = None, **fields: Any
) -> AsyncIterator[httpx.AsyncClient]:
    engine = FakeEngine("slot", script or Script(text="four"))
    built = build_service(registry(**fields), folder, lambda *_: engine)
    async with serving(built) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield client


async def ask(client: httpx.AsyncClient, key: str | None = KEY, **fields: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return await client.post("/v1/chat/completions", json={**ASK, **fields}, headers=headers)


@pytest.mark.parametrize(("key", "words"), [(None, "is missing"), ("coe-wrong", "is not known")])
async def test_without_a_known_key_nothing_of_v1_answers(tmp_path: Path, key: str | None, words: str) -> None:
    async with service(tmp_path, access={"keys_file": keys_file(tmp_path)}) as client:
        refused = await ask(client, key)
        models = await client.get("/v1/models")
        alive = await client.get("/healthz")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert words in refused.json()["error"]["message"]
    assert (models.status_code, alive.status_code) == (401, 200)


async def test_a_rate_limit_is_a_429_that_says_when_to_come_back(tmp_path: Path) -> None:
    async with service(tmp_path, access={"keys_file": keys_file(tmp_path, requests_per_minute=2)}) as client:
        answers = [await ask(client) for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 31


async def test_a_used_up_budget_is_a_429_without_a_time(tmp_path: Path) -> None:
    limits = {"usd_per_month": 0.5}
    async with service(tmp_path, access={"keys_file": keys_file(tmp_path, **limits)}) as client:
        first, second = await ask(client), await ask(client)
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json()["error"]["code"] == "budget_exceeded"
    assert "0.5 US dollars" in second.json()["error"]["message"]


async def test_a_stream_is_charged_too(tmp_path: Path) -> None:
    script = Script(text="one two three four five six")
    limits = {"tokens_per_month": 3.0}
    async with service(tmp_path, script, access={"keys_file": keys_file(tmp_path, **limits)}) as client:
        first, second = await ask(client, stream=True), await ask(client)
    assert (first.status_code, second.status_code) == (200, 429)


async def test_what_was_answered_is_charged_though_the_response_is_long_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SlowStore()
    store.go_on.set()
    monkeypatch.setattr(building, "open_store", lambda _: store)
    async with service(tmp_path, access={"keys_file": keys_file(tmp_path, requests_per_month=1)}) as client:
        first = await ask(client)
        async with asyncio.timeout(30):
            await store.charged.wait()
        second = await ask(client)
    assert (first.status_code, second.status_code) == (200, 429)


async def test_a_stream_that_is_given_up_is_charged_though_its_request_is_cancelled_again_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SlowStore()
    monkeypatch.setattr(building, "open_store", lambda _: store)
    engine = FakeEngine("slot", Script(text="one two three"))
    built = build_service(registry(access={"keys_file": keys_file(tmp_path)}), tmp_path, lambda *_: engine)
    body = json.dumps({**ASK, "stream": True}).encode()
    told, begun, left = [{"type": "http.request", "body": body}], asyncio.Event(), asyncio.Event()

    async def receive() -> Any:
        if told:
            return told.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body"):
            begun.set()
            await asyncio.Event().wait()  # nobody reads

    headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    await built.start()
    task = asyncio.create_task(built.app(scope, receive, send))
    async with asyncio.timeout(30):
        await begun.wait()
        left.set()
        await store.charging.wait()
        task.cancel()  # as a server does that sees it, too
        await asyncio.wait([task])
        store.go_on.set()
        await store.charged.wait()
    await built.stop(drain_s=5.0)
    await built.close()


async def test_an_equal_request_is_answered_without_asking_anybody(tmp_path: Path) -> None:
    script = Script(text="four")
    async with service(tmp_path, script, cache={}) as client:
        first, again = await ask(client), await ask(client)
        other = await ask(client, max_tokens=3)
        metrics = (await client.get("/metrics")).text
    assert first.json()["choices"] == again.json()["choices"]
    assert (first.headers.get("x-coe-cache"), again.headers.get("x-coe-cache")) == (None, "hit")
    assert again.json()["coe"]["request_id"] == again.headers["x-coe-request-id"]
    assert (again.json()["coe"]["cached"], again.json()["coe"]["legs"]) == (True, [])
    assert "x-coe-cache" not in other.headers
    assert 'coe_cache_lookups_total{result="hit"} 1.0' in metrics


async def test_a_private_request_is_neither_kept_nor_answered_from_what_is_kept(tmp_path: Path) -> None:
    script = Script(text="four")
    async with service(tmp_path, script, cache={"rephrased": True}) as client:
        private = {"headers": {"Cache-Control": "no-cache, No-Store"}}
        first = await client.post("/v1/chat/completions", json=ASK, **private)
        await ask(client)
        again = await client.post("/v1/chat/completions", json=ASK, **private)
        metrics = (await client.get("/metrics")).text
    assert (first.status_code, again.status_code) == (200, 200)
    assert "x-coe-cache" not in again.headers
    assert 'coe_cache_lookups_total{result="hit"} 0.0' in metrics
    assert 'coe_cache_lookups_total{result="miss"} 1.0' in metrics  # the public one was not found either


def request(**fields: Any) -> Request:
    body = {**ASK, **fields}
    return Request("r", "chat/completions", "sums", body, body["messages"][-1]["content"], Options())


@pytest.mark.parametrize("fields", [{"stream": True}, {"temperature": 0.7}, {"n": 2}])
def test_what_is_meant_to_differ_is_not_kept(fields: dict[str, Any]) -> None:
    assert cache_key(request(**fields), "alice", "one") is None


@pytest.mark.parametrize("rephrased", [False, True])
def test_answers_are_kept_apart_by_tenant_generation_and_parameters(rephrased: bool) -> None:
    places = [
        cache_key(request(), "alice", "one", rephrased),
        cache_key(request(), "bob", "one", rephrased),
        cache_key(request(), "alice", "two", rephrased),
        cache_key(request(max_tokens=7), "alice", "one", rephrased),
        cache_key(request(messages=[{"role": "user", "content": "3+3?"}]), "alice", "one", rephrased),
    ]
    assert None not in places
    assert len(set(places)) == 5


@pytest.mark.parametrize("text", ["0", ",", "user", '"', "messages"])
def test_whatever_the_words_are_they_are_all_that_a_scope_leaves_out(text: str) -> None:
    asked = cache_key(request(messages=[{"role": "user", "content": text}]), "alice", "one", rephrased=True)
    system = {"role": "system", "content": "Answer 0 to everything, user."}
    told = cache_key(
        request(messages=[system, {"role": "user", "content": text}]), "alice", "one", rephrased=True
    )
    assert asked is not None
    assert told is not None
    assert asked != told


SCOPES: list[dict[str, Any]] = [
    {},
    {"messages": [{"role": "system", "content": "Answer in French."}, ASK["messages"][0]]},
    {"messages": [{"role": "system", "content": "Answer in Greek."}, ASK["messages"][0]]},
    {"messages": [{"role": "system", "content": "2 + 2?"}, ASK["messages"][0]]},
    {"messages": [{**ASK["messages"][0], "name": "bob"}]},
    {"messages": [{"role": "assistant", "content": "4"}, ASK["messages"][0]]},
    {"stop": ["."]},
    {"stop": [","]},
    {"response_format": {"type": "json_object"}},
    {"user": "bob"},
]


def test_a_question_put_otherwise_is_kept_apart_by_all_that_stands_around_it() -> None:
    keys = [cache_key(request(**scope), "alice", "one", rephrased=True) for scope in SCOPES]
    assert None not in keys
    assert len(set(keys)) == len(SCOPES)


async def test_what_is_kept_for_one_key_is_given_to_its_tenant_only(tmp_path: Path) -> None:
    names = {"ann": "blue", "ben": "blue", "cat": None, "dan": None}
    holders = [Holder(id=n, sha256=digest(f"coe-{n}"), tenant=tenant) for n, tenant in names.items()]
    listed = {"keys": [holder.model_dump(mode="json", exclude_none=True) for holder in holders]}
    (tmp_path / "keys.yaml").write_text(json.dumps(listed))
    async with service(tmp_path, access={"keys_file": "keys.yaml"}, cache={}) as client:
        hits = [
            (await ask(client, f"coe-{n}")).headers.get("x-coe-cache")
            for n in ("ann", "ben", "cat", "dan", "cat")
        ]
    assert hits == [None, "hit", None, None, "hit"]


async def test_a_question_put_otherwise_in_the_same_scope_gets_the_kept_answer() -> None:
    kept = ResponseCache(MemoryStore(), 60.0, rephrased=True)

    def key(text: str, **fields: Any) -> str | None:
        return kept.key(
            request(messages=[{"role": "user", "content": text}], **fields),
            "alice",
            SimpleNamespace(identity="one"),
        )

    first = key("What is a cat?")
    assert first is not None
    await kept.put(first, b"meow")
    assert await kept.find(key("please, what is a cat")) == b"meow"
    assert await kept.find(key("What is a dog?")) is None
    assert await kept.find(key("What is a cat", max_tokens=7)) is None
    assert kept.lookups == {"hit": 1, "miss": 2}


async def test_without_the_store_answers_are_made_as_if_nothing_were_kept() -> None:
    kept = ResponseCache(DownStore(), 60.0)
    assert await kept.find("one") is None
    assert (kept.lookups["miss"], kept.down) == (1, 1)
    await kept.put("one", b"four")
    assert kept.down == 2


@pytest.mark.parametrize(("when_down", "statuses"), [("open", [200, 200, 429]), ("closed", [503, 503, 503])])
async def test_without_the_store_limits_hold_in_this_process_or_nobody_comes_in(
    when_down: Any, statuses: list[int]
) -> None:
    limits = KeyLimits(requests_per_minute=2)
    ring = KeyRing([Holder(id="alice", sha256=digest(KEY), limits=limits)])
    access_control = AccessControl(ring, DownStore(), when_down)
    found = []
    for _ in range(3):
        try:
            await access_control.admit({b"authorization": f"Bearer {KEY}".encode()})
            found.append(200)
        except Exception as error:
            found.append(getattr(error, "http_status", 500))
    assert found == statuses
    assert access_control.down == 3


class SometimesDown(MemoryStore):
    down = False

    async def admit(self, ask: Admission) -> Refusal | None:
        return await (DownStore if self.down else MemoryStore).admit(self, ask)

    async def charge(self, bill: Bill) -> None:
        await (DownStore if self.down else MemoryStore).charge(self, bill)


@pytest.mark.parametrize("down_at", ["admission", "bill", "both"])
async def test_a_reservation_ends_where_it_was_made_though_the_store_goes_or_comes_back(down_at: str) -> None:
    holder = Holder(id="alice", sha256=digest(KEY), limits=KeyLimits(requests_per_month=2))
    store = SometimesDown()
    control = AccessControl(KeyRing([holder]), store, "open")
    for number in range(2):
        asked = Request(f"r{number}", "chat/completions", "sums", ASK, "", Options())
        visit = control.visit(holder, asked, registry())
        store.down = down_at != "bill"
        await control.enter(visit)
        store.down = down_at != "admission"
        await control.charge(visit, Used(), 1.0)
    counted = control._meanwhile if down_at == "both" else store
    assert control._meanwhile._reserved == {}
    if down_at == "admission":
        assert store._reserved == {}
        assert [*store._totals.values()] == [{"requests": 2.0}]
    elif down_at == "both":
        assert [*counted._totals.values()] == [{"requests": 2.0}]
    else:  # in Redis they would end by themselves; what was used is counted here
        assert [*control._meanwhile._totals.values()] == [{"requests": 2.0}]


def test_what_was_used_is_summed_over_all_legs() -> None:
    legs = (
        Leg("sums", run_ms=500.0, tokens=3, prompt_tokens=5, wake_from="cold"),
        Leg("sums", run_ms=1500.0, events=7),
        Leg("sums", outcome="failed: engine_failed"),
    )
    found = used([(leg, {"prompt": "x" * 40}) for leg in legs], registry())
    assert (found.tokens, found.gpu_seconds, found.swaps) == (5 + 3 + 10 + 7, 2.0, 1.0)
    assert found.usd == pytest.approx(5 + 2 * 3 + 10 + 2 * 7)


def test_a_key_is_printed_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    made = CliRunner().invoke(
        main, ["keys", "create", "alice", "--file", str(file), "--limit", "requests_per_minute=5"]
    )
    key = made.stdout.strip()
    ring = read_keys(file)
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    holder = ring.holder(key)
    assert holder is not None
    assert (holder.id, holder.limits.requests_per_minute) == ("alice", 5.0)
    assert ring.holder(make_key().key) is None
    again = CliRunner().invoke(main, ["keys", "create", "alice", "--file", str(file)])
    assert again.exit_code != 0
    assert "already" in again.output
    listed = CliRunner().invoke(main, ["keys", "list", "--file", str(file)])
    assert listed.stdout.strip() == "alice  requests_per_minute 5"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keys: [", "is not valid YAML"),
        ("keys: [{id: alice}]", "keys.0.sha256"),
        ("keys: [{id: alice, sha256: plain-text-key}]", "keys.0.sha256"),
        (f"keys: [{{id: a, sha256: {'a' * 64}}}, {{id: a, sha256: {'b' * 64}}}]", "two keys are called a"),
    ],
)
def test_a_broken_keys_file_says_what_is_wrong_and_shows_no_secret(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words) as refused:
        read_keys(tmp_path / "keys.yaml")
    assert "plain-text-key" not in str(refused.value)


def test_the_url_of_redis_comes_from_the_environment_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_store(State()), MemoryStore)
    with pytest.raises(ConfigError, match="COE_TEST_REDIS"):
        open_store(State(redis_url_env="COE_TEST_REDIS"))
    monkeypatch.setenv("COE_TEST_REDIS", "http://wrong")
    with pytest.raises(ConfigError, match="not the URL of a Redis"):
        open_store(State(redis_url_env="COE_TEST_REDIS"))


async def test_middlewares_need_nothing_to_let_everybody_in() -> None:
    plain = without_access()
    assert await plain.access.admit({}) is ANYBODY
    assert await plain.cache.find(None) is None
