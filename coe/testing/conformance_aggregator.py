"""The contract of aggregators, as a check that built-ins and plug-ins run.

See :class:`coe.aggregators.protocol.Aggregator`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from coe.aggregators import Aggregator, Asked, Picked, Proposal, Proposing, Verdict, Write
from coe.core.errors import CoeError, ExpertUnavailable
from coe.core.types import ExpertId, Request

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


class AggregatorContractError(AssertionError):
    """An aggregator that does not keep its contract; the message says which part."""


class ScriptedAnswers:
    """Answers in a given order (:class:`coe.aggregators.protocol.Answers`). ``silent`` were asked and never
    answer; ``asks`` records what the aggregator asks itself, which ``replies`` answer in turn."""

    def __init__(
        self,
        proposals: Sequence[Proposal],
        silent: Sequence[Asked] = (),
        replies: Sequence[str | CoeError] = (),
        adaptive: bool = False,
    ) -> None:
        self.adaptive = adaptive
        self._left = list(proposals)
        self._silent = tuple(silent)
        self._replies = itertools.cycle(replies or ["a written answer"])
        self.read: list[Proposal] = []
        self.asks: list[tuple[ExpertId, Mapping[str, Any]]] = []

    @property
    def outstanding(self) -> tuple[Asked, ...]:
        return (*(proposal.asked for proposal in self._left), *(self._silent if self._left else ()))

    def __aiter__(self) -> ScriptedAnswers:
        return self

    async def __anext__(self) -> Proposal:
        if not self._left:
            raise StopAsyncIteration
        self.read.append(self._left.pop(0))
        return self.read[-1]

    async def ask(self, expert: ExpertId, body: Mapping[str, Any]) -> Proposal:
        self.asks.append((expert, body))
        reply = next(self._replies)
        if isinstance(reply, CoeError):
            raise reply
        return proposal(expert, reply)


def proposal(
    expert: ExpertId, text: str | None, weight: float = 0.5, rank: int = 0, arrival: int = 0, **message: Any
) -> Proposal:
    """One expert's whole answer."""
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish,
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return Proposal(Asked(expert, weight, rank), {"choices": [choice], "usage": usage}, arrival)


def tool_call(name: str, **arguments: Any) -> dict[str, Any]:
    return {
        "id": f"call_{name}",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    }


def panel(*texts: str | None, repeat: bool = False) -> list[Proposal]:
    """One proposal for each text, of experts e0, e1, ... with falling weights (one expert if ``repeat``)."""
    return [
        proposal("e0" if repeat else f"e{i}", text, weight=0.9 / (i + 1), rank=i, arrival=i)
        for i, text in enumerate(texts)
    ]


async def check_aggregator(aggregator: Aggregator) -> None:
    """Raises AggregatorContractError where ``aggregator`` breaks its contract.

    Shows it one to five answers in several orders: agreeing, all different, unreadable, empty, cut off, with
    tool calls, with JSON asked for, and with experts that never answer or cannot be asked.
    """
    _require(isinstance(aggregator.name, str) and aggregator.name != "", "name is a non-empty text")
    _require(aggregator.max_experts >= 1, "it takes one answer at least")
    _require(isinstance(aggregator.proposing, Proposing), "proposing is a Proposing")
    repeat = aggregator.proposing.repeat
    for texts in (
        ("4",),
        ("4", "4"),
        ("4", "5", "4"),
        ("", "words\nand more", "x" * 9_000),
        ("a", "b", "c", "d", "e"),
    ):
        made = panel(*texts[: aggregator.max_experts], repeat=repeat)
        for order in (made, list(reversed(made))):
            await _check(aggregator, request(), order)
    await _check(
        aggregator, request(response_format={"type": "json_object"}), panel('{"a": 1}', "no", repeat=repeat)
    )
    await _tool_calls_survive(aggregator, repeat)
    await _survives_an_expert_that_cannot_be_asked(aggregator, repeat)
    _writer_is_an_expert(aggregator, repeat)


def request(**fields: Any) -> Request:
    messages = [{"role": "user", "content": "What is 2 + 2?"}]
    body = {"model": "coe", "messages": messages, **fields}
    return Request("req-check", "chat/completions", "coe", body, "What is 2 + 2?")


async def _check(aggregator: Aggregator, asked: Request, proposals: Sequence[Proposal]) -> Verdict:
    await _checked(aggregator, asked, ScriptedAnswers(proposals, adaptive=True))
    return await _checked(aggregator, asked, ScriptedAnswers(proposals))


async def _checked(aggregator: Aggregator, asked: Request, answers: ScriptedAnswers) -> Verdict:
    before = json.dumps(asked.body)
    verdict = await aggregator.combine(asked, answers)
    _require(json.dumps(asked.body) == before, "the request is not changed")
    _require(isinstance(verdict, Picked | Write), "the verdict is Picked or Write")
    _require(
        verdict.reason.strip() != "" and "\n" not in verdict.reason,
        "the reason is one line that says something",
    )
    made = verdict.proposal if isinstance(verdict, Picked) else verdict.otherwise
    own = made in answers.read or any(made.expert == expert for expert, _ in answers.asks)
    _require(own, "the answer is one that was read, or one that the aggregator asked for itself")
    if isinstance(verdict, Write):
        _is_a_chat_body(verdict.body)
    for _, body in answers.asks:
        _is_a_chat_body(body)
    return verdict


def _is_a_chat_body(body: Mapping[str, Any]) -> None:
    _require(bool(body.get("messages")), "what it asks is a chat completion with messages")
    _require(not {"stream", "n", "tools", "coe"} & set(body), "what it asks has no stream, n, tools or coe")
    json.dumps(body)


async def _tool_calls_survive(aggregator: Aggregator, repeat: bool) -> None:
    calls = [tool_call("add", a=2, b=2)]
    names = ["e0", "e0", "e0"] if repeat else ["e0", "e1", "e2"]
    proposals = [
        proposal(name, None, weight=0.5, rank=rank, arrival=rank, tool_calls=calls)
        for rank, name in enumerate(names[: aggregator.max_experts])
    ]
    verdict = await _check(aggregator, request(tools=TOOLS), proposals)
    _require(isinstance(verdict, Picked), "an agreed tool call is picked, not written again")
    if isinstance(verdict, Picked):
        _require(verdict.proposal.tool_calls == tuple(calls), "the tool call is passed through as it is")


async def _survives_an_expert_that_cannot_be_asked(aggregator: Aggregator, repeat: bool) -> None:
    texts = [f"answer {i}" for i in range(min(5, aggregator.max_experts))]
    answers = ScriptedAnswers(
        panel(*texts, repeat=repeat), replies=[ExpertUnavailable("it cannot be loaded")]
    )
    try:
        await aggregator.combine(request(), answers)
    except CoeError:
        return  # a clear error is allowed; anything else is a bug
    except Exception as error:
        raise AggregatorContractError(f"broken: only CoeError is raised, not {error!r}") from error


def _writer_is_an_expert(aggregator: Aggregator, repeat: bool) -> None:
    asked = [Asked("e0" if repeat else f"e{i}", 0.5, i) for i in range(3)]
    writer = aggregator.writer(asked)
    _require(writer is None or bool(writer), "writer is an expert's id or None")


def _require(condition: bool, promise: str) -> None:
    if not condition:
        raise AggregatorContractError(f"broken: {promise}")
