"""Profiling an expert by asking it: probe questions put to it (through an OpenAI-compatible URL, or by the
service that it has joined), graded strictly.

Every answer is kept in a record as it comes (one JSON line), so that an interrupted run goes on where it was.
Which question comes next may depend on the answers so far: batches are chosen by :mod:`coe.profiles.probing`.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coe.core.errors import ConfigError, EngineError
from coe.core.extraction import LETTERS, choice, extract
from coe.core.files import append_line
from coe.core.openai import stand_in
from coe.outcomes.outcome_set import Question
from coe.profiles.names import name_among
from coe.profiles.newcomer import Floats, NewcomerModel, Rows
from coe.profiles.outcomes import Recorded, Source, probed_profile
from coe.profiles.probing import Design, probe
from coe.profiles.profile import Cost, ExpertProfile, Latency
from coe.registry.schema import Expert

PROMPT = (
    "{question}\n\nThink step by step. End with a line of the form: The answer is (X), where X is the letter."
)
_AT_ONCE = 8
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Asked:
    """One answer. ``score``: 1 right, 0 wrong or without a readable answer."""

    question: str
    score: float
    seconds: float
    output_tokens: int | None


@dataclass(frozen=True)
class Reply:
    text: str
    output_tokens: int | None = None


Put = Callable[[str], Awaitable[Reply]]
"""Puts one question to the expert. Raises CoeError when it does not answer."""


@dataclass(frozen=True)
class Asking:
    """How to ask. ``record``: where answers are kept; ``run``: has them given, in a thread that may wait."""

    put: Put
    record: Path
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run


def ask_profile(
    data: Recorded, expert: Expert, asking: Asking, count: int, design: Design = "adaptive", seed: int = 0
) -> ExpertProfile:
    """The profile of ``expert`` from ``count`` questions of ``data``; blocking (as long as the answers take).

    A question without options is put as it stands; its answer counts where it is the gold one. Raises
    ConfigError when no question has a gold answer, and what ``asking.put`` raises.
    """
    gradable = np.asarray([i for i, q in enumerate(data.outcomes.questions) if q.gold], dtype=np.intp)
    if not len(gradable):
        raise ConfigError(
            f"{data.outcomes.name} has no question with a gold answer to ask",
            hint="Use an outcome set with a column gold: the right option's letter, or a short answer.",
        )
    kept = read_record(asking.record)
    own = name_among(expert, data.outcomes.experts)
    model = NewcomerModel(data.evidence([name for name in data.outcomes.experts if name != own]))

    def answer(rows: Rows) -> Floats:
        asking.run(_ask_missing(data, rows, asking, kept))
        return np.asarray([kept[data.table.ids[row]].score for row in rows])

    probing = probe(model, answer, count, allowed=gradable, design=design, seed=seed)
    source = Source(data.table.source, data.table.licence, "zero-shot, letter asked for")
    profile = probed_profile(data, own or expert.id, probing, source, expert.profile or expert.id)
    used = [kept[data.table.ids[row]] for row in probing.rows]
    return profile.model_copy(update={"latency": _latency(used), "cost": _cost(used, expert)})


def read_record(path: Path) -> dict[str, Asked]:
    """Answers of an earlier run, by question; a line cut off at the end is left out."""
    found: dict[str, Asked] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                one = Asked(**json.loads(line))
            except (ValueError, TypeError):
                continue
            found[one.question] = one
    return found


async def _ask_missing(data: Recorded, rows: Rows, asking: Asking, kept: dict[str, Asked]) -> None:
    missing = [row for row in rows if data.table.ids[row] not in kept]
    gate = asyncio.Semaphore(_AT_ONCE)
    asking.record.parent.mkdir(parents=True, exist_ok=True)

    async def one(row: int) -> None:
        async with gate:
            asked = await _ask(data.outcomes.questions[row], asking.put)
        kept[asked.question] = asked
        append_line(asking.record, json.dumps(asdict(asked)).encode())

    tasks = [asyncio.ensure_future(one(int(row))) for row in missing]
    try:
        await asyncio.gather(*tasks)
    finally:  # One that failed: the others are not asked in vain.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask(question: Question, put: Put) -> Asked:
    start = time.monotonic()
    reply = await put(PROMPT.format(question=question.text) if question.options else question.text or "")
    right = _is_right(question, reply.text)
    return Asked(question.id, float(right), round(time.monotonic() - start, 3), reply.output_tokens)


def _is_right(question: Question, text: str) -> bool:
    """Strictly: what is not clearly an answer is wrong."""
    if question.options:
        return choice(text, LETTERS[: len(question.options)]) == question.gold
    wanted = extract(question.gold or "")
    return wanted is not None and extract(text) == wanted


def through_url(url: str, model: str, trust: ssl.SSLContext | None = None) -> Put:
    """Asks an OpenAI-compatible server, which calls the expert ``model``. Raises EngineError."""
    import httpx

    base = url.rstrip("/").removesuffix("/v1")

    async def put(question: str) -> Reply:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 1024,
            "temperature": 0,
        }
        try:
            async with httpx.AsyncClient(timeout=_PATIENCE_S, verify=trust or True) as client:
                answer = (await client.post(f"{base}/v1/chat/completions", json=body)).json()
            text = str(answer["choices"][0]["message"]["content"] or "")
            if (other := stand_in(answer, model)) is not None:
                raise ValueError(f"{other} answered in its place")
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            raise EngineError(
                f"{model} at {url} did not answer a probe question: {type(error).__name__} {error}",
                hint="Is the server running and its name right? Answers so far are kept: run it again.",
            ) from None
        return Reply(text, (answer.get("usage") or {}).get("completion_tokens"))

    return put


def _latency(used: list[Asked]) -> Latency:
    seconds = sorted(one.seconds for one in used)
    slow = seconds[int(0.9 * (len(seconds) - 1))]
    return Latency(median_s=round(statistics.median(seconds), 3), p90_s=slow)


def _cost(used: list[Asked], expert: Expert) -> Cost:
    tokens = [one.output_tokens for one in used if one.output_tokens is not None]
    return Cost(
        input_usd_per_mtok=expert.price.input if expert.price else None,
        output_usd_per_mtok=expert.price.output if expert.price else None,
        mean_output_tokens=round(statistics.mean(tokens), 1) if tokens else None,
    )
