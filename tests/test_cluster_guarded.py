"""`coe deploy --local` without Ray: who has the folder, which cluster is its own, and that nothing stays.

A stand-in for Ray's driver has processes that are called as Ray's are, and one in a session of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from coe.cluster.directory import Directory
from coe.cluster.known import LOCK, RECORD, KnownCluster, find_cluster, local_claim, record
from coe.cluster.messages import GatewayReport
from coe.core.errors import ConfigError
from tests.support.waiting import until

DAEMONS = ("gcs_server", "raylet")
OURS = KnownCluster("10.0.0.1:6379", "session_1", token=True)
COMMAND = """
import sys
from pathlib import Path
from coe.cluster.guarded import run_guarded
from coe.cluster.known import local_claim

def say(words):
    print(words, file=sys.stderr, flush=True)

with local_claim(Path(sys.argv[1])) as lock:
    sys.exit(run_guarded([sys.executable, "-c", sys.argv[2], *sys.argv[1:2]], lock, 30.0, say))
"""
DRIVER = """
import os, pathlib, signal, subprocess, sys, time
SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
SHARED = f"/dev/shm/coe-test-{os.getpid()}"
MAPPED = f"import mmap; f = open({SHARED!r}, 'w+b'); f.truncate(9); m = mmap.mmap(f.fileno(), 9); "
links = sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_symlink())
daemons = [subprocess.Popen([path, *SLEEP[1:]]) for path in links]
far = [*SLEEP[:-1], MAPPED + SLEEP[-1]]
far = f"import subprocess as s; print(s.Popen({far}, start_new_session=True, stdout=s.DEVNULL).pid)"
out = subprocess.run([sys.executable, "-c", far], stdout=subprocess.PIPE, text=True).stdout  # an orphan
while not os.path.exists(SHARED):
    time.sleep(0.02)
print(SHARED, *[daemon.pid for daemon in daemons], out.strip(), flush=True)
if ENDS == "when told":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
elif ENDS == "never":
    signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
elif ENDS == "at once":
    sys.exit(3)
while True:
    time.sleep(600)
"""


class Deployed:
    """The command while it runs. ``pids``: gcs_server, raylet, an orphan in a session of its own, which has
    ``shared`` memory."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        shared, *pids = process.stdout.readline().split()
        self.shared, self.pids = Path(shared), [int(pid) for pid in pids]
        self.all = {process.pid, *self.pids, *self._below()}

    def _below(self) -> set[int]:
        try:
            return {each.pid for each in psutil.Process(self.process.pid).children(recursive=True)}
        except psutil.NoSuchProcess:
            return set()

    def leash(self) -> psutil.Process:
        (found,) = [
            each
            for each in psutil.Process(self.process.pid).children()
            if each.pid == os.getpgid(each.pid) and "leash.py" in " ".join(each.cmdline())
        ]
        return found

    async def ended(self) -> tuple[int, str]:
        """Exit code and what was said, once nothing is left."""
        await until(lambda: self.process.poll() is not None)
        await until(lambda: not any(runs(pid) for pid in self.all) and not self.shared.exists())
        assert self.process.stderr is not None
        return self.process.returncode, self.process.stderr.read()


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def deployed(folder: Path, ends: str = "when told") -> Iterator[Deployed]:
    for name in DAEMONS:
        if not (folder / name).exists():
            (folder / name).symlink_to(sys.executable)
    driver = f"ENDS = {ends!r}\n{DRIVER}"  # which does not name them: conftest.py looks for such words
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(folder), driver],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Deployed(process)
    finally:
        process.kill()
        process.communicate()


linux = pytest.mark.skipif(sys.platform != "linux", reason="orphans are found on Linux only")


