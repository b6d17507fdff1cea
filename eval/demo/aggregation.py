"""Aggregation measured through the HTTP API: ways of asking several experts against one routed expert.

Every way ("arm") answers the same questions, fixed by seeds: held-out questions of the demonstration, and
questions that hold two of them from different skills. Arms of several legs ask for the same number of
completions, so that they cost about the same tokens; the tokens that each took are reported beside it.
"""

from __future__ import annotations

import random
import re
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from coe.demo.questions import distinct_questions, held_out_questions
from coe.demo.skill import Question
from coe.demo.skills import all_skills, skill_named
from coe.eval.demo.asking import Job, Row, answered, complete
from coe.eval.statistics import PairedDifference, paired_bootstrap, share
from coe.outcomes.statistics import Share

PAIR_SEED = 7_204
BLOCK = 101
"""Questions that all arms answer before the next ones are asked: what is interrupted is still paired, and an
expert that is in memory serves many questions."""
LEGS = 3
"""Completions of one question in every arm but the single one."""


@dataclass(frozen=True)
class Arm:
    """A way of asking: ``coe`` is the request's extension, ``model`` a routed name or an expert."""

    name: str
    coe: Mapping[str, Any]
    model: str = "coe"
    temperature: float = 0.0


def arms(best_single: str | None = None) -> tuple[Arm, ...]:
    """The arms, the baseline (one routed expert) first."""
    written = LEGS - 1
    found = [
        Arm("single route", {"experts": 1, "aggregate": "first"}),
        Arm("routed-k + vote", {"experts": LEGS, "aggregate": "vote"}),
        Arm("routed-k + weighted_vote", {"experts": LEGS, "aggregate": "weighted_vote"}),
        Arm("routed-k + synthesise", {"experts": written, "aggregate": "synthesise"}),
        Arm("self_consistency", {"experts": LEGS, "aggregate": "self_consistency"}),
        Arm("self_moa", {"experts": written, "aggregate": "self_moa"}),
    ]
    if best_single is not None:
        found.append(Arm(f"best single ({best_single})", {}, model=best_single))
    return tuple(found)


@dataclass(frozen=True)
class Task:
    """One question of one or two parts; an answer is right when it is right on each part."""

    id: str
    text: str
    parts: tuple[Question, ...]
    max_tokens: int

    @property
    def kind(self) -> str:
        return "one skill" if len(self.parts) == 1 else "two skills"

    def check(self, output: str) -> bool:
        """One part: by the skill's own check. Two: the canonical answer of each stands in the output."""
        if len(self.parts) == 1:
            (question,) = self.parts
            return skill_named(question.skill).check(question, output)
        return all(_stands_in(question.answer, output) for question in self.parts)


