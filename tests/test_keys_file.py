"""An edit of the keys file counts while the service runs: over HTTP, alone and on several gateways."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from coe.access.api_keys import Holder, add_key, digest, read_keys
from coe.cli import main
from coe.core.files import folder_of
from coe.registry.changes import needs_restart
from coe.service.registry_file import parse_registry
from coe.service.service import build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.live import TEXT
from tests.support.serving import serving
from tests.support.waiting import until

ALICE, BOB = "coe-" + "a" * 43, "coe-" + "b" * 43


def entry(name: str, key: str, **limits: float) -> dict[str, Any]:
    return {"id": name, "sha256": digest(key), "limits": limits}


@dataclass
class World:
    """A service with a keys file."""

    file: Path
    http: httpx.AsyncClient

    def write(self, *entries: dict[str, Any]) -> None:
        self.file.write_text(json.dumps({"keys": entries}), encoding="utf-8")

    async def ask(self, key: str) -> int:
        body = {"model": "sums", "messages": [{"role": "user", "content": "2+2?"}]}
        headers = {"Authorization": f"Bearer {key}"}
        return (await self.http.post("/v1/chat/completions", json=body, headers=headers)).status_code

    async def shows(self, metric: str) -> bool:
        return f"\n{metric}\n" in (await self.http.get("/metrics")).text

    async def taken_up(self, edits: int) -> None:
        await until(lambda: self.shows(f'coe_keys_edits_total{{result="accepted"}} {edits}.0'))

    async def refused(self, edits: int) -> None:
        await until(lambda: self.shows(f'coe_keys_edits_total{{result="refused"}} {edits}.0'))


@asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[World]:
    """Of the keys file in ``folder``, which may be another one's too."""
    registry = parse_registry(TEXT + "access: {keys_file: keys.yaml}\n", folder / "experts.yaml")
    service = build_service(registry, folder, lambda host, *_: FakeEngine(host.id, Script(text="four")))
    async with serving(service) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        yield World(folder / "keys.yaml", http)


@asynccontextmanager
async def world(folder: Path, *entries: dict[str, Any]) -> AsyncIterator[World]:
    (folder / "keys.yaml").write_text(json.dumps({"keys": entries}), encoding="utf-8")
    async with gateway(folder) as w:
        yield w


async def test_a_new_key_counts_and_a_removed_one_does_not_without_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with world(tmp_path, entry("alice", ALICE)) as w:
        assert [await w.ask(key) for key in (ALICE, BOB)] == [200, 401]
        w.write(entry("bob", BOB))
        await w.taken_up(1)
        assert [await w.ask(key) for key in (ALICE, BOB)] == [401, 200]
    assert "keys.yaml: 1 keys; added bob; removed alice" in caplog.text


async def test_a_key_made_by_the_command_counts_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, entry("alice", ALICE)) as w:
        made = CliRunner().invoke(main, ["keys", "create", "carol", "--file", str(w.file)])
        await w.taken_up(1)
        assert "a running service accepts the key" in made.stderr
        assert await w.ask(made.stdout.strip()) == 200
        assert await w.ask(ALICE) == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (f"keys: [{{id: carol, sha256: {BOB}}}]", "keys.0.sha256"),
        (f"keys:\n\t- {BOB}", "is not valid YAML: line 2, column 1"),
        (json.dumps({"keys": [entry("bob", BOB), entry("bob", ALICE)]}), "two keys are called bob"),
        (b"keys: [\xff]", "is not valid YAML: it cannot be read as text"),
        (None, "cannot be read: No such file"),
    ],
    ids=["a key for a hash", "no YAML", "twice", "no text", "gone"],
)
async def test_a_bad_edit_is_refused_aloud_and_the_old_keys_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: str | bytes | None, says: str
) -> None:
    async with world(tmp_path, entry("alice", ALICE)) as w:
        if bad is None:
            w.file.unlink()
        else:
            w.file.write_bytes(bad if isinstance(bad, bytes) else bad.encode())
        await w.refused(1)
        assert await w.shows("coe_keys_stale 1.0")
        assert [await w.ask(key) for key in (ALICE, BOB)] == [200, 401]
        w.write(entry("alice", ALICE), entry("bob", BOB))  # mended
        await w.taken_up(1)
        assert await w.shows("coe_keys_stale 0.0")
        assert [await w.ask(key) for key in (ALICE, BOB)] == [200, 200]
    told = [record.getMessage() for record in caplog.records if "was refused" in record.getMessage()]
    assert len(told) == 1
    assert says in told[0]
    assert BOB not in caplog.text, "what was written by mistake is not quoted"


