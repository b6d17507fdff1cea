"""What an aggregator is, what it is given and what it answers.

An aggregator reads the experts' answers as they arrive and returns a *verdict*: one of the answers, word
for word (:class:`Picked`), or an answer that an expert of the pool shall write (:class:`Write`). It never
writes HTTP: the pipeline replays or streams the verdict. Returning before all answers came is the early
stop: experts that still wait or run are cancelled, with their leases and swaps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from coe.core.openai import first_choice, text_of, tool_calls_of, usage_of
from coe.core.types import ExpertId, Request


@dataclass(frozen=True)
class Asked:
    """One question to one expert. ``weight`` is the router's calibrated probability for this query, ``rank``
    the place among those asked (0 is the router's first). Several may name the same expert (samples)."""

    expert: ExpertId
    weight: float
    rank: int


@dataclass(frozen=True)
class Proposal:
    """One expert's whole answer. ``body`` is its OpenAI completion, ``arrival`` counts from 0."""

    asked: Asked
    body: Mapping[str, Any]
    arrival: int

    @property
    def expert(self) -> ExpertId:
        return self.asked.expert

    @property
    def weight(self) -> float:
        return self.asked.weight

    @property
    def text(self) -> str:
        return text_of(self.body)

    @property
    def tool_calls(self) -> tuple[Mapping[str, Any], ...]:
        return tool_calls_of(self.body)

    @property
    def finish_reason(self) -> str | None:
        reason = first_choice(self.body).get("finish_reason")
        return reason if isinstance(reason, str) else None

    @property
    def logprobs(self) -> Mapping[str, Any] | None:
        found = first_choice(self.body).get("logprobs")
        return found if isinstance(found, Mapping) else None

    @property
    def usage(self) -> Mapping[str, int]:
        return usage_of(self.body)

    @property
    def complete(self) -> bool:
        """It says something and was not cut off."""
        return self.finish_reason != "length" and bool(self.text.strip() or self.tool_calls)


class Answers(Protocol):
    """The answers to one request, as they arrive. Iterate once."""

    @property
    def outstanding(self) -> Sequence[Asked]:
        """Those whose answer has not been read yet, whether it is here or may still come. One that failed or
        came too late is not among them."""
        ...

    @property
    def adaptive(self) -> bool:
        """Whether the service decides how many are asked, so that the aggregator may stop reading when
        another answer could still change the verdict but is not worth its price."""
        ...

    def __aiter__(self) -> AsyncIterator[Proposal]:
        """Ends when nobody can answer any more. Gives at least one proposal, and the quorum if all were
        read: where it cannot be met, the pipeline ends the request instead."""
        ...

    async def ask(self, expert: ExpertId, body: Mapping[str, Any]) -> Proposal:
        """Have an expert of the pool answer ``body`` (a chat completion's body; ``model`` is set here).

        Costs a lease and tokens, shown in the receipt as a leg of role aggregator. Raises a CoeError where
        the expert cannot answer.
        """
        ...


@dataclass(frozen=True)
class Picked:
    """The answer is this proposal, word for word, with its tool calls and log-probabilities."""

    proposal: Proposal
    reason: str
    """one line for people"""


@dataclass(frozen=True)
class Write:
    """The answer is what ``expert`` writes on ``body``, streamed as it comes; ``otherwise`` if it cannot."""

    expert: ExpertId
    body: Mapping[str, Any]
    otherwise: Proposal
    reason: str


Verdict = Picked | Write


@dataclass(frozen=True)
class Proposing:
    """How an aggregator wants its proposals made."""

    repeat: bool = False
    """ask the best expert several times instead of several experts once"""
    temperature: float | None = None
    """of samples, where the request names none; None leaves the request as it is"""
    chat_only: bool = False
    """it writes prompts, so it takes chat completions only"""
    at_once: int | None = None
    """asked before anybody else is, where the service decides how many; each further one only when the
    aggregator reads on after all answers so far. None: everybody at once"""
    quorum: int | None = None
    """answers that must come where experts.yaml does not say; None: half of those asked"""


class Aggregator(Protocol):
    """Makes one answer out of several. Thread-safe and without state between requests."""

    name: str
    max_experts: int
    """how many answers it can combine"""
    proposing: Proposing

    def writer(self, asked: Sequence[Asked]) -> ExpertId | None:
        """The expert that it may ask itself after the proposals, so that the pool can bring it in meanwhile;
        None if it asks nobody."""
        ...

    async def combine(self, request: Request, answers: Answers) -> Verdict:
        """The verdict on ``answers``. Raises only CoeError; cancelling it is safe."""
        ...
