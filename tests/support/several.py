"""A scripted pool and engine for requests that ask several experts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from coe.aggregators import Setting, build_aggregators
from coe.core.errors import (
    CoeError,
    ExpertTimeout,
)
from coe.core.openai import parse_event
from coe.core.types import (
    Decision,
    EngineCall,
    ExpertView,
    Options,
    Ranked,
    Request,
)
from coe.pipeline import Pipeline
from coe.pipeline.generation import Generation, Generations
from coe.registry.schema import Registry
from tests.support.asking import AlwaysReady, FakeLease

EXPERTS = ("sums", "words", "base", "sql")
WEIGHTS = (0.5, 0.3, 0.15, 0.05)


class Ranking:
    name = "ranking"

    def __init__(self, confidence: float = 0.5) -> None:
        self.confidence = confidence

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        ranking = tuple(Ranked(e, w) for e, w in zip(EXPERTS, WEIGHTS, strict=True))
        return Decision(self.name, ranking, ("sums",), self.confidence, "by the script")


def completion(expert: str, text: str | None, **message: Any) -> dict[str, Any]:
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "id": f"chatcmpl-{expert}",
        "object": "chat.completion",
        "created": 1,
        "model": expert,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "logprobs": None,
                "finish_reason": finish,
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
    }


Says = str | Mapping[str, Any] | CoeError | asyncio.Event
"""What an expert does: says a text, sends a body, fails, or waits for an event and says "late"."""


@dataclass
class Script(AlwaysReady):
    """Pool and engine in one: grants at once (but for ``queued``), answers by script, notes every end."""

    says: dict[str, Says | list[Says]]
    id: str = "engine"
    queued: set[str] = field(default_factory=set)
    asked: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    leased: list[str] = field(default_factory=list)
    out: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    groups: set[str | None] = field(default_factory=set)
    aborted: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def lease(
        self,
        request_id: str,
        expert: str,
        deadline_class: str,
        timeout_s: float,
        *,
        group: str | None = None,
        alternatives: Sequence[str] = (),
    ) -> AsyncIterator[FakeLease]:
        self.groups.add(group)
        self.waiting.append(expert)
        try:
            if expert in self.queued:
                try:
                    async with asyncio.timeout(timeout_s):
                        await asyncio.Event().wait()
                except TimeoutError:
                    raise ExpertTimeout(f"{expert} was not free") from None
        except BaseException:
            self.withdrawn.append(expert)
            raise
        finally:
            self.waiting.remove(expert)
        self.leased.append(expert)
        self.out.append(expert)
        try:
            yield FakeLease(self, expert, expert, queue_ms=5.0, swap_ms=0.0, wake_from="awake")
        finally:
            self.out.remove(expert)

    @contextmanager
    def expect(self, request_id: str, expert: str, group: str | None = None) -> Iterator[None]:
        self.expected.append(expert)
        yield

    def forecast(self, expert: str) -> float:
        return 0.0

    async def ask(self, expert: str, call: EngineCall) -> FakeAnswer:
        self.asked.append((expert, call.body))
        says = self.says.get(expert, f"the answer of {expert}")
        if isinstance(says, list):
            says = says.pop(0)
        if isinstance(says, CoeError):
            raise says
        return FakeAnswer(self, expert, says, call.stream)

    def bodies(self, expert: str) -> list[Mapping[str, Any]]:
        return [body for name, body in self.asked if name == expert]


@dataclass
class FakeAnswer:
    script: Script
    expert: str
    says: str | Mapping[str, Any] | asyncio.Event
    stream: bool
    status: int = 200
    finished: bool = False

    async def chunks(self) -> AsyncIterator[bytes]:
        if isinstance(self.says, asyncio.Event):
            await self.says.wait()
        text = "late" if isinstance(self.says, asyncio.Event) else self.says
        body = completion(self.expert, text) if isinstance(text, str) else dict(text)
        for part in _events(body) if self.stream else [json.dumps(body).encode()]:
            await asyncio.sleep(0)
            yield part
        self.finished = True

    async def aclose(self) -> None:
        if not self.finished:
            self.script.aborted.append(self.expert)


def _events(body: Mapping[str, Any]) -> Iterator[bytes]:
    head = {"id": body["id"], "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    for word in body["choices"][0]["message"]["content"].split(" "):
        choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
        yield b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield b"data: " + json.dumps({**head, "choices": [end], "usage": None}).encode() + b"\n\n"
    yield b"data: " + json.dumps({**head, "choices": [], "usage": body["usage"]}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def generation(confidence: float = 0.5, **aggregator: Any) -> Generation:
    registry = Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot"}]},
            "experts": [{"id": name, "host": "slot", "model": name} for name in EXPERTS],
            "routers": {"default": "ranking"},
            "limits": {"request_timeout_s": 60},
            "aggregator": {"kind": "vote", "proposers": 3, **aggregator},
            "routes": [{"model": "coe-deep", "aggregator": "synthesise", "experts": 2}],
        }
    )
    experts = tuple(expert.view() for expert in registry.experts)
    return Generation(
        1,
        registry,
        experts,
        {"ranking": Ranking(confidence)},
        build_aggregators(registry, Setting(experts)),
        0,
    )


def request(model: str = "coe", body: Mapping[str, Any] | None = None, **options: Any) -> Request:
    messages = [{"role": "user", "content": "2+2?"}]
    whole = {"model": model, "messages": messages, **(body or {})}
    return Request("req-1", "chat/completions", model, whole, "2+2?", Options(**options))


@dataclass(frozen=True)
class Got:
    raw: bytes
    receipt: Any

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.raw))

    @property
    def text(self) -> str:
        return str(self.body["choices"][0]["message"]["content"])

    @property
    def events(self) -> list[dict[str, Any]]:
        return [e for line in self.raw.split(b"\n\n") if (e := parse_event(line)) is not None]

    @property
    def streamed(self) -> str:
        deltas = [e["choices"][0]["delta"] for e in self.events if e["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)

    def outcomes(self) -> dict[str, str]:
        return {f"{leg.role} {leg.expert}": leg.outcome for leg in self.receipt.legs}


async def get(script: Script, asked: Request, current: Generation | None = None) -> Got:
    answer = await Pipeline(Generations(current or generation()), script).answer(asked)
    try:
        raw = b"".join([chunk async for chunk in answer.chunks()])
    finally:
        await answer.aclose()
    assert script.out == script.waiting == [], "a lease was not given back"
    return Got(raw, answer.receipt())
