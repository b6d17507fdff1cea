"""A minute of everything at once, after which nothing may be wrong and nothing left: benchmarks/chaos.py."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.chaos import Complaints, Ledger, _stream_of, _uneven, _whole_of, weather


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_after_a_storm_every_request_has_ended_once_and_nothing_is_left(tmp_path: Path) -> None:
    storm, wrong = await weather(tmp_path, seconds=60.0, seed=1)
    assert wrong == []
    assert storm.ends["answer"] > 0
    assert storm.faults["kill"] + storm.faults["stop"] > 0
    assert sum(storm.ledger.completed_ids.values()) > 0


def test_a_request_that_is_settled_never_or_twice_is_found() -> None:
    ledger = Ledger()
    ledger.begun_ids = Counter(once=1, never=1, twice=1, begun_again=2)
    ledger.completed_ids = Counter(once=1, twice=2, begun_again=2)
    assert _uneven(ledger) == ["never", "twice", "begun_again"]


def test_tracebacks_and_forgotten_tasks_are_complaints_and_deaths_of_engines_are_none() -> None:
    complaints = Complaints()
    for name, message, error in (
        ("coe.engines", "slot: its process ended", None),
        ("coe.gateway", "an observer failed", ValueError("x")),
        ("asyncio", "Task exception was never retrieved", None),
        ("coe.pool.watch", "the scheduler is stuck: {}", None),
    ):
        info = (type(error), error, None) if error else None
        complaints.emit(logging.LogRecord(name, logging.ERROR, "", 1, message, (), info))
    assert [each.partition(":")[0] for each in complaints.found] == [
        "coe.gateway",
        "asyncio",
        "coe.pool.watch",
    ]


def test_an_answer_is_read_with_its_receipt_and_an_end_with_its_error() -> None:
    receipt = {"expert": "a", "legs": []}
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in ("4", "2")]
    end = {"choices": [{"delta": {}}], "coe": receipt}
    events = [json.dumps(each) for each in (*chunks, end)] + ["[DONE]"]
    assert _stream_of("".join(f"data: {e}\n\n" for e in events).encode()) == ("42", receipt, None)
    broken = f"data: {events[0]}\n\ndata: {json.dumps({'error': {'code': 'x'}})}\n\n"
    assert _stream_of(broken.encode()) == ("", {}, {"code": "x"})
    whole = {"choices": [{"message": {"content": [{"type": "text", "text": "42"}]}}], "coe": receipt}
    assert _whole_of(json.dumps(whole).encode()) == ("42", receipt, None)
    for cut in (f"data: {events[0]}\n\n", ""):
        with pytest.raises((KeyError, IndexError)):
            _stream_of(cut.encode())
