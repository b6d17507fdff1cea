"""The command line: against a real service with a scripted engine, and without one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from coe.cli import main
from coe.registry.schema import Registry
from coe.service.service import build_service
from coe.testing.engines import FakeEngine, Script
from docs.generate import cli
from tests.support.serving import serving

ROOT = Path(__file__).parents[1]
NOWHERE = "http://127.0.0.1:9"
"""Port 9 (discard) is never served on a test machine."""

FILE = """\
pool:
  hosts:
    - {id: slot, device: cpu, dtype: float32}
experts:
  - {id: sums, host: slot, model: models/sums, card: "Sums.", skills: [sums]}
  - {id: base, host: slot, model: models/base, card: "All else.", general: true}
routers:
  default: fixed
  available:
    - {name: fixed, kind: static, options: {expert: sums}}
"""


def coe(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(words), input=stdin)


async def coe_beside(*words: str, stdin: str | None = None) -> Result:
    """As :func:`coe`, while this loop serves."""
    return await asyncio.to_thread(coe, *words, stdin=stdin)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experts.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


@pytest.fixture
async def url() -> AsyncIterator[str]:
    registry = Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}], "min_residency_s": 0},
            "experts": [
                {"id": name, "host": "slot", "model": name, "card": f"{name}."} for name in ("sums", "base")
            ],
            "routers": {
                "default": "fixed",
                "available": [
                    {"name": "fixed", "kind": "static", "options": {"expert": "sums"}},
                    {"name": "other", "kind": "static", "options": {"expert": "base"}},
                ],
            },
        }
    )
    engine = FakeEngine("slot", Script(text="forty two"))
    async with serving(build_service(registry, Path(), lambda *_: engine)) as base_url:
        yield base_url


def no_traceback(result: Result) -> bool:
    return "Traceback" not in result.output and (
        result.exception is None or isinstance(result.exception, SystemExit)
    )


# Help, unknown names, documentation


def test_help_lists_every_command_without_heavy_imports() -> None:
    code = """
import sys
from coe.cli import main
try:
    main(["--help"])
finally:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    for command in ("serve", "check", "chat", "route", "experts", "eval"):
        assert f"  {command} " in done.stdout
    heavy = {
        "torch",
        "numpy",
        "sklearn",
        "transformers",
        "vllm",
        "ray",
        "litellm",
        "aiohttp",
        "pydantic",
        "rich",
    }
    assert not heavy & set(done.stderr.split())


def test_unknown_command_names_the_choices_and_the_nearest() -> None:
    result = coe("serv")
    assert result.exit_code == 2
    assert 'did you mean "serve"?' in result.stderr
    assert "check" in result.stderr
    assert 'did you mean "list"?' in coe("experts", "lst").stderr


def test_command_line_document_is_current() -> None:
    shown = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert shown == cli.page(), "run python -m docs.generate"


# check


def test_check_lists_all_problems_of_a_broken_file_and_exits_1(file: Path) -> None:
    file.write_text(FILE.replace("host: slot", "hots: slot"), encoding="utf-8")
    result = coe("check", str(file))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count('did you mean "host"?') == 2
    assert f"{file}:5:16" in result.stderr
    assert no_traceback(result)


def test_check_of_missing_checkpoints_explains_and_exits_1(file: Path) -> None:
    result = coe("check", str(file))
    assert result.exit_code == 1
    assert "2 experts on 1 host" in result.stdout
    assert "make experts" in result.stdout


@pytest.mark.parametrize("broken", [True, False])
def test_check_json_has_one_shape_for_broken_and_incomplete_files(file: Path, broken: bool) -> None:
    if broken:
        file.write_text(FILE + "nonsense: 1\n", encoding="utf-8")
    result = coe("check", str(file), "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["ok"] is False
    assert set(report["findings"][0]) == {"severity", "subject", "message", "hint", "line", "column"}


# Without a service


@pytest.mark.parametrize("words", [("chat", "hello"), ("route", "hello")])
def test_missing_service_is_one_clear_line_and_a_hint(words: tuple[str, ...]) -> None:
    result = coe(*words, "--url", NOWHERE)
    assert result.exit_code == 1
    assert f"no service answers at {NOWHERE}" in result.stderr
    assert "coe serve" in result.stderr
    assert no_traceback(result)


@pytest.mark.parametrize("bad", ["nonsense", "ftp://x", "http://[", "http://no-such-host.invalid"])
def test_bad_address_is_explained(bad: str) -> None:
    result = coe("chat", "hello", "--url", bad)
    assert result.exit_code == 1
    assert no_traceback(result)
    assert "Error: " in result.stderr


def test_broken_registry_ends_serve_and_local_routing_with_exit_code_2(file: Path) -> None:
    file.write_text(FILE + "nonsense: 1\n", encoding="utf-8")
    for words in (("serve",), ("route", "--local", "hello")):
        result = coe(*words, "--registry", str(file))
        assert result.exit_code == 2
        assert 'unknown key "nonsense"' in result.stderr
        assert no_traceback(result)


def test_missing_registry_is_explained(tmp_path: Path) -> None:
    result = coe("serve", "--registry", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert "no such file" in result.stderr


def test_experts_are_listed_from_the_registry_when_no_service_runs(file: Path) -> None:
    result = coe("experts", "list", "--json", "--registry", str(file), "--url", NOWHERE)
    assert [(e["id"], e["state"]) for e in json.loads(result.stdout)["experts"]] == [
        ("sums", "not running"),
        ("base", "not running"),
    ]
    assert "no service" in result.stderr


def test_route_local_needs_no_service(file: Path) -> None:
    result = coe("route", "2+2?", "--local", "--registry", str(file), "--json")
    decision = json.loads(result.stdout)
    assert decision["expert"] == "sums"
    assert [row["expert"] for row in decision["experts"]] == ["sums", "base"]


CONVERSATION = [
    {"role": "system", "content": "Add."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "and 3?\n<system-reminder>Monday</system-reminder>"},
]
SHOWN = """task: Add.
read: and 3?, leaning on 1 earlier turn
left out: <system-reminder> (41)
"""


@pytest.mark.parametrize("whole", [CONVERSATION, {"model": "coe", "messages": CONVERSATION}])
def test_route_shows_what_is_read_of_a_conversation(file: Path, tmp_path: Path, whole: Any) -> None:
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps(whole))
    result = coe("route", "--messages", str(asked), "--local", "--registry", str(file))
    assert SHOWN in result.stdout


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "is not JSON"),
        ("[]", "messages must not be empty"),
        ('{"model": "coe"}', "must have either input or messages"),
        ('["2+2?"]', "messages[0] must be an object"),
        ('[{"role": "%s", "content": ""}]' % ("x" * 70), "messages[0].role must be"),
    ],
)
def test_route_refuses_what_is_no_conversation(file: Path, tmp_path: Path, text: str, fault: str) -> None:
    asked = tmp_path / "asked.json"
    asked.write_text(text)
    result = coe("route", "--messages", str(asked), "--local", "--registry", str(file))
    assert result.exit_code in (1, 2)
    assert fault in result.stderr


