"""Lines are added to files whole or not at all, also on a full disk and after a crash."""

from __future__ import annotations

import asyncio
import json
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from coe.core.files import Behind, append_line, off_the_loop
from coe.core.types import Request
from coe.observe.capture import CapturedExchange, Recorder
from coe.pipeline.feedback import FeedbackLog, Rating
from coe.registry.service_settings import CaptureSettings


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes: what fits of a write is written, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_does_not_fit_leaves_nothing_and_the_next_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    append_line(file, b"first")
    for size in range(6, 20):
        with full_after(size), pytest.raises(OSError, match="large"):
            append_line(file, b"a long second line")
        assert file.read_bytes() == b"first\n"
    append_line(file, b"third")
    assert file.read_bytes() == b"first\nthird\n"


@pytest.mark.parametrize("left", [b'{"half": ', b"\xff", b"first\n{"])
def test_what_a_crash_left_of_a_line_does_not_take_in_the_next(tmp_path: Path, left: bytes) -> None:
    file = tmp_path / "lines"
    file.write_bytes(left)
    append_line(file, b"next")
    append_line(file, b"last")
    assert file.read_bytes() == left + b"\nnext\nlast\n"


def test_a_full_device_is_an_error() -> None:
    with pytest.raises(OSError, match="No space"):
        append_line(Path("/dev/full"), b"line")


def test_writers_side_by_side_write_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    lines = [str(number).encode() * 2_000 for number in range(100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda line: append_line(file, line, 0o600), lines))
    assert sorted(file.read_bytes().splitlines()) == sorted(lines)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def a_record(recorder: Recorder, name: str) -> Callable[[], None]:
    request = Request(name, "chat/completions", "coe", {"model": "coe", "messages": []}, "hi")
    return lambda: recorder.take(CapturedExchange(request, "alice", None, b""))


def test_a_record_that_did_not_fit_is_not_counted_and_takes_no_other_with_it(tmp_path: Path) -> None:
    def run(name: str) -> dict[str, int]:
        recorder = Recorder(tmp_path / "prompts.jsonl", CaptureSettings())
        a_record(recorder, name)()
        recorder.close()
        return dict(recorder.results)

    assert run("one") == {"written": 1, "dropped": 0}
    with full_after((tmp_path / "prompts.jsonl").stat().st_size + 20):
        assert run("two") == {"written": 0, "dropped": 1}
    assert run("three") == {"written": 1, "dropped": 0}
    lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
    assert [json.loads(line)["request_id"] for line in lines] == ["one", "three"]


def test_a_rating_that_did_not_fit_takes_no_other_with_it(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path / "feedback.jsonl")
    log.append(Rating("one", "maths", "sums", 1.0))
    with full_after((tmp_path / "feedback.jsonl").stat().st_size + 10), pytest.raises(OSError, match="large"):
        log.append(Rating("two", "maths", "sums", 1.0))
    log.append(Rating("three", "maths", "sums", 0.0))
    assert [rating.request for rating in log.ratings()] == ["one", "three"]


def test_what_is_written_behind_comes_in_order_and_its_end_is_waited_for() -> None:
    behind, done = Behind("the test"), list[int]()
    for number in range(100):
        behind.give(partial(done.append, number))
    behind.close()
    assert done == list(range(100))
    Behind("nothing was given").close()


def test_a_disk_that_never_answers_holds_up_no_end(caplog: pytest.LogCaptureFixture) -> None:
    behind, stalled = Behind("the test"), threading.Event()
    behind.give(partial(wait_for, stalled))
    behind.close(limit_s=0.05)
    stalled.set()
    assert "the test was given up" in caplog.text


def wait_for(event: threading.Event) -> None:
    event.wait(60)


async def test_a_read_off_the_loop_gives_what_it_reads_raises_what_it_raises_and_can_be_left() -> None:
    assert await off_the_loop(max, 3, 4, key=lambda number: -number) == 3
    with pytest.raises(FileNotFoundError):
        await off_the_loop(Path("/nowhere").read_text, encoding="utf-8")
    stalled = threading.Event()
    waiting = asyncio.create_task(off_the_loop(stalled.wait, 60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    stalled.set()
