"""The experts asked together for one request: their answers as they arrive, and the end of every leg.

A leg ends exactly once: ``ok``, ``failed: <code>``, ``late`` (not there in time), ``not needed`` (the verdict
was reached without it) or ``cancelled`` (the client went away). Each end gives the leg's lease back, or
withdraws it from the queue together with the swap that it would have caused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from coe.aggregators import Asked, Proposal
from coe.core import json_codec
from coe.core.errors import CoeError, ExpertRefused, ExpertTimeout, QuorumMissed
from coe.core.types import ExpertId, Leg, Request, Role
from coe.observe.logs import loggable
from coe.pipeline.legs import Asker, LegError, LiveLeg
from coe.pipeline.plan import Plan, proposal_body, written_body

log = logging.getLogger(__name__)

Progress = Callable[[str], None]
"""Takes one line about the progress of the legs."""


CONSIDERING_S = 0.05
"""How long a lease is held while the aggregator considers the answer. A vote takes far less; what
takes longer (a check, a question to another expert, which may need that very place) is not waited for."""


@dataclass
class Seat:
    """One leg: who is asked, and what became of it. ``error`` says why it failed."""

    asked: Asked
    role: Role = "proposer"
    begun: bool = False
    live: LiveLeg | None = None
    body: Mapping[str, Any] | None = None
    outcome: str | None = None
    error: CoeError | None = None
    unread: bool = False
    """answered, and the aggregator has not taken the answer yet"""
    considered: asyncio.Event = field(default_factory=asyncio.Event)

    def sit(self, live: LiveLeg) -> None:
        """Its expert is asked now."""
        self.live = live

    def leg(self) -> Leg:
        base = self.live.leg() if self.live else Leg(expert=self.asked.expert)
        return replace(base, role=self.role, outcome=self.outcome or "cancelled")


class Panel:
    """Asks the experts of ``plan`` (:class:`coe.aggregators.Answers`): ``at_once`` of them together, each
    further one when the aggregator reads on while nobody is being asked. Use from one task; close it."""

    def __init__(
        self,
        request: Request,
        plan: Plan,
        asker: Asker,
        patience_s: float,
        progress: Progress,
        first_answer: asyncio.Event,
    ) -> None:
        self._request = request
        self._plan = plan
        self._asker = asker
        self._progress = progress
        self._first_answer = first_answer
        self._late_at = asyncio.get_running_loop().time() + patience_s
        self._seats = [Seat(asked) for asked in plan.asked]
        self._written: list[Seat] = []
        self._running: dict[asyncio.Task[None], Seat] = {}
        self._ended: asyncio.Queue[Seat] = asyncio.Queue()
        self._proposals: list[Proposal] = []

    def start(self) -> None:
        """Put the first legs into the pool's queue."""
        for seat in self._seats[: self._plan.at_once]:
            self._begin(seat)

    @property
    def adaptive(self) -> bool:
        return self._plan.adaptive

    @property
    def outstanding(self) -> tuple[Asked, ...]:
        return tuple(seat.asked for seat in self._seats if seat.outcome is None or seat.unread)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Proposal:
        # Before waiting: the last proposal's leg still holds the place that the next leg may need.
        self._considered()
        while self._unread():
            self._begin_next_if_idle()
            seat = await self._next_end()
            if seat is None:
                await self.drop("late")
                continue
            if seat.body is not None:
                seat.unread = False
                proposal = Proposal(seat.asked, seat.body, arrival=len(self._proposals))
                self._proposals.append(proposal)
                return proposal
            self._check_quorum()
        raise StopAsyncIteration

    async def ask(self, expert: ExpertId, body: Mapping[str, Any]) -> Proposal:
        self._considered()
        seat = Seat(Asked(expert, 1.0, 0), role="aggregator", begun=True)
        self._written.append(seat)
        try:
            await self._fill(seat, written_body(self._request, self._plan, body))
        except LegError as failure:
            seat.outcome = f"failed: {failure.error.code}"
            raise failure.error from failure
        except CoeError as error:
            seat.outcome = f"failed: {error.code}"
            raise
        return Proposal(seat.asked, seat.body or {}, arrival=len(self._proposals))

    async def drop(self, outcome: str) -> None:
        """End every leg that still waits or runs, with this outcome. Idempotent."""
        for seat in self._not_begun():
            seat.outcome = outcome
        ending = {task: seat for task, seat in self._running.items() if seat.outcome is None}
        for task, seat in ending.items():
            seat.outcome = outcome
            self._progress(f"proposer {seat.asked.expert} {outcome}")
            task.cancel()
        # Only now: the cancelled legs leave the queue before the others give their places back.
        for seat in self._seats:
            seat.considered.set()
        if self._running:
            await asyncio.wait(self._running)
        self._running.clear()

    def legs(self) -> tuple[Leg, ...]:
        """The account of everybody who was asked, the aggregator's own questions last."""
        return tuple(seat.leg() for seat in (*self._seats, *self._written) if seat.begun)

    def _begin(self, seat: Seat) -> None:
        seat.begun = True
        self._running[asyncio.create_task(self._propose(seat))] = seat

    def _not_begun(self) -> list[Seat]:
        return [seat for seat in self._seats if not seat.begun and seat.outcome is None]

    def _begin_next_if_idle(self) -> None:
        under_way = any(seat.begun and (seat.outcome is None or seat.unread) for seat in self._seats)
        waiting = self._not_begun()
        if waiting and not under_way and self._ended.empty():
            self._begin(waiting[0])

    def _unread(self) -> bool:
        return not self._ended.empty() or bool(self.outstanding)

    async def _next_end(self) -> Seat | None:
        """The next leg that ended; None when it is too late to wait and the quorum is there."""
        enough = len(self._proposals) >= self._plan.quorum
        try:
            async with asyncio.timeout_at(self._late_at if enough and self._ended.empty() else None):
                return await self._ended.get()
        except TimeoutError:
            return None

    def _check_quorum(self) -> None:
        coming = sum(seat.outcome in (None, "ok") for seat in self._seats)
        if coming < self._plan.quorum:
            raise quorum_missed(self._seats, self._plan.quorum)

    async def _propose(self, seat: Seat) -> None:
        """One leg from the queue to its end. Ends without raising, unless cancelled by :meth:`drop`."""
        try:
            await self._fill(seat, proposal_body(self._request, self._plan, seat.asked))
            return
        except LegError as failure:
            self._failed(seat, failure.error)
        except CoeError as error:
            self._failed(seat, error)
        except Exception as error:
            log.exception("request %s: the leg on %s broke", self._request.id, seat.asked.expert)
            self._failed(seat, CoeError(f"{type(error).__name__} in the service; its log has the cause"))
        self._progress(f"proposer {seat.asked.expert} {seat.outcome}")
        self._ended.put_nowait(seat)

    async def _fill(self, seat: Seat, body: Mapping[str, Any]) -> None:
        """Ask, and read the answer to its end. A proposer's lease is held until its answer was considered:
        given back sooner, it would let the pool swap in an expert that the verdict makes needless."""
        live = await self._asker.ask(seat.asked.expert, body, seat.role, begun=seat.sit)
        async with contextlib.aclosing(live):
            seat.body = json_codec.decode(await live.body())
            seat.outcome = "ok"
            if seat.role == "proposer":
                self._hand_over(seat)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CONSIDERING_S):
                        await seat.considered.wait()

    def _hand_over(self, seat: Seat) -> None:
        seat.unread = True
        self._first_answer.set()
        self._progress(f"proposer {seat.asked.expert} done")
        self._ended.put_nowait(seat)

    def _considered(self) -> None:
        """The aggregator goes on after a proposal, so it did not end the request with it."""
        for seat in self._seats:
            if seat.outcome == "ok" and not seat.unread:
                seat.considered.set()

    def _failed(self, seat: Seat, error: CoeError) -> None:
        seat.error = error
        seat.outcome = "late" if isinstance(error, ExpertTimeout) else f"failed: {error.code}"
        reason = loggable(self._request, error)
        log.warning("request %s: %s gave no answer: %s", self._request.id, seat.asked.expert, reason)


def quorum_missed(seats: list[Seat], quorum: int) -> CoeError:
    """The error that names each leg that gave no answer; an expert's refusal of the request itself, where
    that is the only reason."""
    failed = [seat for seat in seats if seat.error is not None]
    refusals = [seat.error for seat in failed if isinstance(seat.error, ExpertRefused)]
    if refusals and len(refusals) == len(failed):
        return refusals[0]
    if failed and all(isinstance(seat.error, ExpertTimeout) for seat in failed):
        late = ", ".join(seat.asked.expert for seat in failed)
        return ExpertTimeout(
            f"{late} gave no answer in time, and {quorum} answers are needed",
            hint="Ask again later, allow a longer wait with coe.patience_s, or ask for fewer experts.",
        )
    each = "; ".join(f"{seat.asked.expert}: {seat.outcome}, {seat.error}" for seat in failed)
    return QuorumMissed(
        f"{len(failed)} of {len(seats)} experts gave no answer, and {quorum} answers are needed ({each})",
        hint="Ask again, ask for fewer experts with coe.experts, or lower the aggregator's quorum.",
    )
