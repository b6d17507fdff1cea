"""One expert answers; its bytes pass through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from coe.aggregators.protocol import ExpertAnswer
from coe.types import Request


class First:
    """Passes the best-ranked expert's answer through, byte for byte."""

    name = "first"
    max_experts = 1

    def combine(self, request: Request, answers: Sequence[ExpertAnswer]) -> AsyncIterator[bytes]:  # noqa: ARG002
        return answers[0].chunks()
