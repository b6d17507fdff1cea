"""Sample logs of lm-evaluation-harness: ``samples_TASK_TIME.jsonl``, made with ``--log_samples``.

The harness writes them into a folder named for the model. Of several filters over one answer the strictest
one is taken: ``strict-match`` where it is, else the first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coe.core.errors import ConfigError
from coe.eval.importers import files_of
from coe.eval.importers.writing import Imported, OutcomeRow, QuestionRow, unique
from coe.eval.live.tables import Row, read_rows
from coe.outcomes.splits import TEST

_NAME = re.compile(r"samples_(?P<task>.+?)_\d{4}-\d{2}-\d{2}T.*\.jsonl$")
_METRICS = ("exact_match", "acc_norm", "acc", "mc2", "mc1", "f1", "pass@1")
_STRICT = "strict-match"
_QUESTION = ("question", "problem", "query", "ctx", "prompt", "input")
_CATEGORY = ("category", "subject", "subject_name")


def read(paths: Sequence[Path], expert: str | None) -> Imported:
    """A question is named ``TASK/doc_id``; its category is the document's own, else the task."""
    questions: list[QuestionRow] = []
    outcomes: list[OutcomeRow] = []
    for path in files_of(paths, "samples_*.jsonl"):
        task = _task(path)
        split = _split(path, task)
        name = expert or path.parent.name.replace("__", "/")
        for row in _one_filter(read_rows(path)):
            question = _question(path, task, row, split)
            questions.append(question)
            outcomes.append(_outcome(path, row, question.question_id, name))
    return Imported(unique(questions), tuple(outcomes))


def _task(path: Path) -> str:
    found = _NAME.search(path.name)
    return found["task"] if found else path.stem.removeprefix("samples_")


def _split(path: Path, task: str) -> str:
    """What the harness asked, as the results beside the samples say: the test split where there is one."""
    for results in sorted(path.parent.glob("results_*.json"), reverse=True):
        try:
            config = json.loads(results.read_text(encoding="utf-8"))["configs"][task]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(config, dict):
            return str(config.get("test_split") or config.get("validation_split") or TEST)
    return TEST


def _one_filter(rows: Sequence[Row]) -> list[Row]:
    filters = {str(row.get("filter", "none")): None for row in rows}
    kept = _STRICT if _STRICT in filters else next(iter(filters), "none")
    return [row for row in rows if str(row.get("filter", "none")) == kept]


def _question(path: Path, task: str, row: Row, split: str) -> QuestionRow:
    doc = row.get("doc")
    if not isinstance(doc, dict) or "doc_id" not in row:
        raise ConfigError(f"{path} is not a sample log of lm-evaluation-harness: it lacks doc or doc_id")
    text = next((doc[name] for name in _QUESTION if isinstance(doc.get(name), str)), None)
    category = next((doc[name] for name in _CATEGORY if doc.get(name)), task)
    return QuestionRow(
        question_id=f"{task}/{row['doc_id']}",
        question=text or _prompt(row),
        category=str(category),
        options=_options(doc),
        gold=None if row.get("target") is None else str(row["target"]),
        split=split,
    )


def _prompt(row: Row) -> str | None:
    """What the model was sent, where the document has no question of its own."""
    arguments: Any = row.get("arguments")
    if isinstance(arguments, Mapping):
        arguments = [list(one.values()) for one in arguments.values() if isinstance(one, Mapping)]
    try:
        return str(arguments[0][0])
    except (IndexError, KeyError, TypeError):
        return None


def _options(doc: Mapping[str, Any]) -> tuple[str, ...] | None:
    listed = doc.get("options") or doc.get("choices")
    if isinstance(listed, Mapping):
        listed = listed.get("text")
    return tuple(str(option) for option in listed) if isinstance(listed, list) and listed else None


def _outcome(path: Path, row: Row, question: str, expert: str) -> OutcomeRow:
    named = [name for name in row.get("metrics") or () if isinstance(row.get(name), int | float)]
    metric = next((name for name in (*_METRICS, *named) if isinstance(row.get(name), int | float)), None)
    if metric is None:
        raise ConfigError(f"{path}: the sample {row['doc_id']} has no score ({', '.join(row)})")
    answer = _answer(row)
    return OutcomeRow(question, expert, float(row[metric]), answer, None if answer is None else bool(answer))


def _answer(row: Row) -> str | None:
    """The filtered answer of a generated text; a choice by likelihood has none."""
    filtered = row.get("filtered_resps")
    if isinstance(filtered, list) and len(filtered) == 1 and isinstance(filtered[0], str):
        return "" if filtered[0] == "[invalid]" else filtered[0].strip()
    return None