def _stands_in(answer: str, output: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", output, re.IGNORECASE) is not None


def tasks(per_skill: int, pairs: int) -> list[Task]:
    """The fixed questions, mixed: ``per_skill`` held-out ones of each skill, ``pairs`` of two skills each."""
    single = [
        Task(q.id, q.text, (q,), skill_named(q.skill).max_tokens) for q in held_out_questions(per_skill)
    ]
    mixed = [*single, *_pairs(pairs)]
    random.Random(PAIR_SEED).shuffle(mixed)
    return mixed


def _pairs(count: int) -> list[Task]:
    rng = random.Random(PAIR_SEED)
    skills = all_skills()
    pool = {skill.name: distinct_questions(skill, "test", 2 * count, PAIR_SEED) for skill in skills}
    found = []
    for number in range(count):
        one, other = rng.sample(skills, 2)
        first, second = pool[one.name].pop(), pool[other.name].pop()
        text = f"Answer two questions, one line each.\n1. {first.text}\n2. {second.text}"
        bound = one.max_tokens + other.max_tokens + 8
        found.append(Task(f"pair-{number}", text, (first, second), bound))
    return found


async def ask_all(
    url: str,
    asked: Sequence[Arm],
    questions: Sequence[Task],
    record: Path | None,
    concurrency: int = 16,
    trust: ssl.SSLContext | None = None,
) -> AsyncIterator[Row]:
    """A row for each arm and question, in blocks of questions; rows of an earlier run come first."""
    wanted = {
        (arm.name, task.id): _job(url, arm, task)
        for start in range(0, len(questions), BLOCK)
        for arm in asked
        for task in questions[start : start + BLOCK]
    }
    async for row in answered(wanted, lambda row: (row["arm"], row["question"]), record, concurrency, trust):
        yield row


def _job(url: str, arm: Arm, task: Task) -> Job:
    async def ask(session: aiohttp.ClientSession) -> Row:
        body = {
            "model": arm.model,
            "messages": [{"role": "user", "content": task.text}],
            "temperature": arm.temperature,
            "max_tokens": task.max_tokens,
            "seed": 0,
            "coe": arm.coe,
        }
        answer = await complete(session, url, body)
        output = answer["choices"][0]["message"]["content"] or ""
        receipt, usage = answer["coe"], answer.get("usage") or {}
        return {
            "arm": arm.name,
            "question": task.id,
            "kind": task.kind,
            "right": task.check(output),
            "output": output,
            "expert": receipt["expert"],
            "legs": [[leg["expert"], leg["role"], leg["outcome"]] for leg in receipt["legs"]],
            "completion_tokens": usage.get("completion_tokens", 0),
            "prompt_tokens": usage.get("prompt_tokens", 0),
        }

    return ask


@dataclass(frozen=True)
class Line:
    """One arm's figures. ``gain`` is the paired difference to the baseline, None for the baseline itself."""

    arm: str
    accuracy: Share
    by_kind: Mapping[str, Share]
    gain: PairedDifference | None
    completion_tokens: float
    prompt_tokens: float
    completions: float
    """completions a question, those that were started and cancelled included"""


def lines(rows: Iterable[Row], order: Sequence[str]) -> list[Line]:
    """Figures over the questions that every arm of ``order`` answered; the first one is the baseline."""
    by_arm: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_arm[row["arm"]][row["question"]] = row
    present = [name for name in order if name in by_arm]
    if not present:
        return []
    common = sorted(set.intersection(*(set(by_arm[name]) for name in present)))
    base = [float(by_arm[present[0]][question]["right"]) for question in common]
    return [
        _line(name, [by_arm[name][q] for q in common], None if i == 0 else base)
        for i, name in enumerate(present)
    ]


def _line(name: str, rows: Sequence[Row], base: Sequence[float] | None) -> Line:
    kinds = sorted({row["kind"] for row in rows})
    marks = [float(row["right"]) for row in rows]
    total = max(1, len(rows))
    return Line(
        arm=name,
        accuracy=share(row["right"] for row in rows),
        by_kind={kind: share(row["right"] for row in rows if row["kind"] == kind) for kind in kinds},
        gain=None if base is None or not rows else paired_bootstrap(marks, base),
        completion_tokens=sum(row["completion_tokens"] for row in rows) / total,
        prompt_tokens=sum(row["prompt_tokens"] for row in rows) / total,
        completions=sum(len(row["legs"]) for row in rows) / total,
    )


def table(found: Sequence[Line]) -> str:
    """The figures as Markdown, with 95% intervals."""
    kinds = list(found[0].by_kind) if found else []
    head = [
        "arm",
        "right",
        *kinds,
        "difference to the first",
        "completions",
        "completion tokens",
        "prompt tokens",
    ]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for line in found:
        gain = (
            ""
            if line.gain is None
            else f"{line.gain.mean:+.3f} [{line.gain.low:+.3f}, {line.gain.high:+.3f}]"
        )
        cells = [
            line.arm,
            str(line.accuracy),
            *(f"{line.by_kind[kind].value:.3f}" for kind in kinds),
            gain,
            f"{line.completions:.1f}",
            f"{line.completion_tokens:.1f}",
            f"{line.prompt_tokens:.1f}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)
