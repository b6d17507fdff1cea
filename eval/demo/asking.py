"""Many questions to a running service, some at once, each answer kept in a JSONL record as it comes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from coe.core.errors import ExpertUnavailable
from coe.core.files import append_line
from coe.core.openai import stand_in

_TIMEOUT_S = 600.0
K = TypeVar("K")
Row = dict[str, Any]
Job = Callable[[aiohttp.ClientSession], Coroutine[Any, Any, Row]]
"""Asks one question; the row says what came of it."""


def _rows_of(record: Path | None, key: Callable[[Row], K]) -> Iterator[tuple[K, Row]]:
    """What an earlier run kept; a line that an interruption cut off, or that is no row, is left out."""
    if record is None or not record.exists():
        return
    for line in record.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            found = key(row)
        except (ValueError, KeyError, TypeError):
            continue
        yield found, row


async def answered(
    wanted: Mapping[K, Job],
    key: Callable[[Row], K],
    record: Path | None,
    concurrency: int,
    trust: ssl.SSLContext | None = None,
) -> AsyncIterator[Row]:
    """A row of each job. Those that an earlier run with the same record has come first, and are not asked
    again. ``trust``: for a service with a certificate of its own."""
    left = dict(wanted)
    for found, row in _rows_of(record, key):
        if left.pop(found, None):
            yield row
    async for row in _run(list(left.values()), record, concurrency, trust):
        yield row


async def _run(
    jobs: Sequence[Job], record: Path | None, concurrency: int, trust: ssl.SSLContext | None
) -> AsyncIterator[Row]:
    """Rows in the order in which the answers come. Raises what a job raises; the others are cancelled."""
    waiting, running = list(reversed(jobs)), set[asyncio.Task[Row]]()
    connector, timeout = aiohttp.TCPConnector(ssl=trust or True), aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        try:
            while waiting or running:
                while waiting and len(running) < concurrency:
                    running.add(asyncio.create_task(waiting.pop()(session)))
                finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    row = task.result()
                    running.discard(task)
                    _keep(record, row)
                    yield row
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)  # no exception is left to be told of later


async def complete(session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """One chat completion. Raises ExpertUnavailable with the service's own message where it is refused."""
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        answer = await response.json()
        if response.status != 200:
            raise ExpertUnavailable(
                f"{body['model']} answered {response.status}: {answer['error']['message']}"
            )
        if (other := stand_in(answer, str(body["model"]))) is not None:
            raise ExpertUnavailable(f"{other} answered in place of {body['model']}")
    return dict(answer)


def _keep(record: Path | None, row: Row) -> None:
    if record is None:
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    append_line(record, json.dumps(row).encode())
