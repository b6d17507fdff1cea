"""The words that every part of CoE shares. No behaviour beyond small properties.

A *request* comes in, a router makes a *decision* (ranked experts), the pool grants a *lease* on each
chosen expert, the engine is *asked*, and the *receipt* says what happened on every leg.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

from coe.core.ranking import ExpertId as ExpertId
from coe.core.ranking import ExpertView as ExpertView
from coe.core.ranking import Occasion as Occasion
from coe.core.ranking import Ranked as Ranked
from coe.core.ranking import Rule as Rule
from coe.core.ranking import Substitute as Substitute
from coe.core.ranking import Why as Why
from coe.core.reading import Reading, read_chat, read_text

RequestId = str
DeadlineClass = Literal["interactive", "standard", "batch"]
Endpoint = Literal["chat/completions", "completions"]
WakeFrom = Literal["awake", "sleeping", "ram", "cold"]
"""What an expert had to be brought in from. ``ram``: cold, its weights read ahead."""
Role = Literal["answer", "proposer", "aggregator", "router"]
"""``router``: an expert that wrote for the router, before anybody was chosen"""


_DATA_URL = re.compile(r"[\x00-\x20]*data:\S", re.IGNORECASE)


def is_true(value: Any) -> bool:
    """A switch of a request's body, which may stand there as text or as 1, as chat servers read it."""
    return value is True or value == 1 or (isinstance(value, str) and value.lower() == "true")


def number(value: Any) -> int | float | None:
    """A number of a request's body, which may stand there as text; None where there is none."""
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return float(value)
    return value if isinstance(value, int | float) else None


def is_data_url(text: str) -> bool:
    """Whether ``text`` is the thing itself, not words and not where it is: ``data:image/png;base64,...``."""
    return _DATA_URL.match(text) is not None


@dataclass(frozen=True)
class ByTopP:
    """As many experts as it takes to ``p`` (above 0, at most 1) of the mass of their chances."""

    p: float


USUAL_QUALITY = 0.5
"""The weight of quality that a request has which names none, everywhere."""


@dataclass(frozen=True)
class Options:
    """The request's ``coe`` extension, validated. ``None`` means: as the registry says."""

    router: str | None = None
    experts: int | ByTopP | None = None
    aggregate: str | None = None
    quality: float | None = None
    cost: float | None = None
    patience_s: float | None = None
    deadline_class: DeadlineClass = "standard"

    @property
    def weight_of_quality(self) -> float:
        """0 to 1; :data:`USUAL_QUALITY` where the request says nothing."""
        return USUAL_QUALITY if self.quality is None else self.quality

    @property
    def names_aggregation(self) -> bool:
        """Whether the client said how many experts to ask, or how their answers are to be combined."""
        return self.experts is not None or self.aggregate is not None


@dataclass(frozen=True)
class Request:
    """One completion request. ``body`` is the OpenAI body without ``coe`` and is never changed.

    ``text`` is what is asked: the last user message, or the prompt. ``private``: nothing of its texts may
    outlive it here, because the client sent ``Cache-Control: no-store``.
    """

    id: RequestId
    endpoint: Endpoint
    model: str
    body: Mapping[str, Any]
    text: str
    options: Options = field(default_factory=Options)
    private: bool = False
    size: int = 0
    """bytes of the body as it came"""

    @property
    def stream(self) -> bool:
        return is_true(self.body.get("stream"))

    @cached_property
    def reading(self) -> Reading:
        """What routers see of it. Made when it is asked for: a pinned request is never read."""
        messages = self.body.get("messages")
        return read_text(self.text) if messages is None else read_chat(messages)

    @property
    def prompts(self) -> int:
        """How many it has: a list of texts, or of lists of token ids, is one for each."""
        prompt = self.body.get("prompt")
        return len(prompt) if isinstance(prompt, list) and not all(type(p) is int for p in prompt) else 1

    @property
    def choices(self) -> int:
        """How many answers an expert writes to each prompt."""
        return max(int(number(self.body.get(key)) or 1) for key in ("n", "best_of"))


