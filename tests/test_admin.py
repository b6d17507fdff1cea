"""The admin API on its own port, and the commands that use it, on a real `coe serve` process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from coe.registry.source import parse_source
from tests.support.live import TEXT

TOKEN = "a-token-of-enough-characters"
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


@dataclass
class Running:
    """A service process, its file, and clients of its two ports."""

    file: Path
    public: httpx.Client
    admin: httpx.Client

    def ids(self) -> list[str]:
        text = self.file.read_text(encoding="utf-8")
        return [entry["id"] for entry in parse_source(text, self.file).data["experts"]]

    def ask(self, model: str = "coe") -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "2+2?"}]}
        return self.public.post("/v1/chat/completions", json=body, timeout=60)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    file = tmp_path_factory.mktemp("admin") / "experts.yaml"
    (file.parent / "token").write_text(TOKEN + "\n")
    port = free_port()
    settings = f"service: {{port: 0, admin: {{port: {port}, token_file: token}}}}\n"
    file.write_text(TEXT + settings, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
    try:
        public = announced_url(process.stdout)
        key = {"Authorization": f"Bearer {TOKEN}"}
        with (
            httpx.Client(base_url=public) as anybody,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=key, timeout=60) as operator,
        ):
            yield Running(file, anybody, operator)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()


def announced_url(stdout: IO[str] | None) -> str:
    assert stdout is not None
    return next(line for line in stdout if line.startswith("curl")).split("/v1/")[0].removeprefix("curl -s ")


def coe(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from coe.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.parametrize("key", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}])
def test_nothing_is_answered_without_the_token(service: Running, key: dict[str, str]) -> None:
    for method, path in [("GET", "/admin/status"), ("POST", "/admin/reload"), ("GET", "/elsewhere")]:
        response = httpx.request(method, f"{service.admin.base_url}{path}", headers=key)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    assert service.public.get("/admin/status").status_code == 404


def test_the_status_tells_generation_experts_and_engines(service: Running) -> None:
    status = service.admin.get("/admin/status").json()
    assert status["ready"] is True
    assert status["refused"] is None
    assert [expert["id"] for expert in status["experts"]] == ["sums", "words"]
    assert status["engines"]["slot"]["state"] == "ready"
    assert service.admin.get("/admin/experts/sums").json()["entry"]["model"] == "org/sums"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (
            {"yaml": "id: &a [x, x]\nb: &b [" + "*a, " * 99 + "]\nc: [" + "*b, " * 999 + "]"},
            "invalid_registry",
        ),
        ({"yaml": "id: " + "[" * 500}, "invalid_registry"),
        ({"experts": [{"id": "deep", "skills": json.loads("[" * 900 + "]" * 900)}]}, "invalid_request"),
    ],
)
def test_entries_that_stand_for_much_more_are_refused(
    service: Running, body: dict[str, Any], code: str
) -> None:
    refused = service.admin.post("/admin/experts", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, code), refused.text


@pytest.mark.slow
def test_adding_and_removing_under_load_loses_no_request(service: Running) -> None:
    done = threading.Event()
    answers: list[int] = []

    def client() -> None:
        while not done.is_set():
            answers.append(service.ask().status_code)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for each in clients:
        each.start()
    try:
        added = service.admin.post("/admin/experts", json={"yaml": "id: law\nhost: slot\nmodel: org/law\n"})
        assert added.status_code == 200, added.text
        assert added.json()["experts"][0]["shadow"] is False
        assert service.ask("law").json()["model"] == "law"
        removed = service.admin.delete("/admin/experts/law")
        assert removed.json()["generation"] == added.json()["generation"] + 1
        assert "left in generation" in service.ask("law").json()["error"]["message"]
    finally:
        done.set()
        for each in clients:
            each.join()
    assert len(answers) >= 4
    assert set(answers) == {200}
    assert service.ids() == ["sums", "words"]
    assert "# comes first" in service.file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/admin/experts", {"experts": [{"id": "x", "host": "slto", "model": "m"}]}, 400, "slto"),
        ("POST", "/admin/experts", {"experts": [{"id": "sums"}]}, 400, "already"),
        ("POST", "/admin/experts", {}, 400, "the body needs either experts or yaml"),
        ("POST", "/admin/experts", {"yaml": "id: x", "profile": True}, 400, "model"),
        ("DELETE", "/admin/experts/ghost", None, 404, "does not exist"),
        ("GET", "/admin/experts/ghost", None, 404, "does not exist"),
        ("POST", "/admin/registry/rollback", {"generation": 999}, 400, "not in the history"),
        ("PUT", "/admin/status", None, 405, "GET only"),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(
    service: Running, method: str, path: str, body: Any, status: int, says: str
) -> None:
    before = service.file.read_text(encoding="utf-8")
    response = service.admin.request(method, path, json=body)
    assert response.status_code == status
    assert says in response.json()["error"]["message"]
    assert service.file.read_text(encoding="utf-8") == before


def test_a_refused_edit_by_hand_shows_in_the_status(service: Running) -> None:
    good = service.file.read_text(encoding="utf-8")
    place = "host: {}\n    model: org/words"
    service.file.write_text(good.replace(place.format("slot"), place.format("no")))
    try:
        refused = service.admin.post("/admin/reload")
        assert refused.status_code == 400
        status = service.admin.get("/admin/status").json()
        assert 'experts.yaml:13:5: expert "words" is on host "no"' in status["refused"]["message"]
    finally:
        service.file.write_text(good)
    assert service.admin.post("/admin/reload").status_code == 200
    assert service.admin.get("/admin/status").json()["refused"] is None


@pytest.mark.slow
def test_the_commands_work_through_the_admin_api(service: Running) -> None:
    at = ("--registry", str(service.file))
    added = coe("experts", "add", "tax", "--on", "slot", "--model", "org/tax", "--shadow", *at)
    assert "tax: as a shadow" in added.stdout
    assert "generation" in added.stdout
    shown = json.loads(coe("experts", "show", "tax", "--json", *at).stdout)
    assert (shown["state"], shown["entry"]["shadow"]) == ("cold", True)
    number = service.admin.get("/admin/status").json()["generation"] - 1
    assert "+    shadow: true" in coe("registry", "history", "--diff", str(number), *at).stdout
    assert "back to the text" in coe("registry", "rollback", str(number), *at).stdout
    assert service.ids() == ["sums", "words"]
    assert 'expert "tax" does not exist' in coe("experts", "remove", "tax", *at, code=1).stderr


@pytest.mark.slow
def test_the_commands_work_on_the_file_alone_with_the_same_checks(tmp_path: Path) -> None:
    file, snippet = tmp_path / "experts.yaml", tmp_path / "law.yaml"
    file.write_text(TEXT, encoding="utf-8")
    snippet.write_text("- id: law\n  host: slot\n  model: org/law\n", encoding="utf-8")
    at = ("--registry", str(file))
    assert "law: added" in coe("experts", "add", str(snippet), *at).stdout
    assert (
        'on host "ghost"' in coe("experts", "add", "x", "--on", "ghost", "--model", "m", *at, code=2).stderr
    )
    assert "law: removed" in coe("experts", "remove", "law", *at).stdout
    assert file.read_text(encoding="utf-8") == TEXT
    assert len(coe("registry", "history", *at).stdout.splitlines()) == 3
