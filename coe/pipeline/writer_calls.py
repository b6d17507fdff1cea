"""What experts write for routers, through the same pool as everything else, and cached.

A writer's call is a leg of its own: its lease is given back before the request's own leg is queued, so a pool
with a single place serves both one after the other. The writer is asked by name and nothing is routed for it.
Nobody waits for a writer longer than its deadline, and one that keeps failing is left alone for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cachetools import LRUCache

from coe.core import json_codec
from coe.core.errors import CoeError, ExpertTimeout
from coe.core.openai import text_of
from coe.core.types import ExpertId, Leg, Request, RouterCall, RouterText
from coe.pipeline.leases import Clock, Leases
from coe.pipeline.legs import Account, Asker, LegError, LiveLeg
from coe.registry.schema import Expert

log = logging.getLogger(__name__)

MAX_TEXTS = 10_000
MISSES = 3
"""After so many calls in a row without a text the writer is not asked for :data:`PAUSE_S`."""
PAUSE_S = 10.0
RESULTS = ("kept", "shared", "written", "empty", "late", "failed", "paused")


@dataclass(frozen=True)
class Run:
    """What came of a call, and the leg that it took: None where nobody was asked."""

    found: RouterText
    leg: Leg | None = None


@dataclass
class _Misses:
    """Of one writer: how many in a row, and until when it is left alone."""

    count: int = 0
    until: float = 0.0


class WriterCalls:
    """Runs calls of writers, equal ones one at a time: who comes meanwhile waits for the text.

    The last ``size`` texts are found again by writer, model and prompt, the prompt without regard to case and
    spaces. A private request neither leaves its text nor shares it. Belongs to one event loop.
    """

    def __init__(self, pool: Leases, clock: Clock, size: int = MAX_TEXTS) -> None:
        self._pool, self._clock = pool, clock
        self._texts: LRUCache[bytes, str] = LRUCache(size)
        self._under_way: dict[bytes, asyncio.Event] = {}
        self._misses: dict[ExpertId, _Misses] = {}
        self._counts = Counter(dict.fromkeys(RESULTS, 0))

    @property
    def counts(self) -> Mapping[str, int]:
        """Calls so far by what came of them, see :data:`RESULTS`."""
        return self._counts

    def find(self, call: RouterCall, writer: Expert | None) -> RouterText | None:
        """What was written before; asks nobody. ``writer``: the expert as the registry has it."""
        key = _key(call, writer)
        text = self._texts.get(key)
        if text is None:
            return None
        return _text(text)

    async def run(
        self,
        call: RouterCall,
        writer: Expert | None,
        request: Request,
        patience_s: float,
        account: Account | None = None,
    ) -> Run:
        """What came of it, and the ended leg if the writer was asked, which is on ``account`` also when this
        is cancelled. Raises nothing but what cancels it."""
        if writer is None or writer.shadow:
            return self._without("failed", f"{call.writer} is not routed to")
        until, key = self._clock() + min(call.deadline_s, patience_s), _key(call, writer)
        result = "kept"
        while (found := self.find(call, writer)) is None and not request.private and key in self._under_way:
            result = "shared"
            if not await self._ended(key, until):
                return self._without("late", "late")
        if found is not None:
            self._counts[result] += 1
            return Run(found)
        misses = self._misses.setdefault(call.writer, _Misses())
        if self._clock() < misses.until:
            return self._without("paused", "paused: it gave nothing several times")
        text, leg = await self._asked_for_all(call, request, until, key, account or Account())
        if text is None:
            self._missed(call.writer, misses, leg)
            return Run(RouterText(None, leg.outcome), leg)
        misses.count = 0
        self._counts["written" if text else "empty"] += 1
        return Run(_text(text), leg)

    def _without(self, result: str, why: str) -> Run:
        self._counts[result] += 1
        return Run(RouterText(None, why))

    async def _ended(self, key: bytes, until: float) -> bool:
        """Wait for the equal call under way: whether it ended in time. Where it left no text, because it
        failed or its own request went away, the first who waited repeats it in what is left of its time."""
        try:
            async with asyncio.timeout(until - self._clock()):
                await self._under_way[key].wait()
        except TimeoutError:
            return False
        return True

    async def _asked_for_all(
        self, call: RouterCall, request: Request, until: float, key: bytes, account: Account
    ) -> tuple[str | None, Leg]:
        """As :meth:`_asked`; the text is kept, and who waits for it goes on."""
        if request.private:
            return await self._asked(call, request, until - self._clock(), account)
        ended = self._under_way[key] = asyncio.Event()
        try:
            text, leg = await self._asked(call, request, until - self._clock(), account)
            if text is not None:
                self._texts[key] = text
            return text, leg
        finally:
            del self._under_way[key]
            ended.set()

    async def _asked(
        self, call: RouterCall, request: Request, deadline_s: float, account: Account
    ) -> tuple[str | None, Leg]:
        question = _question(call, request)
        asker = Asker(question, self._pool, deadline_s, self._clock, account)
        asked: list[LiveLeg] = []
        try:
            async with asyncio.timeout(deadline_s):
                live = await asker.ask(call.writer, question.body, "router", begun=asked.append)
                async with contextlib.aclosing(live):
                    raw = await live.body()
        except (LegError, CoeError, TimeoutError) as failure:
            return None, replace(_leg(call, asked), outcome=_outcome(failure))
        except Exception:
            log.exception("request %s: the call of %s broke", request.id, call.writer)
            return None, replace(_leg(call, asked), outcome="failed: internal_error")
        return text_of(json_codec.decode(raw)).strip(), live.leg()

    def _missed(self, writer: ExpertId, misses: _Misses, leg: Leg) -> None:
        self._counts["late" if leg.outcome == "late" else "failed"] += 1
        misses.count += 1
        log.info("%s wrote nothing for a router: %s", writer, leg.outcome)
        if misses.count >= MISSES:
            misses.count, misses.until = 0, self._clock() + PAUSE_S
            log.warning("%s is not asked to write for routers for %g s", writer, PAUSE_S)


def _question(call: RouterCall, request: Request) -> Request:
    """A request of its own, so that the pool schedules it apart from the one that it is for."""
    body = {
        "model": call.writer,
        "messages": [{"role": "user", "content": call.prompt}],
        "max_tokens": call.max_tokens,
        "temperature": 0.0,
    }
    return Request(
        f"{request.id}/router",
        "chat/completions",
        call.writer,
        body,
        call.prompt,
        request.options,
        request.private,
    )


def _outcome(failure: BaseException) -> str:
    error = failure.error if isinstance(failure, LegError) else failure
    if isinstance(error, CoeError) and not isinstance(error, ExpertTimeout):
        return f"failed: {error.code}"
    return "late"


def _leg(call: RouterCall, asked: Sequence[LiveLeg]) -> Leg:
    return asked[0].leg() if asked else Leg(call.writer, "router")


def _text(text: str) -> RouterText:
    return RouterText(text) if text else RouterText(None, "it wrote nothing")


def _key(call: RouterCall, writer: Expert | None) -> bytes:
    model = "" if writer is None else f"{writer.model}\0{writer.adapter}"
    prompt = " ".join(unicodedata.normalize("NFKC", call.prompt).casefold().split())
    return hashlib.sha256(f"{call.writer}\0{model}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