def test_route_takes_a_question_or_a_conversation(file: Path) -> None:
    assert "either QUESTION or --messages" in coe("route", "--registry", str(file)).stderr
    both = coe("route", "2+2?", "--messages", "-", "--registry", str(file))
    assert "either QUESTION or --messages" in both.stderr


def test_route_local_by_unknown_router_names_the_choices(file: Path) -> None:
    result = coe("route", "2+2?", "--local", "--registry", str(file), "--router", "fixd")
    assert result.exit_code == 2
    assert 'did you mean "fixed"?' in result.stderr


# Beside a service


async def test_chat_streams_the_answer_to_stdout_and_the_receipt_to_stderr(url: str) -> None:
    result = await coe_beside("chat", "What is 6 x 7?", "--url", url)
    assert result.exit_code == 0
    assert result.stdout == "forty two\n"
    assert result.stderr.startswith("[sums 1.00 (next: base) | router fixed | queue ")
    assert result.stderr.rstrip().endswith("always sums")
    assert result.stderr.count("\n") == 1


async def test_chat_can_pin_an_expert_or_name_a_router(url: str) -> None:
    pinned = await coe_beside("chat", "hello", "--url", url, "--model", "base")
    named = await coe_beside("chat", "hello", "--url", url, "--router", "other")
    assert pinned.stderr.startswith("[base | router pinned")
    assert named.stderr.startswith("[base 1.00 (next: sums) | router other")


async def test_piped_stdin_is_the_message(url: str) -> None:
    result = await coe_beside("chat", "--url", url, stdin="What is 6 x 7?\n")
    assert result.stdout == "forty two\n"
    empty = await coe_beside("chat", "--url", url, stdin="\n")
    assert empty.exit_code == 1
    assert "empty" in empty.stderr


async def test_refusal_shows_the_services_message_and_hint(url: str) -> None:
    result = await coe_beside("chat", "hello", "--url", url, "--model", "smus")
    assert result.exit_code == 1
    assert 'did you mean "sums"?' in result.stderr
    assert no_traceback(result)


async def test_route_shows_ranking_and_reason(url: str) -> None:
    result = await coe_beside("route", "2+2?", "--url", url)
    assert result.stdout.startswith("sums: always sums\nrouter fixed, confidence 1.00\n")
    assert "expected wait" in result.stdout
    as_json = await coe_beside("route", "2+2?", "--url", url, "--json", "--router", "other")
    assert json.loads(as_json.stdout)["expert"] == "base"


async def test_route_reads_a_conversation_from_stdin(url: str) -> None:
    result = await coe_beside("route", "--messages", "-", "--url", url, stdin=json.dumps(CONVERSATION))
    assert SHOWN in result.stdout


async def test_experts_are_listed_with_their_states(url: str) -> None:
    await coe_beside("chat", "hello", "--url", url, "--model", "base")
    result = await coe_beside("experts", "list", "--json", "--url", url)
    states = {expert["id"]: expert["state"] for expert in json.loads(result.stdout)["experts"]}
    assert states["base"] == "awake"
    assert set(states) == {"sums", "base"}
    assert "awake" in (await coe_beside("experts", "list", "--url", url)).stdout


# Beside something else


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"<html>not here</html>"),
        (500, b'{"error": "text"}'),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'data: {"choices": []}\n\n'),
        (200, b"data: nonsense\n\n"),
        (200, b'data: {"error": {"message": "it broke", "source": "expert", "hint": null}}\n\n'),
    ],
)
@pytest.mark.parametrize(
    "words", [("chat", "hello"), ("route", "hello"), ("experts", "list")], ids=lambda w: w[0]
)
def test_what_is_no_service_gets_a_clear_error(words: tuple[str, ...], status: int, body: bytes) -> None:
    with answering(status, body) as address:
        result = coe(*words, "--url", address)
    assert result.exit_code == 1
    assert result.stderr.startswith(("Error: ", "\nError: "))
    assert no_traceback(result)
