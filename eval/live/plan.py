"""What a live run asks: one call a question, or experts recruited for it and perhaps one that merges.

Recruiting is Symbolic-MoE's (arXiv 2503.05641): the router ranks the experts for every question first, k are
recruited, and in batch mode all questions of one expert are asked together, so that it is loaded once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from coe.core.errors import ConfigError

Role = Literal["answer", "proposer", "aggregator"]
SYNTHESISE = "synthesise:"

_MERGE = (
    "You are given a question and the answers of several models. Some of them may be wrong. "
    "Weigh them, think step by step, and answer the question yourself in the form that it asks for."
)


@dataclass(frozen=True)
class Settings:
    """How a run asks. ``recruit`` 0: the service decides alone; k: the k best of its ranking are asked."""

    model: str = "coe"
    router: str | None = None
    experts: int | None = None
    aggregate: str | None = None
    recruit: int = 0
    grouped: bool = False
    aggregator: str = "weighted_vote"
    samples: int = 1
    temperature: float | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        known = self.aggregator in ("vote", "weighted_vote") or self.synthesiser is not None
        if not known:
            raise ConfigError(
                f'there is no aggregator "{self.aggregator}"',
                hint=f"Choose from vote, weighted_vote, {SYNTHESISE}EXPERT.",
            )

    @property
    def synthesiser(self) -> str | None:
        name = self.aggregator.removeprefix(SYNTHESISE)
        return name if self.aggregator.startswith(SYNTHESISE) and name else None

    @property
    def extension(self) -> Mapping[str, Any]:
        """The request's ``coe`` object."""
        asked = {"router": self.router, "experts": self.experts, "aggregate": self.aggregate}
        return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True)
class Call:
    """One request to send. ``key`` is unique within the run and the same in every session."""

    key: str
    question: str
    model: str
    role: Role = "answer"
    sample: int = 0
    weight: float = 1.0
    """the router's probability that it is right"""
    rank: int = 0
    """of its expert among those recruited"""
    extension: Mapping[str, Any] = field(default_factory=dict)


def direct_calls(questions: Sequence[str], settings: Settings) -> list[Call]:
    """``samples`` calls a question of the model as the service offers it."""
    role: Role = "answer" if settings.samples == 1 else "proposer"
    return [
        Call(_key(question, settings.model, sample), question, settings.model, role, sample,
             extension=settings.extension)
        for question in questions
        for sample in range(settings.samples)
    ]  # fmt: skip


def recruited_calls(routes: Mapping[str, Mapping[str, float]], settings: Settings) -> list[Call]:
    """The calls of the recruited experts, in the order in which they are sent.

    Grouped: expert by expert, those with most questions first; else question by question.
    """
    calls = [
        Call(_key(question, expert, sample), question, expert, "proposer", sample, probability, rank)
        for question, ranking in routes.items()
        for rank, (expert, probability) in enumerate(_best(ranking, settings.recruit))
        for sample in range(settings.samples)
    ]
    if not settings.grouped:
        return calls
    sizes = Counter(call.model for call in calls)
    return sorted(calls, key=lambda call: (-sizes[call.model], call.model))


def by_question(calls: Sequence[Call]) -> dict[str, list[Call]]:
    grouped: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        grouped[call.question].append(call)
    return dict(grouped)


def merge_call(question: str, expert: str) -> Call:
    return Call(_key(question, expert, 0, "aggregator"), question, expert, "aggregator")


def merge_messages(asked: Sequence[Mapping[str, str]], outputs: Sequence[str]) -> list[Mapping[str, str]]:
    """The question and the proposers' answers, for the expert that merges them."""
    answers = "\n\n".join(f"Answer {number}:\n{text}" for number, text in enumerate(outputs, start=1))
    question = asked[-1]["content"]
    return [
        {"role": "system", "content": _MERGE},
        {"role": "user", "content": f"{question}\n\n{answers}"},
    ]


def _best(ranking: Mapping[str, float], count: int) -> list[tuple[str, float]]:
    return sorted(ranking.items(), key=lambda row: -row[1])[:count]


def _key(question: str, model: str, sample: int, role: str = "") -> str:
    return "|".join([question, model, str(sample), *([role] if role else [])])
