"""One request with many prompts: each is asked as a request of its own would be, in turns with all others.

An expert that is sent hundreds of prompts at once works on them until its time is over, and nobody else gets
its place. So each prompt has a lease of its own, and a request holds at most half of an expert's places at a
time. The client sees one answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from coe.core import json_codec
from coe.core import openai as completions
from coe.core.types import ExpertId, Receipt, Request, is_true, number
from coe.pipeline.legs import Asker, started
from coe.registry.schema import Registry

if TYPE_CHECKING:
    from coe.pipeline.pipeline import Answer

AskOne = Callable[[Request, Asker], Awaitable["Answer"]]

PIECES = 64
"""Most parts of streams that wait for a client to read them."""


async def ask_each(request: Request, ask_one: AskOne, asker: Asker, at_once: int) -> AnswerToPrompts:
    """Has ``ask_one`` ask for each prompt, ``at_once`` of them together. Returns once all is answered, a
    stream at its first bytes. Cancelling it ends every leg."""
    return await started(AnswerToPrompts(request, ask_one, asker, at_once))


class AnswerToPrompts:
    """The answers to all prompts as one; see :class:`coe.pipeline.pipeline.Answer`. The first prompt that
    nobody can answer ends it."""

    def __init__(self, request: Request, ask_one: AskOne, asker: Asker, at_once: int) -> None:
        self._request, self._ask_one, self._asker = request, ask_one, asker
        self._parts = list(_one_each(request))
        self._at_once = min(at_once, len(self._parts))
        self._left = iter(enumerate(self._parts))
        self._answers: dict[int, Answer] = {}
        self._bodies: dict[int, Mapping[str, Any]] = {}
        self._pieces: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(PIECES)
        self._begun = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Ask; see :func:`ask_each`. Raises what ends it by then."""
        running = self._running = asyncio.create_task(self._run())
        running.add_done_callback(lambda _: self._begun.set())
        if self._request.stream:
            await self._begun.wait()
        if not self._request.stream or running.done():
            await asyncio.shield(running)

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._running is None:
            raise RuntimeError("begin() was not called")
        if not self._request.stream:
            yield completions.to_json(self._whole())
            return
        head: dict[str, Any] = {}
        while (piece := await self._pieces.get()) is not None:
            if passed := b"".join(self._renumbered(*piece, head)):
                yield passed
        await asyncio.shield(self._running)
        if is_true((self._request.body.get("stream_options") or {}).get("include_usage")):
            yield completions.usage_event(head, self._request.endpoint, self._usage())

    def receipt(self) -> Receipt:
        """Of the first answer, with the legs of all."""
        answers = [self._answers[at].receipt() for at in sorted(self._answers)]
        legs = tuple(leg for each in answers for leg in each.legs)
        reason = f"{answers[0].reason}; each of {len(self._parts)} prompts was asked by itself"
        return replace(
            answers[0], request_id=self._request.id, reason=reason, legs=(*self._asker.before, *legs)
        )

    async def aclose(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
            if not self._running.cancelled():
                self._running.exception()  # was raised to whom it concerned, or nobody is left

    async def _run(self) -> None:
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._at_once):
                    workers.create_task(self._work())
        except ExceptionGroup as failed:
            failure = failed.exceptions[0]
        if self._request.stream:
            await self._pieces.put(None)
        if failure is not None:
            raise failure

    async def _work(self) -> None:
        """One prompt after the other, as long as there are any. Between two of them its place is free."""
        for at, part in self._left:
            answer = await self._ask_one(part, self._asker.on(part))
            self._answers[at] = answer
            async with contextlib.aclosing(answer):
                if not self._request.stream:
                    raw = b"".join([chunk async for chunk in answer.chunks()])
                    self._bodies[at] = json_codec.decode(raw)
                    continue
                async for piece in answer.chunks():
                    await self._pieces.put((at, piece))
                    self._begun.set()

    def _whole(self) -> Mapping[str, Any]:
        bodies = [self._bodies[at] for at in range(len(self._parts))]
        choices = [choice for at, body in enumerate(bodies) for choice in self._choices(at, body)]
        usage = completions.usage_json(self._usage())
        return {**bodies[0], "choices": choices, **({"usage": usage} if usage else {})}

    def _renumbered(self, at: int, raw: bytes, head: dict[str, Any]) -> Iterator[bytes]:
        """Events of one prompt's answer as those of the one answer, whose ``head`` is that of the first."""
        for event in raw.split(b"\n\n"):
            chunk = completions.parse_event(event)
            if chunk is not None:
                if not head:
                    head.update({key: chunk[key] for key in ("id", "created", "model") if key in chunk})
                yield completions.event({**chunk, **head, "choices": list(self._choices(at, chunk))})

    def _choices(self, at: int, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Those of one prompt, numbered among those of all."""
        count = int(number(self._request.body.get("n")) or 1)
        for place, choice in enumerate(body.get("choices") or ()):
            index = choice.get("index", place)
            yield {**choice, "index": at * count + (index if isinstance(index, int) else place)}

    def _usage(self) -> dict[str, int]:
        return completions.summed(leg.usage for leg in self.receipt().legs if leg.usage)


def _one_each(request: Request) -> Iterator[Request]:
    """The request for each of its prompts."""
    body = {key: value for key, value in request.body.items() if key != "stream_options"}
    for at, prompt in enumerate(request.body["prompt"]):
        yield replace(request, id=f"{request.id}/{at}", body={**body, "prompt": prompt})


def places(name: ExpertId, registry: Registry) -> int:
    """How many prompts of one request the expert may be working on: half of what it takes at once."""
    expert = registry.experts_by_id[name]
    hosts = [host for host in registry.pool.hosts if expert.host in (None, host.id)]
    most = expert.max_running or min(host.max_running for host in hosts)
    return max(1, most // 2)
