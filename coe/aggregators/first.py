"""One expert's answer, passed on: the best ranked alone, or the fastest of several."""

from __future__ import annotations

from coe.aggregators.ballots import best_weighted
from coe.aggregators.base import Base
from coe.aggregators.protocol import Answers, Picked, Proposing
from coe.core.types import Request


class First(Base):
    """The first complete answer to arrive; without one, the best ranked of those that came.

    Where one expert is asked its bytes pass through and this is not called.
    """

    proposing = Proposing(quorum=1)

    async def combine(self, request: Request, answers: Answers) -> Picked:  # noqa: ARG002
        came = []
        async for proposal in answers:
            if proposal.complete:
                return Picked(proposal, f"{proposal.expert} was the first with a complete answer")
            came.append(proposal)
        best = best_weighted(came)
        return Picked(best, f"no answer was complete; {best.expert} is the best ranked")
