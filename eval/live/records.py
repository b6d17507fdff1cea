"""What a live run found: one record a question, and the figures over them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coe.aggregators.ballots import Vote, by_head, by_weight, leading
from coe.aggregators.protocol import Asked as Voter
from coe.core.errors import ConfigError
from coe.eval.live.journal import Answered, History
from coe.eval.live.marking import same
from coe.eval.live.plan import Call, by_question, direct_calls, merge_call, recruited_calls
from coe.eval.live.prompting import messages, user_text
from coe.eval.live.questions import Item
from coe.eval.live.run import Asked, salted
from coe.eval.live.tables import read_rows
from coe.outcomes.statistics import Share, wilson


@dataclass(frozen=True)
class Record:
    """One question's end. Texts are None where the task withholds them.

    ``question`` is the user's message, ``prompt`` all that was sent. ``answers`` and ``scores`` are those
    of each expert asked, in the order of their rank; ``answer`` the final one, ``score`` its mark.
    ``error`` says why there is none; it counts as wrong. ``asked`` is how often calls of this question were
    sent: more than ``calls`` only where a crash swallowed an answer.
    """

    id: str
    category: str
    split: str
    gold: str | None
    question: str | None
    prompt: str | None
    prompt_hash: str
    experts: tuple[str, ...]
    answers: tuple[str | None, ...]
    scores: tuple[float, ...]
    outputs: tuple[str | None, ...]
    output_hashes: tuple[str, ...]
    answer: str | None
    score: float
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    latency_ms: float | None
    receipts: tuple[Mapping[str, Any] | None, ...]
    calls: int
    asked: int
    error: str | None


@dataclass(frozen=True)
class Summary:
    """The figures of a run over the ``questions`` asked, of ``wanted``. Unknown ones are None, never 0.

    ``seconds`` are those of all sessions.
    """

    task: str
    version: int
    model: str
    mode: str
    wanted: int
    questions: int
    accuracy: float
    low: float
    high: float
    unparsed: float
    failed: int
    asked_again: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    mean_experts: float
    p50_latency_ms: float | None
    p99_latency_ms: float | None
    seconds: float
    sessions: int
    swaps: float | None
    swap_ms: float | None


def records_of(asked: Asked, journal: History) -> list[Record]:
    """A record for each question that was asked, in the order of the questions."""
    settings = asked.settings
    if settings.recruit:
        order = [item.id for item in asked.questions.items if item.id in journal.routes]
        calls = by_question(recruited_calls({q: journal.routes[q] for q in order}, settings))
    else:
        calls = by_question(direct_calls([item.id for item in asked.questions.items], settings))
    items = {item.id: item for item in asked.questions.items}
    made = (_record(asked, journal, items[q], calls[q]) for q in items if q in calls)
    return [record for record in made if record.asked]


def _record(asked: Asked, journal: History, item: Item, calls: Sequence[Call]) -> Record:
    task, settings = asked.task, asked.settings
    ranked = sorted(calls, key=lambda call: (call.rank, call.sample))
    merge = merge_call(item.id, settings.synthesiser) if settings.recruit and settings.synthesiser else None
    keys = [call.key for call in ranked] + ([merge.key] if merge else [])
    found = [journal.answers[key] for key in keys if key in journal.answers]
    legs = [(call, journal.answers[call.key]) for call in ranked if call.key in journal.answers]
    answer = _final(asked, item, legs, journal.answers.get(merge.key) if merge else None)
    prompt = "\n\n".join(m["content"] for m in messages(task, item, asked.questions.exemplars))
    withheld = task.data.withheld
    return Record(
        id=item.id,
        category=item.category,
        split=item.split,
        gold=None if withheld else item.gold,
        question=None if withheld else user_text(task, item),
        prompt=None if withheld else prompt,
        prompt_hash=salted(asked.salt, prompt),
        experts=tuple(one.expert for one in found),
        answers=tuple(one.answer for one in found),
        scores=tuple(one.score for one in found),
        outputs=tuple(one.output for one in found),
        output_hashes=tuple(one.output_hash for one in found),
        answer=answer,
        score=_score(asked, item, legs, answer),
        prompt_tokens=_total([one.prompt_tokens for one in found]),
        completion_tokens=_total([one.completion_tokens for one in found]),
        cost_usd=_total([one.cost_usd for one in found]),
        latency_ms=max((one.latency_ms for one in found), default=None),
        receipts=tuple(one.receipt for one in found),
        calls=len(keys),
        asked=sum(journal.asked[key] for key in keys),
        error=next((journal.failures[key] for key in keys if key in journal.failures), None),
    )


def _final(
    asked: Asked, item: Item, legs: Sequence[tuple[Call, Answered]], merged: Answered | None
) -> str | None:
    """What an expert wrote, else what the service's vote of the same name takes."""
    if merged is not None:
        return merged.answer
    if not legs:
        return None
    votes = [Vote(Voter(call.model, call.weight, call.rank), answered.answer) for call, answered in legs]
    weighted = asked.settings.recruit and asked.settings.aggregator == "weighted_vote"
    rule = by_weight(user_text(asked.task, item), asked.dependence) if weighted else by_head
    return leading(rule, votes)