async def test_what_a_holder_has_used_stays_used_and_the_new_limit_counts(tmp_path: Path) -> None:
    async with world(tmp_path, entry("alice", ALICE, requests_per_month=2)) as w:
        assert [await w.ask(ALICE) for _ in range(3)] == [200, 200, 429]
        w.write(entry("alice", BOB, requests_per_month=3))  # another key, a higher budget
        await w.taken_up(1)
        assert [await w.ask(BOB) for _ in range(2)] == [200, 429]


async def test_gateways_that_read_the_same_file_all_follow_it(tmp_path: Path) -> None:
    async with world(tmp_path, entry("alice", ALICE)) as one, gateway(tmp_path) as two:
        one.write(entry("bob", BOB))
        for each in (one, two):
            await each.taken_up(1)
            assert [await each.ask(key) for key in (ALICE, BOB)] == [401, 200]


def test_what_of_the_admin_api_counts_only_after_a_restart(tmp_path: Path) -> None:
    def with_admin(settings: str) -> Any:
        return parse_registry(TEXT + f"service: {{admin: {settings}}}\n", tmp_path / "experts.yaml")

    first = with_admin("{token_env: T}")
    assert needs_restart(first, with_admin("{token_env: T, any_folder: true}")) == ()
    assert needs_restart(first, with_admin("{token_env: T, port: 9}")) == ("service.admin",)
    assert needs_restart(first, parse_registry(TEXT, tmp_path / "experts.yaml")) == ("service.admin",)


def test_keys_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    holders = [Holder(id=f"holder-{number}", sha256=digest(str(number))) for number in range(24)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda holder: add_key(file, holder), holders))
    assert {holder.id for holder in read_keys(file).holders()} == {holder.id for holder in holders}
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent/keys.yaml", None, "cannot be written"),
        ("keys.yaml", b"keys: [", "is not valid YAML"),
        ("keys.yaml", b"keys: [\xff]", "is not valid YAML"),
        ("keys.yaml", b"[]", "keys.yaml"),
        ("keys.yaml", b"keys: 7", "keys"),
    ],
)
def test_a_key_for_a_file_that_cannot_take_it_ends_in_one_clear_line(
    name: str, content: bytes | None, says: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    done = CliRunner().invoke(main, ["keys", "create", "carol", "--file", str(file)])
    assert done.exit_code == 2, done.output
    assert says in done.output
    assert "Traceback" not in done.output
    assert content is None or file.read_bytes() == content


def test_an_empty_file_takes_its_first_key(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").touch()
    done = CliRunner().invoke(main, ["keys", "create", "carol", "--file", str(tmp_path / "keys.yaml")])
    assert done.exit_code == 0, done.output
    assert [holder.id for holder in read_keys(tmp_path / "keys.yaml").holders()] == ["carol"]


def mount(folder: Path, number: int, **files: str) -> None:
    """Files as Kubernetes mounts a ConfigMap or Secret: links by way of ``..data``, which is replaced."""
    version = folder / f"..{number}"
    version.mkdir()
    for name, text in files.items():
        (version / f"{name}.yaml").write_text(text, encoding="utf-8")
        if not (link := folder / f"{name}.yaml").is_symlink():
            link.symlink_to(f"..data/{name}.yaml")
    draft = folder / "..draft"
    draft.symlink_to(version.name)
    draft.replace(folder / "..data")


async def test_a_key_is_rotated_behind_the_links_of_a_mounted_secret(tmp_path: Path) -> None:
    registry = TEXT + "access: {keys_file: keys.yaml}\n"
    mount(tmp_path, 1, keys=json.dumps({"keys": [entry("alice", ALICE)]}), experts=registry)
    root = folder_of(tmp_path / "experts.yaml")
    async with gateway(root) as w:
        assert (await w.ask(ALICE), await w.ask(BOB)) == (200, 401)
        mount(tmp_path, 2, keys=json.dumps({"keys": [entry("bob", BOB)]}), experts=registry)
        shutil.rmtree(tmp_path / "..1")
        await w.taken_up(1)
        assert (await w.ask(ALICE), await w.ask(BOB)) == (401, 200)


def test_relative_paths_start_where_the_registry_appears(tmp_path: Path) -> None:
    mount(tmp_path, 1, experts=TEXT + "access: {keys_file: keys.yaml}\n")
    (tmp_path / "keys.yaml").write_text(json.dumps({"keys": [entry("alice", ALICE)]}))
    done = CliRunner().invoke(main, ["check", str(tmp_path / "experts.yaml")])
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "..1").iterdir()] == ["experts.yaml"], (
        "nothing is made in a mount"
    )
