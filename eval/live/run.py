"""A live run: ask a service every question of a task, once, whatever happens in between.

Three modes, chosen by :class:`coe.eval.live.plan.Settings`: the service routes (one call a question), or
the run recruits experts by the service's ranking, question by question or, grouped, expert by expert.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from coe.aggregators.votes import Dependence
from coe.core.errors import ConfigError
from coe.eval.live.journal import Answered, Journal
from coe.eval.live.marking import mark
from coe.eval.live.plan import (
    Call,
    Settings,
    by_question,
    direct_calls,
    merge_call,
    merge_messages,
    recruited_calls,
)
from coe.eval.live.prices import Prices, cost_of
from coe.eval.live.prompting import messages, user_text
from coe.eval.live.questions import Item, Questions
from coe.eval.live.service import Refused, Reply, Service
from coe.eval.live.task import Task

T = TypeVar("T")
_METERS = 100
"""Readings of the swap counter over a run."""


@dataclass(frozen=True)
class Asked:
    """What a run asks, of whom, and how."""

    task: Task
    questions: Questions
    settings: Settings
    prices: Prices
    salt: str
    concurrency: int = 8
    dependence: Dependence | None = None
    """which experts err together, for weighted_vote of those recruited; None: not known"""

    def __post_init__(self) -> None:
        if self.task.data.withheld and self.settings.synthesiser:
            raise ConfigError(
                f"{self.task.name} withholds texts, but an expert that merges answers needs them",
                hint="Use the aggregator vote or weighted_vote.",
            )


def _silent(*_: object) -> None:
    pass


@dataclass
class Progress:
    """What the terminal shows. ``stop`` asks the run to finish what is under way and end."""

    started: Callable[[str, int], None] = _silent
    """a stage's name, and how much there is to do"""
    advanced: Callable[[str], None] = _silent
    """one more is done, by this expert"""
    stop: asyncio.Event = field(default_factory=asyncio.Event)


class LiveRun:
    """One session of a run. The journal must have been begun."""

    def __init__(self, asked: Asked, service: Service, journal: Journal, progress: Progress) -> None:
        self._asked, self._service, self._journal, self._progress = asked, service, journal, progress
        self._items = {item.id: item for item in asked.questions.items}

    async def run(self) -> None:
        """Ask what is not answered yet. Returns when all is answered or refused, or the run was stopped.

        Raises ServiceGone; what was answered until then is kept.
        """
        settings = self._asked.settings
        await self._measure()
        if settings.recruit:
            await self._route()
            calls = recruited_calls(self._routes(), settings)
        else:
            calls = direct_calls(list(self._items), settings)
        if settings.grouped or not settings.recruit:
            await self._each("asking", calls, self._ask)
            await self._merge_all()
        else:
            per_question = settings.recruit * settings.samples + bool(settings.synthesiser)
            await self._each(
                "asking", list(by_question(calls).values()), self._ask_question, steps=per_question
            )
        await self._measure()

    def _routes(self) -> dict[str, Mapping[str, float]]:
        """In the order of the questions, whatever order the answers came in."""
        return {item: self._journal.routes[item] for item in self._items if item in self._journal.routes}

    async def _route(self) -> None:
        left = [item for item in self._items.values() if item.id not in self._journal.routes]
        await self._each("routing", left, self._route_one)

    async def _route_one(self, item: Item) -> None:
        ranking = await self._service.route(user_text(self._asked.task, item), self._asked.settings.router)
        self._journal.route(item.id, ranking)
        self._progress.advanced(next(iter(ranking), ""))

    async def _merge_all(self) -> None:
        expert = self._asked.settings.synthesiser
        if expert and not self._progress.stop.is_set():
            merges = [merge_call(question, expert) for question in self._items]
            await self._each("merging", merges, self._ask)

    async def _ask_question(self, calls: Sequence[Call]) -> None:
        """All experts of one question, then the one that merges."""
        await asyncio.gather(*(self._ask(call) for call in calls))
        expert = self._asked.settings.synthesiser
        if expert:
            await self._ask(merge_call(calls[0].question, expert))

    async def _ask(self, call: Call) -> None:
        if call.key in self._journal.answers:
            self._progress.advanced(self._journal.answers[call.key].expert)
            return
        body = self._body(call)
        self._journal.intend(call.key, time.time())
        try:
            reply = await self._service.chat(body)
        except Refused as error:
            message = error.code if self._asked.task.data.withheld else error.message  # it may quote
            self._journal.fail(call.key, message, time.time())
            self._progress.advanced("refused")
            return
        self._journal.keep(self._answered(call, reply))
        self._progress.advanced(reply.expert)
        await self._measure_now_and_then()

    def _body(self, call: Call) -> dict[str, Any]:
        task, settings = self._asked.task, self._asked.settings
        temperature = task.generation.temperature if settings.temperature is None else settings.temperature
        body: dict[str, Any] = {
            "model": call.model,
            "messages": self._messages(call),
            "temperature": temperature,
            "max_tokens": settings.max_tokens or task.generation.max_tokens,
        }
        if task.generation.stop:
            body["stop"] = list(task.generation.stop)
        if call.sample or temperature:
            body["seed"] = call.sample
        return body | ({"coe": dict(call.extension)} if call.extension else {})

    def _messages(self, call: Call) -> list[Mapping[str, str]]:
        shown = messages(self._asked.task, self._items[call.question], self._asked.questions.exemplars)
        if call.role != "aggregator":
            return shown
        outputs = [
            answered.output or ""
            for other in recruited_calls(
                {call.question: self._journal.routes[call.question]}, self._asked.settings
            )
            if (answered := self._journal.answers.get(other.key))
        ]
        return merge_messages(shown, outputs)

    def _answered(self, call: Call, reply: Reply) -> Answered:
        task = self._asked.task
        marked = mark(task, self._items[call.question], reply.output)
        return Answered(
            call=call.key,
            expert=reply.expert,
            output=None if task.data.withheld else reply.output,
            output_hash=salted(self._asked.salt, reply.output),
            answer=marked.answer,
            score=marked.score,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            cost_usd=cost_of(reply, self._asked.prices),
            latency_ms=round(reply.latency_ms, 2),
            finish_reason=reply.finish_reason,
            receipt=_without_reason(reply.receipt) if task.data.withheld else reply.receipt,
            at=time.time(),
        )

    async def _each(
        self, stage: str, work: Sequence[T], do: Callable[[T], Awaitable[None]], steps: int = 1
    ) -> None:
        """``do`` for each, in order, ``concurrency`` at once; the first failure ends the others.

        ``steps``: calls in one piece of work, for the progress bar.
        """
        self._progress.started(stage, len(work) * steps)
        waiting = iter(work)

        async def worker() -> None:
            for one in waiting:
                if self._progress.stop.is_set():
                    return
                await do(one)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._asked.concurrency, len(work))):
                    group.create_task(worker())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _measure_now_and_then(self) -> None:
        every = max(1, len(self._items) // _METERS)
        if len(self._journal.answers) % every == 0:
            await self._measure()

    async def _measure(self) -> None:
        swaps = await self._service.swaps()
        if swaps is not None:
            self._journal.measure(swaps, time.time())


def _without_reason(receipt: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A router may quote in its reason."""
    return None if receipt is None else {name: value for name, value in receipt.items() if name != "reason"}


def salted(salt: str, text: str) -> str:
    """A hash that tells whether two texts are the same, and nothing to who does not have the salt."""
    return hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()