@dataclass(frozen=True)
class Decision:
    """A router's answer: at least one expert, best first, and a reason that a person can read.

    Make it with :func:`coe.core.decision.decide`, which fills in all of it. ``chosen`` are the experts to
    ask; ``confidence`` is the first one's probability.
    """

    router: str
    ranking: tuple[Ranked, ...]
    chosen: tuple[ExpertId, ...]
    confidence: float
    reason: str
    category: str | None = None
    """what the router takes the text to be about, where it thinks in categories"""
    why: Why = "best"
    substitutes: tuple[Substitute, ...] = ()
    """in order, the most wanted first"""
    rule: Rule | None = None
    """None where it was not made by ``decide``"""
    because: str = ""
    """of the reason: what speaks for the ranking, whoever is chosen"""

    @property
    def expert(self) -> ExpertId:
        return self.chosen[0]

    @property
    def runner_up(self) -> ExpertId | None:
        return next((r.expert for r in self.ranking if r.expert != self.expert), None)

    @property
    def margin(self) -> float | None:
        """Probability of the chosen expert minus that of the runner-up."""
        by_expert = {r.expert: r.probability for r in self.ranking}
        if self.runner_up is None or self.expert not in by_expert:
            return None
        return by_expert[self.expert] - by_expert[self.runner_up]

    def probability_of(self, expert: ExpertId) -> float | None:
        """That it answers rightly; None where it is not ranked."""
        if expert == self.expert:
            return self.confidence
        return next((each.probability for each in self.ranking if each.expert == expert), None)

    def substitutes_on(self, occasion: Occasion, within: float | None = None) -> tuple[ExpertId, ...]:
        """Who may step in, at a loss of at most ``within``."""
        return tuple(
            each.expert
            for each in self.substitutes
            if occasion in each.on and (within is None or (each.loss is not None and each.loss <= within))
        )


@dataclass(frozen=True)
class RouterCall:
    """What a router wants an expert to write before it decides. ``deadline_s`` counts from the start of
    waiting for the expert to the end of its text."""

    writer: ExpertId
    prompt: str
    max_tokens: int
    deadline_s: float


@dataclass(frozen=True)
class RouterText:
    """What came of a :class:`RouterCall`: the text, or None and in ``missing`` why there is none."""

    text: str | None
    missing: str = ""


class Router(Protocol):
    """Chooses experts for a text. CPU-cheap, thread-safe after construction, no I/O in ``route``.

    A router that lets an expert write something first also has ``call(text) -> RouterCall | None`` and
    ``route_with(text, experts, note) -> Decision``; the pipeline has the call made in between. Its ``route``
    decides without. The same holds for both methods.
    """

    name: str

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        """Rank ``experts`` (never empty) for ``text``. Must rank only the experts passed in.

        In the service ``text`` is a :class:`coe.core.reading.Reading`: the last user message, which also
        has the messages before it and the system prompt.
        Raises :class:`coe.core.errors.RoutingError` when it cannot decide.
        """
        ...


@dataclass(frozen=True)
class Leg:
    """What happened on one expert for one request. Times in milliseconds."""

    expert: ExpertId
    role: Role = "answer"
    queue_ms: float = 0.0
    swap_ms: float = 0.0
    wake_from: WakeFrom = "awake"
    run_ms: float | None = None
    tokens: int | None = None
    outcome: str = "ok"
    """ok, failed: <code>, late, not needed or cancelled"""
    usage: Mapping[str, int] | None = None
    """token counts by OpenAI's names, where several experts were asked"""
    prompt_tokens: int | None = None
    events: int = 0
    """of a stream: about one for each token"""


