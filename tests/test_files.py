"""Lines are added to files whole or not at all, also on a full disk and after a crash."""

from __future__ import annotations

import json
import resource
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from coe.core.files import append_line
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
