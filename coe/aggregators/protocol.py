"""What an aggregator is and what it is given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from coe.types import ExpertId, Request


class ExpertAnswer(Protocol):
    """One expert's answer. ``chunks`` may be taken once and may wait until the expert is in memory."""

    expert: ExpertId

    def chunks(self) -> AsyncIterator[bytes]: ...


class Aggregator(Protocol):
    """Makes one answer out of the chosen experts' answers. Thread-safe and without state between requests."""

    name: str
    max_experts: int
    """How many experts may be asked for one request."""

    def combine(self, request: Request, answers: Sequence[ExpertAnswer]) -> AsyncIterator[bytes]:
        """The bytes of one OpenAI body (SSE events up to ``data: [DONE]`` when ``request.stream``).

        ``answers`` is never empty, best-ranked first, at most ``max_experts`` long. The caller closes
        them; an answer whose ``chunks`` are not taken is aborted.
        """
        ...