@linux
@pytest.mark.slow
@pytest.mark.parametrize(("name", "ends"), [("gcs_server", "never"), ("raylet", "when told")])
async def test_the_command_ends_with_rays_daemons(tmp_path: Path, name: str, ends: str) -> None:
    with deployed(tmp_path, ends) as command:
        victim = command.pids[DAEMONS.index(name)]
        await asyncio.sleep(
            3
        )  # the command looks for them five times a second; what it never saw it cannot miss
        os.kill(victim, signal.SIGKILL)
        code, said = await command.ended()
    assert code == 1
    assert f"Ray's {name} (process {victim}) has died" in said
    assert "Traceback" not in said


@linux
@pytest.mark.slow
@pytest.mark.parametrize("who", ["command", "leash", "driver"])
async def test_nothing_stays_whoever_is_killed(tmp_path: Path, who: str) -> None:
    with deployed(tmp_path, "never") as command:
        leash = command.leash()
        victims = {"command": command.process.pid, "leash": leash.pid, "driver": leash.children()[0].pid}
        os.kill(victims[who], signal.SIGKILL)
        code, said = await command.ended()
    if who == "command":
        assert code == -signal.SIGKILL
    else:
        assert code == 1
        assert "was ended by SIGKILL" in said
    with local_claim(tmp_path):  # the folder is free again
        pass


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_well(tmp_path: Path, number: int) -> None:
    with deployed(tmp_path) as command:
        command.process.send_signal(number)
        assert await command.ended() == (0, "")


@linux
@pytest.mark.slow
async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with deployed(tmp_path, "never") as command:
        command.process.send_signal(signal.SIGINT)
        assert command.process.stdout is not None
        assert command.process.stdout.readline() == "told\n"
        assert runs(command.process.pid)
        command.process.send_signal(signal.SIGTERM)
        code, said = await command.ended()
    assert code == 1
    assert "stopped at once" in said


@linux
@pytest.mark.slow
@pytest.mark.parametrize(("ends", "expected"), [("at once", 3), ("while it starts", 1)])
async def test_the_drivers_end_is_the_commands_end(tmp_path: Path, ends: str, expected: int) -> None:
    with deployed(tmp_path, ends) as command:
        if ends == "while it starts":  # it has no handler yet
            command.process.terminate()
        code, said = await command.ended()
    assert code == expected
    assert ("stopped before the service answered" in said) == (expected == 1)


@linux
@pytest.mark.slow
async def test_a_folder_has_one_local_cluster_until_all_of_it_has_ended(tmp_path: Path) -> None:
    with deployed(tmp_path, "never") as command:
        with (
            pytest.raises(ConfigError, match=f"process {command.process.pid}") as refused,
            local_claim(tmp_path),
        ):
            pass
        assert "folder and a port of its own" in (refused.value.hint or "")
        record(tmp_path, OURS, local=True)
        record(tmp_path, OURS)  # `coe deploy` of an edited experts.yaml
        with pytest.raises(ConfigError, match="runs in"):
            record(tmp_path, KnownCluster("10.0.0.1:6379", "session_2"))
        os.kill(command.leash().children()[0].pid, signal.SIGSTOP)
        os.kill(command.process.pid, signal.SIGKILL)
        await until(lambda: not runs(command.process.pid))
        with pytest.raises(ConfigError, match="runs in"), local_claim(tmp_path):
            pass
        await command.ended()
    with local_claim(tmp_path):
        pass
    assert not (tmp_path / RECORD).exists()


@pytest.mark.parametrize(
    ("address", "environment", "found"),
    [
        (None, {}, OURS),
        ("10.0.0.2:6379", {}, KnownCluster("10.0.0.2:6379")),
        (None, {"RAY_ADDRESS": "10.0.0.3:6379"}, KnownCluster("10.0.0.3:6379")),
        ("10.0.0.2:6379", {"RAY_ADDRESS": "10.0.0.3:6379"}, KnownCluster("10.0.0.2:6379")),
        (None, {"RAY_ADDRESS": ""}, OURS),
    ],
)
def test_a_cluster_is_the_one_that_was_named_or_the_folders_own(
    tmp_path: Path, address: str | None, environment: dict[str, str], found: KnownCluster
) -> None:
    record(tmp_path, OURS)
    assert find_cluster(address, tmp_path, environment) == found
    assert environment.get("RAY_AUTH_MODE") == ("token" if found == OURS else None)


