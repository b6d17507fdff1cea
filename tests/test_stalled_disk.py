"""A service whose files stop answering, as on a network disk that is gone: it goes on, and it can be stopped.

A FIFO without a writer stands for such a file: whoever opens it waits for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from coe.service.running import services_of
from tests.support.live import TEXT
from tests.support.waiting import until
from tests.test_admin import TOKEN, announced_url, coe

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from pathlib import Path
from coe.service.live_registry import RegistryFile
from coe.service.service import run_service
from coe.testing.engines import FakeEngine, Script

path = Path(sys.argv[1])
file = RegistryFile(path, path.read_text())
build = lambda host, *_: FakeEngine(host.id, Script(load_s=0.01, first_byte_s=0.002))
sys.exit(run_service(file.registry(), path.parent, build, file))
"""
SETTINGS = """
service: {port: 0, admin: {port: 0, token_file: token}}
access: {keys_file: keys.yaml}
feedback: {}
observe: {capture: {}}
"""
ASK = {"model": "sums", "messages": [{"role": "user", "content": "2+2?"}]}


@dataclass
class Stalling:
    folder: Path
    process: subprocess.Popen[str]
    public: httpx.Client
    admin: httpx.Client

    def stall(self, name: str) -> None:
        """From now on whoever opens the file ``name`` waits."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(file.name + ".fifo")
        os.mkfifo(new)
        new.replace(file)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Stalling]:
    file = tmp_path / "experts.yaml"
    file.write_text(TEXT + SETTINGS, encoding="utf-8")
    (tmp_path / "token").write_text(TOKEN)
    key = coe("keys", "create", "alice", "--file", str(tmp_path / "keys.yaml")).stdout.strip()
    command = [sys.executable, "-X", "dev", "-c", PROGRAM, str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
    try:
        url = announced_url(process.stdout)
        (running,) = services_of(file)
        with (
            httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as public,
            httpx.Client(
                base_url=running.admin or "", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60
            ) as admin,
        ):
            yield Stalling(tmp_path, process, public, admin)
    finally:
        process.kill()
        process.communicate()


def test_files_that_stop_answering_hold_up_no_request_and_no_end(service: Stalling) -> None:
    answered = service.public.post("/v1/chat/completions", json=ASK).json()
    rating = {"id": answered["coe"]["request_id"], "score": 1.0}
    asyncio.run(until((service.folder / "var/generations/0001.json").exists))
    for name in ("experts.yaml", "keys.yaml", "token", "var/generations/0001.yaml", "var/feedback.jsonl"):
        service.stall(name)
    for name in ("var/prompts.jsonl.lock", "var/generations/0001.json"):
        service.stall(name)
    for _ in range(3):  # before and after the watchers have seen the edits
        for path in ("/healthz", "/healthz/experts", "/readyz", "/metrics", "/v1/models", "/openapi.json"):
            assert service.public.get(path).status_code == 200
        assert service.public.post("/v1/chat/completions", json=ASK).status_code == 200
        assert service.public.post("/v1/feedback", json=rating).status_code in (200, 202, 204, 404)
        assert service.admin.get("/admin/status").status_code == 200
        threading.Event().wait(0.5)
    waiting = [threading.Thread(target=ask_in_vain, args=(service,), daemon=True) for _ in range(12)]
    for each in waiting:
        each.start()
    threading.Event().wait(0.5)
    assert service.public.get("/healthz").status_code == 200
    assert service.public.post("/v1/chat/completions", json={**ASK, "model": "coe"}).status_code == 200
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(timeout=90) == 0


def ask_in_vain(service: Stalling) -> None:
    """What needs the file: it waits for it, more often than any pool has threads."""
    with contextlib.suppress(httpx.HTTPError):
        service.admin.get("/admin/registry/history?compare=1", timeout=120)
