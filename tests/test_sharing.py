"""Several services, one registry: an edit at one reaches all, whatever was down meanwhile."""

from __future__ import annotations

import asyncio
import errno
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

import coe.service.live_registry
from coe.core.errors import ConfigError
from coe.pipeline.generation import Generation
from coe.pool.registry_pool import HOST_LEAVING
from coe.registry.edit import remove_expert
from coe.registry.service_settings import State
from coe.service.shared_registry import KEY, Record, SharedRegistry, digest
from coe.state.memory import MemoryStore
from coe.state.redis_store import RedisStore
from coe.state.store import StoreDown
from tests.support.command import ServeCommand, serve_command
from tests.support.live import TEXT, LiveWorld, live_world
from tests.support.redis_server import reachable, running_redis
from tests.support.waiting import until

LAW = "  - id: law\n    host: slot\n    model: org/law\n"
WITH_LAW = TEXT.replace("routers:", LAW + "routers:")
WITH_LAWS = WITH_LAW.replace("org/law", "org/laws")


class Shared(MemoryStore):
    """One state for several services of this process; it can be down."""

    down = False

    async def get(self, key: str) -> bytes | None:
        if self.down:
            raise StoreDown("it is down")
        return await super().get(key)

    async def record(self) -> Record:
        raw = await super().get(KEY)
        assert raw is not None
        return Record.from_bytes(raw)


@dataclass
class Member:
    world: LiveWorld
    shared: SharedRegistry

    @property
    def text(self) -> str:
        return self.world.live.text

    async def edit(self, text: str) -> None:
        await self.world.live.edit(lambda _: text)


@asynccontextmanager
async def members(folder: Path, store: Shared, *texts: str) -> AsyncIterator[list[Member]]:
    """Services that start one after the other; nothing happens by itself."""
    async with AsyncExitStack() as held:
        found = []
        for number, text in enumerate(texts):
            root = folder / str(number)
            root.mkdir()
            world = await held.enter_async_context(live_world(root, text=text))
            found.append(Member(world, SharedRegistry(world.live, store)))
            await found[-1].shared.sync()
        yield found


async def test_an_edit_at_one_becomes_the_file_and_the_generation_of_all(tmp_path: Path) -> None:
    store = Shared()
    async with members(tmp_path, store, TEXT, TEXT) as (one, two):
        await one.edit(WITH_LAW)
        await one.shared.sync()
        await two.shared.sync()
        assert two.text == two.world.file.read_text(encoding="utf-8") == WITH_LAW
        assert (one.world.generation, two.world.generation) == (2, 2)
        assert (await two.world.ask("law")).status_code == 200
        assert (await store.record()).number == 2


async def test_who_starts_behind_takes_over_and_who_was_edited_meanwhile_gives(tmp_path: Path) -> None:
    store = Shared()
    await store.replace(KEY, None, Record(7, WITH_LAW, (digest(TEXT),)).to_bytes())
    async with members(tmp_path, store, TEXT, WITH_LAWS) as (behind, edited):
        assert (behind.text, behind.world.generation) == (WITH_LAW, 7)
        assert edited.text == WITH_LAWS
        assert (await store.record()).number == 8
        await behind.shared.sync()
        assert (behind.text, behind.world.generation) == (WITH_LAWS, 8)


@pytest.mark.slow
async def test_a_roll_back_to_an_earlier_text_is_an_edit_like_any_other(tmp_path: Path) -> None:
    store = Shared()
    async with members(tmp_path, store, TEXT, TEXT) as (one, two):
        for text in (WITH_LAW, TEXT):
            await one.edit(text)
            await one.shared.sync()
            await two.shared.sync()
            assert two.text == text
        assert two.world.generation == 3