def test_what_the_environment_says_of_tokens_stays(tmp_path: Path) -> None:
    record(tmp_path, OURS)
    environment = {"RAY_AUTH_MODE": "disabled"}
    find_cluster(None, tmp_path, environment)
    assert environment == {"RAY_AUTH_MODE": "disabled"}


@pytest.mark.parametrize(("address", "ray_address"), [("auto", ""), ("local", ""), (None, "auto")])
def test_no_cluster_is_whichever_ray_finds(tmp_path: Path, address: str | None, ray_address: str) -> None:
    record(tmp_path, OURS)
    with pytest.raises(ConfigError, match="whichever cluster Ray finds"):
        find_cluster(address, tmp_path, {"RAY_ADDRESS": ray_address})


def test_where_nothing_was_deployed_no_cluster_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing runs on Ray") as refused:
        find_cluster(None, tmp_path, {})
    assert "--address" in (refused.value.hint or "")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', b"\xff\xfe"])
def test_a_broken_record_is_named(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / RECORD).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=r"cluster\.json"):
        find_cluster(None, tmp_path, {})


def test_a_record_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file")
    with pytest.raises(ConfigError, match=r"cluster\.json"):
        record(tmp_path, OURS)
    with pytest.raises(ConfigError, match=r"cluster\.json"), local_claim(tmp_path):
        pass


def test_the_record_has_what_tells_two_clusters_at_one_address_apart(tmp_path: Path) -> None:
    record(tmp_path, OURS)
    written: dict[str, Any] = json.loads((tmp_path / RECORD).read_text())
    assert written == {"address": "10.0.0.1:6379", "session": "session_1", "token": True}
    assert (tmp_path / LOCK).exists()


async def test_gateways_that_are_there_learn_that_the_service_ends_and_later_ones_do_not() -> None:
    directory = Directory()
    old, new = (GatewayReport(name, "here", 1, 1) for name in ("old", "new"))
    assert not await directory.renew_gateway(old)
    await directory.end()
    assert await directory.renew_gateway(old)
    assert not await directory.renew_gateway(new)
    await directory.end()
    assert await directory.renew_gateway(new)


@pytest.mark.slow  # imports ray
@pytest.mark.parametrize(
    ("wanted", "there", "refused"),
    [
        (OURS, "session_1", False),
        (KnownCluster(OURS.address), "session_2", False),  # that address was asked for
        (OURS, "session_2", True),
    ],
)
def test_another_cluster_at_the_address_is_not_taken_for_ours(
    monkeypatch: pytest.MonkeyPatch, wanted: KnownCluster, there: str, refused: bool
) -> None:
    from coe.cluster import operator

    monkeypatch.setattr(operator, "_require_reachable", lambda _: None)
    monkeypatch.setattr(operator, "_init", lambda _: None)
    monkeypatch.setattr(operator, "_here", lambda address: KnownCluster(address, there))
    if not refused:
        with operator.connected(wanted) as found:
            assert found == KnownCluster(OURS.address, there)
        return
    with pytest.raises(ConfigError, match="there is another one") as error, operator.connected(wanted):
        pass
    assert f"--address {OURS.address}" in (error.value.hint or "")


@pytest.mark.slow  # imports ray
@pytest.mark.parametrize(("mode", "named"), [(None, True), ("token", False), ("disabled", False)])
def test_a_cluster_that_may_ask_for_a_token_is_told_so(
    monkeypatch: pytest.MonkeyPatch, mode: str | None, named: bool
) -> None:
    from coe.cluster import operator

    def refuse(_: str) -> None:
        raise RuntimeError("Failed to connect to GCS")

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setattr(operator, "_require_reachable", lambda _: None)
    monkeypatch.setattr(operator, "_init", refuse)
    with pytest.raises(ConfigError) as error, operator.connected(OURS):
        pass
    assert ("RAY_AUTH_MODE=token" in (error.value.hint or "")) == named
