"""One session of a live run, from its folder's journal to its records."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coe.aggregators.votes import Dependence
from coe.core.errors import ConfigError
from coe.core.suggest import suggest
from coe.eval.live.journal import Journal
from coe.eval.live.plan import Settings
from coe.eval.live.prices import Prices
from coe.eval.live.questions import Questions, Source, read_questions
from coe.eval.live.records import Summary, records_of, summarise, write_records
from coe.eval.live.run import Asked, LiveRun, Progress
from coe.eval.live.service import Address, connect
from coe.eval.live.task import Task

SALT_ENV = "COE_EVAL_SALT"
"""Environment variable with the salt of hashes, for runs of withheld tasks that are to be compared."""


@dataclass(frozen=True)
class Order:
    """What the user asked for."""

    task: Task
    source: Source
    settings: Settings
    address: Address
    prices: Prices
    concurrency: int = 8
    dependence: Dependence | None = None


async def run_session(order: Order, folder: Path, progress: Progress) -> Summary:
    """Ask what is not answered yet, and write records.jsonl, records.parquet and summary.json.

    The records are also written when the run breaks off. Raises ConfigError and
    :class:`coe.eval.live.service.ServiceGone`.
    """
    questions = read_questions(order.task, order.source)
    journal = Journal(folder / "journal.jsonl")
    try:
        return await _with_journal(order, questions, journal, folder, progress)
    finally:
        journal.close()


async def _with_journal(
    order: Order, questions: Questions, journal: Journal, folder: Path, progress: Progress
) -> Summary:
    salt = (journal.header or {}).get("salt") or os.environ.get(SALT_ENV) or secrets.token_hex(16)
    asked = Asked(
        order.task, questions, order.settings, order.prices, salt, order.concurrency, order.dependence
    )
    async with connect(order.address, order.concurrency) as service:
        listed = await service.models()
        if not order.settings.recruit and order.settings.model not in listed:
            raise ConfigError(
                f'{order.address.base} has no model "{order.settings.model}"; '
                f"{suggest(order.settings.model, listed)}",
                hint="Name one with --model.",
            )
        journal.begin(_header(asked, order.source.seed), time.time())
        try:
            await LiveRun(asked, service, journal, progress).run()
        finally:
            records = records_of(asked, journal)
            summary = summarise(asked, journal, records)
            write_records(folder, records, summary)
    return summary


def _header(asked: Asked, seed: int) -> Mapping[str, Any]:
    """What makes two sessions the same run; not the address, which may change when a service restarts."""
    content = repr((asked.questions.items, sorted(asked.questions.exemplars.items())))
    return {
        "task": asked.task.name,
        "version": asked.task.version,
        "digest": asked.task.digest,
        "questions": len(asked.questions.items),
        "question_digest": hashlib.sha256(content.encode()).hexdigest()[:16],
        "seed": seed,
        "settings": asdict(asked.settings),
        "salt": asked.salt,
    }