@pytest.mark.slow
async def test_of_two_edits_at_once_the_first_to_arrive_stays_everywhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Shared()
    async with members(tmp_path, store, TEXT, TEXT) as (one, two):
        await one.edit(WITH_LAW)
        await two.edit(WITH_LAWS)
        await asyncio.gather(one.shared.sync(), two.shared.sync())
        await one.shared.sync()
        await two.shared.sync()
        assert one.text == two.text == (await store.record()).text
        kept = {entry.text for member in (one, two) for entry in member.world.live.history.entries()}
    assert {WITH_LAW, WITH_LAWS} <= kept
    assert one.text in (WITH_LAW, WITH_LAWS)
    assert "changed the registry first" in caplog.text


async def test_an_edit_while_the_state_is_down_arrives_when_it_is_back(tmp_path: Path) -> None:
    store = Shared()
    async with members(tmp_path, store, TEXT, TEXT) as (one, two):
        running = [asyncio.create_task(member.shared.run()) for member in (one, two)]
        try:
            store.down = True
            await one.edit(WITH_LAW)
            with pytest.raises(StoreDown):
                await one.shared.sync()
            assert two.text == TEXT
            store.down = False
            await until(lambda: two.text == WITH_LAW)
        finally:
            for task in running:
                task.cancel()


async def test_who_cannot_serve_it_keeps_what_it_has_and_does_not_force_it_on_others(tmp_path: Path) -> None:
    store = Shared()
    other_slot = WITH_LAW.replace("max_running: 4", "max_running: 5")  # a running host cannot change that
    async with members(tmp_path, store, TEXT) as (only,):
        await store.replace(KEY, (await store.record()).to_bytes(), Record(2, other_slot).to_bytes())
        for _ in range(2):
            await only.shared.sync()
        assert (only.text, only.world.generation) == (TEXT, 1)
        assert (await store.record()).text == other_slot
        assert "was refused" in only.world.service.readiness().reasons[-1]
        await only.edit(WITH_LAW)  # an operator mends it here: that goes to all
        await only.shared.sync()
        assert (await store.record()).text == WITH_LAW


async def test_what_others_take_back_is_refused_no_more(tmp_path: Path) -> None:
    store = Shared()
    other_slot = TEXT.replace("max_running: 4", "max_running: 5")
    async with members(tmp_path, store, TEXT) as (only,):
        for number, text in ((2, other_slot), (3, TEXT)):
            await store.replace(KEY, (await store.record()).to_bytes(), Record(number, text).to_bytes())
            await only.shared.sync()
            assert (only.world.live.refusal is not None) == (text == other_slot)


@pytest.mark.slow
async def test_a_refusal_that_passes_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Shared()
    async with members(tmp_path, store, TEXT, TEXT) as (one, two):

        async def refuse(_: Generation) -> None:
            raise ConfigError("host slot still finishes its work", code=HOST_LEAVING)

        await one.edit(WITH_LAW)
        await one.shared.sync()
        with monkeypatch.context() as leaving:
            leaving.setattr(two.world.service, "switch", refuse)
            await two.shared.sync()
        assert two.text == two.world.file.read_text(encoding="utf-8") == TEXT
        await two.shared.sync()
        assert two.text == WITH_LAW


async def test_who_cannot_write_its_file_keeps_what_it_has_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Shared()

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    async with members(tmp_path, store, TEXT, TEXT) as (one, two):
        await one.edit(WITH_LAW)
        await one.shared.sync()
        monkeypatch.setattr(coe.service.live_registry, "write_atomically", read_only)
        for _ in range(2):
            await two.shared.sync()
        assert two.text == TEXT
    assert caplog.text.count("cannot be written: Read-only file system") == 1


async def test_what_is_no_record_is_replaced(tmp_path: Path) -> None:
    store = Shared()
    await store.replace(KEY, None, b"[1, 2]")
    async with members(tmp_path, store, TEXT):
        assert (await store.record()).text == TEXT


