"""Commands beside a service with a certificate of its own: they find it and trust it alone, send no token in
clear, and never edit the file behind its back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coe.cli import _client, main
from coe.service.running import FOLDER, Running, services_of, written_down
from tests.support.live import TEXT
from tests.test_listening import make_certificate

pytest.importorskip("cryptography", reason="makes the certificates of these tests")

TOKEN = "a-token-of-enough-characters"
PROGRAM = """
import sys
from pathlib import Path
from coe.service.http_server import Tls
from coe.service.live_registry import RegistryFile
from coe.service.service import run_service
from coe.testing.engines import FakeEngine, Script

path = Path(sys.argv[1])
file = RegistryFile(path, path.read_text())
build = lambda host, *_: FakeEngine(host.id, Script(load_s=0.01, first_byte_s=0.002))
tls = Tls(path.parent / "cert.pem", path.parent / "key.pem")
sys.exit(run_service(file.registry(), path.parent, build, file, tls))
"""


def coe(*words: str) -> Result:
    return CliRunner(env={"COE_ADMIN_TOKEN": TOKEN}).invoke(main, list(words))


def good(*words: str) -> Result:
    result = coe(*words)
    assert result.exit_code == 0, result.output
    return result


@contextmanager
def a_service(folder: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A registry file that a process serves over TLS, on ports that nobody was told of."""
    make_certificate(folder)
    (folder / "token").write_text(TOKEN + "\n")
    file = folder / "experts.yaml"
    file.write_text(TEXT + "service: {port: 0, admin: {port: 0, token_file: token}}\n", encoding="utf-8")
    command = [sys.executable, "-c", PROGRAM, str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
    try:
        assert process.stdout is not None
        assert "https://127.0.0.1:" in next(line for line in process.stdout if line.startswith("curl"))
        yield file, process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tls")
    with a_service(folder) as (file, process):
        yield file
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert services_of(file) == []
    assert list((folder / FOLDER).iterdir()) == []


def test_commands_find_the_service_and_trust_its_certificate(file: Path) -> None:
    at = ("--registry", str(file))
    listed = json.loads(good("experts", "list", "--json", *at).stdout)["experts"]
    assert {expert["state"] for expert in listed} <= {"awake", "cold"}
    assert good("route", "2+2?", *at).stdout
    assert "generation" in good("experts", "add", "tax", "--on", "slot", "--model", "org/tax", *at).stdout
    assert json.loads(good("experts", "show", "tax", "--json", *at).stdout)["state"] == "cold"
    gone = good("experts", "remove", "tax", *at)
    assert "generation" in gone.stdout
    assert "tax" not in file.read_text(encoding="utf-8")
    number = json.loads(good("registry", "history", "--json", *at).stdout)["generations"][0]["number"]
    assert "back to" in good("registry", "rollback", str(number), *at).stdout


def test_chat_finds_the_service_of_its_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert "router" in good("chat", "What is 2+2?").stderr


def test_an_address_that_is_given_needs_a_certificate_only_elsewhere(file: Path, tmp_path: Path) -> None:
    (running,) = services_of(file)
    at = ("route", "2+2?", "--registry")
    assert good(*at, str(file), "--url", running.url + "/").stdout
    stranger = coe(*at, str(tmp_path / "experts.yaml"), "--url", running.url)
    assert stranger.exit_code == 1
    assert "no safe connection" in stranger.stderr
    assert "--ca" in stranger.stderr
    by_name = running.url.replace("127.0.0.1", "localhost")
    named = (*at, str(tmp_path / "experts.yaml"), "--url", by_name, "--ca")
    assert good(*named, str(file.parent / "cert.pem")).stdout
    make_certificate(tmp_path)
    assert "no safe connection" in coe(*named, str(tmp_path / "cert.pem")).stderr
    for unusable in ("none.pem", "token"):
        assert "cannot be used" in coe(*named, str(file.parent / unusable)).stderr


def test_the_token_goes_to_no_port_of_tls_in_clear_and_the_file_stays(file: Path) -> None:
    (running,) = services_of(file)
    before = file.read_text(encoding="utf-8")
    clear = (running.admin or "").replace("https", "http")
    for words in (("add", "tax", "--on", "slot", "--model", "org/tax"), ("remove", "sums")):
        refused = coe("experts", *words, "--registry", str(file), "--admin", clear)
        assert refused.exit_code == 1
        assert "the token was not sent" in refused.stderr
    assert file.read_text(encoding="utf-8") == before


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[tuple[int, list[bytes]]]:
    """A port, and what it was sent."""
    heard: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            heard.append(connection.recv(65_536))
            answer(connection)
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1], heard
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: None,
        lambda peer: peer.sendall(bytes.fromhex("15030300020246")),  # the alert of TLS
        lambda peer: peer.recv(1),  # silence
    ],
    ids=["closes", "alert", "silent"],
)
def test_what_is_no_plain_http_gets_no_token_and_the_file_is_not_edited(
    answer: Callable[[socket.socket], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_client, "_QUICK_S", 0.5)
    file = tmp_path / "experts.yaml"
    (tmp_path / "token").write_text(TOKEN)
    with listening(answer) as (port, heard):
        file.write_text(TEXT + f"service: {{admin: {{port: {port}, token_file: token}}}}\n", encoding="utf-8")
        before = file.read_text(encoding="utf-8")
        refused = coe("experts", "remove", "words", "--registry", str(file))
    assert refused.exit_code == 1
    assert "the token was not sent" in refused.stderr
    assert heard
    assert not any(TOKEN.encode() in said for said in heard)
    assert file.read_text(encoding="utf-8") == before


def test_a_file_is_not_edited_behind_a_service_that_does_not_answer(tmp_path: Path) -> None:
    file = tmp_path / "experts.yaml"
    (tmp_path / "token").write_text(TOKEN)
    file.write_text(TEXT + "service: {admin: {port: 9, token_file: token}}\n", encoding="utf-8")
    with written_down(tmp_path, Running(file.name, "http://127.0.0.1:9", "http://127.0.0.1:9")):
        refused = coe("experts", "remove", "words", "--registry", str(file))
    assert refused.exit_code == 1
    assert "no service answers" in refused.stderr
    assert "words" in file.read_text(encoding="utf-8")
    edited = good("experts", "remove", "words", "--registry", str(file))
    assert f"working on {file}" in edited.stderr
    assert "words" not in file.read_text(encoding="utf-8")


def test_of_several_services_one_must_be_named(tmp_path: Path) -> None:
    file = tmp_path / "experts.yaml"
    one, other = Running(file.name, "http://127.0.0.1:9"), Running(file.name, "http://127.0.0.1:10")
    with written_down(tmp_path, one), written_down(tmp_path, other):
        refused = coe("route", "2+2?", "--registry", str(file))
        assert "2 services run" in refused.stderr
        assert other.url in refused.stderr
        assert one.url in coe("route", "2+2?", "--registry", str(file), "--url", one.url).stderr
    with written_down(tmp_path, Running("other.yaml", "http://127.0.0.1:9")):
        assert services_of(file) == []


def test_a_service_that_was_killed_is_forgotten(tmp_path: Path) -> None:
    with a_service(tmp_path) as (file, process):
        assert len(services_of(file)) == 1
        process.kill()
        process.wait()
        assert services_of(file) == []
        with written_down(tmp_path, Running(file.name, "http://127.0.0.1:9")):
            assert len(list((tmp_path / FOLDER).iterdir())) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with written_down(tmp_path, Running("experts.yaml", "http://127.0.0.1:9")):
        assert services_of(tmp_path / "experts.yaml") == []


@pytest.mark.parametrize("rubbish", [b"", b"\xff\xfe", b"[]", b'{"url": 3}', b'{"more": 1}'])
def test_rubbish_among_the_files_is_passed_over(tmp_path: Path, rubbish: bytes) -> None:
    import fcntl

    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "folder.json").mkdir()
    with (tmp_path / FOLDER / "1-a.json").open("wb") as held:
        held.write(rubbish)
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with written_down(tmp_path, Running("experts.yaml", "http://127.0.0.1:9")):
            (found,) = services_of(tmp_path / "experts.yaml")
    assert found.url == "http://127.0.0.1:9"
