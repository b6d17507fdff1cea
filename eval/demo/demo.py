"""The demonstration measured through the HTTP API: the router against each expert, random and oracle.

Every held-out question is asked of the routed model and of each expert by name. Answers are kept in a
JSONL file as they come, so that an interrupted run goes on where it stopped and asks nothing twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from coe.demo.questions import held_out_questions
from coe.demo.skill import Question
from coe.demo.skills import skill_named
from coe.eval.demo.asking import Job, Row, answered, complete
from coe.eval.statistics import share
from coe.outcomes.statistics import Share

LENIENT_TOKENS = 64


@dataclass(frozen=True)
class Graded:
    """One answered question. ``expert`` answered when ``model`` was asked; times in milliseconds."""

    model: str
    question: str
    skill: str
    ambiguous: bool
    right: bool
    output: str
    expert: str
    queue_ms: float
    swap_ms: float
    run_ms: float


@dataclass(frozen=True)
class Asking:
    """How questions are asked: the service, how many at once, and where answers are kept.

    ``lenient``: an answer counts when the right one stands anywhere in ``LENIENT_TOKENS`` tokens, whatever
    surrounds it. Models that were never shown the form of the answers are not wrong by form then.
    """

    url: str
    concurrency: int = 16
    record: Path | None = None
    lenient: bool = False


async def run_demo(asking: Asking, models: Sequence[str], per_skill: int) -> AsyncIterator[Graded]:
    """Every answer to the fixed held-out questions, ``per_skill`` of each skill; one model after the other,
    so that pinned experts swap once.

    Yields earlier answers first. Raises :class:`ExpertUnavailable` when the service refuses a question.
    """
    questions = held_out_questions(per_skill)
    for model in models:
        wanted = {(model, question.id): _job(asking, model, question) for question in questions}
        async for row in answered(
            wanted, lambda row: (row["model"], row["question"]), asking.record, asking.concurrency
        ):
            yield Graded(**row)


def _job(asking: Asking, model: str, question: Question) -> Job:
    """Asks one question greedily and marks the answer."""

    async def ask(session: aiohttp.ClientSession) -> Row:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question.text}],
            "temperature": 0,
            "max_tokens": LENIENT_TOKENS if asking.lenient else skill_named(question.skill).max_tokens,
        }
        started = time.monotonic()
        answer = await complete(session, asking.url, body)
        return asdict(_graded(asking, model, question, answer, (time.monotonic() - started) * 1000))

    return ask


def mentions(question: Question, output: str) -> bool:
    """Whether the canonical answer stands in ``output`` as a word or words, in any letter case."""
    return re.search(rf"(?<!\w){re.escape(question.answer)}(?!\w)", output, re.IGNORECASE) is not None


def _graded(
    asking: Asking, model: str, question: Question, answer: dict[str, Any], total_ms: float
) -> Graded:
    output = answer["choices"][0]["message"]["content"] or ""
    receipt = answer["coe"]
    right = skill_named(question.skill).check(question, output)
    return Graded(
        model=model,
        question=question.id,
        skill=question.skill,
        ambiguous=question.ambiguous,
        right=right or (asking.lenient and mentions(question, output)),
        output=output,
        expert=receipt["expert"],
        queue_ms=receipt["queue_ms"],
        swap_ms=receipt["swap_ms"],
        run_ms=receipt["legs"][-1]["run_ms"] or total_ms,
    )


@dataclass(frozen=True)
class Summary:
    """The figures of one demonstration run. ``matrix[expert][skill]`` is an accuracy."""

    routed: Share
    routed_ambiguous: Share
    routed_right_expert: Share
    experts: dict[str, Share]
    best_single: str
    random: float
    oracle: Share
    matrix: dict[str, dict[str, Share]]
    routed_by_skill: dict[str, Share]


def summarise(graded: Iterable[Graded], routed: str) -> Summary:
    """Figures over questions that the routed model and every expert answered.

    ``random`` is the expected accuracy of a uniformly drawn expert; ``oracle`` counts a question as right
    when any expert got it right, which no router can beat.
    """
    by_model: dict[str, dict[str, Graded]] = {}
    for one in graded:
        by_model.setdefault(one.model, {})[one.question] = one
    by_routing = by_model.pop(routed)
    common = set(by_routing).intersection(*by_model.values()) if by_model else set(by_routing)
    own = [by_routing[question] for question in sorted(common)]
    skills = sorted({one.skill for one in own})
    experts = {name: share(rows[q].right for q in common) for name, rows in by_model.items()}
    return Summary(
        routed=share(one.right for one in own),
        routed_ambiguous=share(one.right for one in own if one.ambiguous),
        routed_right_expert=share(one.expert == one.skill for one in own),
        experts=experts,
        best_single=max(experts, key=lambda name: experts[name].value, default=routed),
        random=sum(s.value for s in experts.values()) / len(experts) if experts else 0.0,
        oracle=share(any(rows[q].right for rows in by_model.values()) for q in common),
        matrix={
            name: {s: share(rows[q].right for q in common if rows[q].skill == s) for s in skills}
            for name, rows in by_model.items()
        },
        routed_by_skill={s: share(one.right for one in own if one.skill == s) for s in skills},
    )


def by_skill(graded: Iterable[Graded]) -> list[str]:
    """One model's accuracies, a line each, with 95% Wilson intervals."""
    listed = list(graded)
    skills = sorted({one.skill for one in listed})
    lines = [f"{skill:11} {share(one.right for one in listed if one.skill == skill)}" for skill in skills]
    return [*lines, f"{'all':11} {share(one.right for one in listed)}"]


def table(summary: Summary) -> str:
    """The accuracies as Markdown: one row for each expert, one column for each skill."""
    skills = list(summary.routed_by_skill)
    lines = ["| model | all | " + " | ".join(skills) + " |", "|---" * (len(skills) + 2) + "|"]

    def row(name: str, everything: float, cells: dict[str, Share]) -> str:
        return f"| {name} | {everything:.3f} | " + " | ".join(f"{cells[s].value:.2f}" for s in skills) + " |"

    lines.append(row("**coe (routed)**", summary.routed.value, summary.routed_by_skill))
    for name, total in sorted(summary.experts.items(), key=lambda item: -item[1].value):
        lines.append(row(name, total.value, summary.matrix[name]))
    return "\n".join(lines)


def headline(summary: Summary) -> list[str]:
    """The comparison in words, each line a figure with its 95% Wilson interval."""
    best = summary.best_single
    return [
        f"coe (routed)            {summary.routed}  n={summary.routed.total}",
        f"  on ambiguous wording  {summary.routed_ambiguous}  n={summary.routed_ambiguous.total}",
        f"  sent to its expert    {summary.routed_right_expert}",
        f"best single ({best})    {summary.experts.get(best, summary.routed)}",
        f"random expert           {summary.random:.3f} (expected)",
        f"oracle                  {summary.oracle}",
    ]