@pytest.mark.redis
async def test_through_a_real_redis_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    with running_redis(tmp_path) as redis:
        probe = RedisStore(redis.url)
        await reachable(probe)
        state = f"state: {{redis_url: '{redis.url}', share_registry: true}}\n"
        async with AsyncExitStack() as held:
            worlds = []
            for name in ("a", "b"):
                (tmp_path / name).mkdir()
                worlds.append(await held.enter_async_context(live_world(tmp_path / name, text=TEXT + state)))
            one, two = worlds
            one.write("routers:", LAW + "routers:")  # by hand, as an operator does
            await until(lambda: two.generation == 2)
            assert (await two.ask("law")).status_code == 200
            assert two.file.read_text(encoding="utf-8") == one.file.read_text(encoding="utf-8")

            redis.kill()
            await two.live.edit(lambda text: remove_expert(text, two.file, "law"))
            assert (await one.ask("law")).status_code == 200
            redis.start()
            await reachable(probe)
            await until(lambda: one.generation == 3, timeout_s=60)
            assert (await one.ask("law")).status_code == 404
        await probe.close()


TOKEN = "a-token-of-enough-characters"


@dataclass
class Operated:
    """A `coe serve` of its own process, its file, and its admin API."""

    serve: ServeCommand
    file: Path
    admin: httpx.AsyncClient

    async def experts(self) -> list[str]:
        return [expert["id"] for expert in (await self.admin.get("/admin/experts")).json()["experts"]]

    async def generation(self) -> int:
        return int((await self.admin.get("/admin/status")).json()["generation"])


@asynccontextmanager
async def operated(folder: Path, redis_url: str) -> AsyncIterator[Operated]:
    registry = {
        "service": {"port": 0, "admin": {"port": 0, "token_env": "TEST_ADMIN"}},
        "pool": {"hosts": [{"id": "far", "kind": "remote", "url": "http://127.0.0.1:9"}]},  # asked nothing
        "experts": [{"id": "sums", "host": "far", "model": "m"}],
        "routers": {"default": "random"},
        "state": {"redis_url": redis_url, "share_registry": True},
    }
    key = {"Authorization": f"Bearer {TOKEN}"}
    async with serve_command(folder, registry, {"TEST_ADMIN": TOKEN}) as serve:
        url = re.search(r"http://[\d.]+:\d+", await serve.logged("admin API on"))
        assert url is not None
        async with httpx.AsyncClient(base_url=url[0], headers=key, timeout=60) as admin:
            yield Operated(serve, folder / "experts.yaml", admin)


@pytest.mark.redis
async def test_an_edit_at_the_admin_api_of_one_process_reaches_the_other(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as held:
        redis = held.enter_context(running_redis(tmp_path))
        probe = RedisStore(redis.url)
        await reachable(probe)
        await probe.close()
        found = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            found.append(await held.enter_async_context(operated(tmp_path / name, redis.url)))
        one, two = found

        async def arrived(at: Operated, experts: list[str]) -> None:
            async def there() -> bool:
                return await at.experts() == experts

            began = time.monotonic()
            await until(there)
            took = time.monotonic() - began
            assert took < 30, f"an edit took {took:.2f} s to the other process"

        added = await one.admin.post("/admin/experts", json={"yaml": "id: law\nhost: far\nmodel: m2\n"})
        assert added.status_code == 200, added.text
        await arrived(two, ["sums", "law"])
        removed = await two.admin.delete("/admin/experts/sums")
        assert removed.status_code == 200, removed.text
        await arrived(one, ["law"])

        assert await one.generation() == await two.generation() == 3
        assert one.file.read_text(encoding="utf-8") == two.file.read_text(encoding="utf-8")
        for each in (one, two):
            each.serve.process.send_signal(signal.SIGTERM)
            assert await each.serve.ended() == 0


def test_sharing_needs_something_shared() -> None:
    with pytest.raises(ValidationError, match="share_registry needs redis_url"):
        State(share_registry=True)