@dataclass(frozen=True)
class Receipt:
    """The account of one answer, given to the client as ``coe`` and in ``x-coe-*`` headers."""

    request_id: RequestId
    generation: int
    router: str
    expert: ExpertId | None
    """who answered; None where several were asked and nothing is decided"""
    confidence: float | None
    """the probability of the expert who answered; None where it is not known"""
    runner_up: ExpertId | None
    margin: float | None
    reason: str
    legs: tuple[Leg, ...]
    aggregator: str | None = None
    """what combined the answers; None where one expert's answer passed through"""
    why: Why | Occasion = "best"
    """why this expert answered: it was chosen, or took the chosen one's place, or was one of a panel"""

    @property
    def queue_ms(self) -> float:
        return max((leg.queue_ms for leg in self.legs), default=0.0)

    @property
    def swap_ms(self) -> float:
        return max((leg.swap_ms for leg in self.legs), default=0.0)


@dataclass(frozen=True)
class EngineCall:
    """What is sent to an engine: an OpenAI endpoint and its body (``model`` is set by the engine).

    ``private``: the engine shares nothing of it with other requests, and tells a remote one to keep nothing.
    """

    endpoint: Endpoint
    body: Mapping[str, Any]
    trace: Mapping[str, str] = field(default_factory=dict)
    """HTTP headers that put the engine's spans under ours; empty where nothing is traced"""
    private: bool = False

    @property
    def stream(self) -> bool:
        return is_true(self.body.get("stream"))


class EngineAnswer(Protocol):
    """An engine's answer under way: ``chunks`` are the raw bytes of its body (SSE lines when streaming).

    ``aclose`` aborts the generation on the engine if it is not finished; it is idempotent and must be
    called on every path.
    """

    status: int

    def chunks(self) -> AsyncIterator[bytes]: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class EngineStats:
    """A snapshot for people and metrics."""

    state: Literal["stopped", "starting", "ready", "failed"]
    awake: tuple[ExpertId, ...] = ()
    swaps: int = 0
    last_error: str | None = None
    broken: tuple[ExpertId, ...] = ()
    """experts that are not asked for a while because they kept failing"""
    reads_ahead: int = 0
    """experts whose weights were read into RAM before their load"""


class ExpertSpec(Protocol):
    """What an engine knows of an expert."""

    @property
    def id(self) -> ExpertId: ...
    @property
    def model(self) -> str:
        """A folder, a hub id, or the model's name on a remote host."""
        ...

    @property
    def adapter(self) -> str | None:
        """A LoRA folder."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """What an engine may be able to do besides: read weights into RAM before their expert is loaded."""

    async def prefetch(self, expert: ExpertId) -> None:
        """Returns when the weights are in RAM. Must not slow down what runs; may run beside any other method.
        Raises :class:`coe.core.errors.EngineError` when there is nothing to read."""
        ...

    def release(self, expert: ExpertId) -> None:
        """The RAM of weights that were read ahead may be used for others. Returns at once."""
        ...


class Engine(Protocol):
    """A place where experts run: a vLLM process (slot), a base with adapters, a remote API.

    One caller, the pool, moves experts in and out; it never asks for an expert that is not ready and
    never frees one with leases out. All methods raise :class:`coe.core.errors.EngineError` on failure.
    """

    id: str

    async def start(self) -> None:
        """Start the process or open the connection; returns when it can load experts. Idempotent."""
        ...

    async def ensure_ready(self, expert: ExpertId) -> None:
        """Make ``expert`` answer correctly (load, wake or swap, then canary). Idempotent."""
        ...

    async def sleep(self, expert: ExpertId, level: int = 1) -> None:
        """Free what ``expert`` holds. Only after its leases are back. Idempotent."""
        ...

    async def set_experts(self, experts: Sequence[ExpertSpec]) -> None:
        """Have these experts from now on, in any state of the engine. Idempotent; loads nothing.

        New ones can be made ready at once. One that is no longer among them stays as it is while it
        finishes its work (it may even be made ready for it); when it is put to sleep, nothing of it stays.
        One with another model than before stays as it is until it is put to sleep.
        """
        ...

    async def ask(self, expert: ExpertId, call: EngineCall) -> EngineAnswer:
        """Send a request to a ready expert. Returns at the first byte of the head."""
        ...

    async def stop(self) -> None:
        """Stop the process; returns when it is gone. Idempotent."""
        ...

    def stats(self) -> EngineStats: ...