def _score(asked: Asked, item: Item, legs: Sequence[tuple[Call, Answered]], answer: str | None) -> float:
    if answer is None:
        return 0.0
    by_answer = {answered.answer: answered.score for _, answered in legs}
    return by_answer[answer] if answer in by_answer else float(same(asked.task, answer, item.gold))


def _total(values: Sequence[Any]) -> Any:
    """The sum; None as soon as one is not known."""
    return None if not values or any(value is None for value in values) else sum(values)


def summarise(asked: Asked, journal: History, records: Sequence[Record]) -> Summary:
    """Figures over the records. A question without an answer counts as wrong."""
    total = len(records)
    right = sum(record.score for record in records)
    low, high = wilson(right / total, total) if total else (0.0, 1.0)
    latencies = sorted(record.latency_ms for record in records if record.latency_ms is not None)
    answered = [record for record in records if record.error is None]
    return Summary(
        task=asked.task.name,
        version=asked.task.version,
        model=asked.settings.model,
        mode=mode_of(asked),
        wanted=len(asked.questions.items),
        questions=total,
        accuracy=right / total if total else 0.0,
        low=low,
        high=high,
        unparsed=Share(sum(record.answer is None for record in answered), len(answered)).value,
        failed=sum(record.error is not None for record in records),
        asked_again=sum(max(0, record.asked - record.calls) for record in records),
        prompt_tokens=_total([record.prompt_tokens for record in answered]),
        completion_tokens=_total([record.completion_tokens for record in answered]),
        cost_usd=_total([record.cost_usd for record in answered]),
        mean_experts=sum(len(_legs(record)) for record in records) / total if total else 0.0,
        p50_latency_ms=_quantile(latencies, 0.5),
        p99_latency_ms=_quantile(latencies, 0.99),
        seconds=sum(end - start for start, end in journal.sessions),
        sessions=len(journal.sessions),
        swaps=swaps_of(journal),
        swap_ms=_swap_ms(records),
    )


def mode_of(asked: Asked) -> str:
    settings = asked.settings
    if not settings.recruit:
        return "routed by the service" if settings.samples == 1 else f"{settings.samples} samples, vote"
    order = "expert by expert" if settings.grouped else "question by question"
    if settings.recruit == settings.samples == 1:
        return f"{settings.recruit} recruited, {order}"
    unknown = settings.aggregator == "weighted_vote" and asked.dependence is None
    taken_as = ", experts taken as independent" if unknown else ""
    return f"{settings.recruit} recruited, {order}, {settings.aggregator}{taken_as}"


def swaps_of(journal: History) -> float | None:
    """Swaps of the service during all sessions, by its own counter; None where it has none."""
    by_session: dict[int, list[float]] = {}
    for meter in journal.meters:
        by_session.setdefault(meter.session, []).append(meter.swaps)
    if not by_session:
        return None
    return sum(readings[-1] - readings[0] for readings in by_session.values())


def _legs(record: Record) -> list[str]:
    """The experts that generated for one question, as receipts say, else as asked."""
    legs = [str(leg["expert"]) for receipt in record.receipts if receipt for leg in receipt.get("legs", [])]
    return legs or list(record.experts)


def _swap_ms(records: Sequence[Record]) -> float | None:
    """Milliseconds that calls waited for weights, summed; calls that waited for one swap count it each."""
    waits = [receipt.get("swap_ms") for record in records for receipt in record.receipts if receipt]
    known = [float(wait) for wait in waits if wait is not None]
    return sum(known) if known else None


def _quantile(ordered: Sequence[float], q: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None


def write_records(folder: Path, records: Sequence[Record], summary: Summary) -> None:
    """records.jsonl, records.parquet and summary.json in ``folder``."""
    import pyarrow
    import pyarrow.parquet as parquet

    lines = [json.dumps(asdict(record), ensure_ascii=False) for record in records]
    (folder / "records.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    # Receipts differ in shape from service to service: as JSON texts they fit one column.
    rows = [
        asdict(record) | {"receipts": [json.dumps(receipt) for receipt in record.receipts]}
        for record in records
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "records.parquet")
    (folder / "summary.json").write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, as they stand in its file. Raises ConfigError."""
    return [dict(row) for row in read_rows(_part(folder, "records.jsonl"))]


def read_summary(folder: Path) -> Summary:
    """Raises ConfigError."""
    path = _part(folder, "summary.json")
    try:
        return Summary(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a summary of a live run: {error}") from None


def _part(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise ConfigError(f"{folder} holds no {name}", hint="Give the --out folder of a `coe eval run`.")
    return folder / name
