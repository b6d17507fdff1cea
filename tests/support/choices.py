"""Routers of every kind over three experts of other strengths, sizes and prices, asked by the pipeline."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coe.aggregators import Setting as AggregatorSetting
from coe.aggregators import build_aggregators
from coe.core.errors import EngineError
from coe.core.types import Decision, ExpertView, Options, Ranked, Receipt, Request, Router
from coe.pipeline import Pipeline
from coe.pipeline.feedback import Feedback
from coe.pipeline.generation import Generation, Generations
from coe.registry.schema import Registry
from coe.routers import router_class
from coe.routers.base import Setting
from coe.routers.encoders.encoder import Vectors
from coe.routers.learning.evidence import Evidence
from tests.support.asking import FakeEngine, FakePool
from tests.support.several import completion

TOPICS = {"sums": "add plus number total", "dates": "month week day year"}
WORDS = [*" ".join(TOPICS.values()).split(), "hello", "poem", "sea"]
EXPERTS: list[dict[str, Any]] = [
    {
        "id": "sums",
        "card": "adds numbers plus total",
        "skills": ["sums"],
        "parameters_b": 7,
        "price": [1, 100],
    },
    {
        "id": "words",
        "card": "knows the month week day year",
        "skills": ["dates"],
        "parameters_b": 9,
        "price": [1, 10],
    },
    {"id": "base", "card": "talks", "general": True, "parameters_b": 3, "price": [0, 1]},
]
SIZE: dict[str, float] = {expert["id"]: expert["parameters_b"] for expert in EXPERTS}
PRICE: dict[str, float] = {expert["id"]: expert["price"][1] / 100 for expert in EXPERTS}
"""relative to the dearest one's"""
PLAIN = ("skill", "pilot", "instruction", "knn", "linear", "traits", "blend", "oracle")
KINDS = (
    *PLAIN,
    *("category", "category by cards", "category by examples"),
    *("budget", "budget by cards", "budget by examples", "unsure", "unsure within a budget"),
    *("average", "cascade", "static", "random", "own"),
)
BUDGET_B = 10.0
"""room for two of the experts"""


def registry() -> Registry:
    experts = [
        {
            **each,
            "host": "slot",
            "model": each["id"],
            "price": dict(zip(("input", "output"), each["price"], strict=True)),
        }
        for each in EXPERTS
    ]
    return Registry.model_validate(
        {"pool": {"hosts": [{"id": "slot"}]}, "experts": experts, "routers": {"default": "mine"}}
    )


SPEC = registry()
VIEWS = tuple(expert.view() for expert in SPEC.experts)
AGGREGATORS = build_aggregators(SPEC, AggregatorSetting(VIEWS))


class WordEncoder:
    """Cosines are those of shared words. No model."""

    identity = "words"

    def __init__(self) -> None:
        self._words: dict[str, int] = {}

    def encode(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), 128), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[self._words.setdefault(word, len(self._words) + 1) % 127 + 1] = 1.0
            row[0] = 0.01
            row /= np.linalg.norm(row)
        return rows


class Own:
    """A plug-in that always chooses the second one of its ranking, as it may."""

    name = "mine"

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:
        ranking = tuple(Ranked(e.id, p) for e, p in zip(experts, (0.5, 0.48, 0.2), strict=False))
        return Decision(self.name, ranking, (ranking[1].expert,), ranking[1].probability, "its own way")


def evidence(encoder: WordEncoder) -> Evidence:
    """Each specialist is right on 85% of its own topic and 25% of the other, the general one on 45%."""
    draws = np.random.default_rng(7)
    categories = tuple(("sums", "dates")[i % 2] for i in range(160))
    texts = [" ".join(draws.choice(TOPICS[topic].split(), 3)) for topic in categories]
    chance = {"sums": [0.85, 0.25, 0.45], "dates": [0.25, 0.85, 0.45]}
    scores = (draws.random((160, 3)) < [chance[topic] for topic in categories]).astype(np.float32)
    ids = tuple(f"q{i}" for i in range(160))
    experts = tuple(each["id"] for each in EXPERTS)
    vectors = encoder.encode(texts)
    return Evidence(ids, categories, vectors, experts, scores, np.ones_like(scores), encoder.identity)


def files(folder: Path) -> None:
    """What routers read: examples, and outcomes of the words alone."""
    examples = [
        {"text": f"{a} {b}", "category": t}
        for t, words in TOPICS.items()
        for a in words.split()
        for b in words.split()
    ]
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, examples)))
    outcomes = [{"text": word, "scores": {"words": 1.0, "base": 0.97}} for word in WORDS]
    (folder / "outcomes.jsonl").write_text("\n".join(map(json.dumps, outcomes)))


def router(kind: str, folder: Path) -> Router:
    if kind == "own":
        return Own()
    encoder = WordEncoder()
    known = None if kind.endswith("cards") else evidence(encoder)
    options: dict[str, Any] = {"oracle": {"outcomes": "outcomes.jsonl"}, "static": {"expert": "words"}}.get(
        kind, {}
    )
    if kind.endswith("examples"):
        options["examples"] = "examples.jsonl"
    if "budget" in kind:
        options["total_parameters_b"] = BUDGET_B
    if kind == "average":
        options["average_active_b"] = 6.0
    if kind.startswith("unsure"):
        options["low_confidence"] = 1.0
    if kind == "cascade":
        options["give_up"] = 0.2
    cls = router_class(kind if kind in (*PLAIN, "cascade", "static", "random") else "category")
    with_encoder = () if kind in ("oracle", "static", "random") else (encoder,)
    setting = Setting(VIEWS, folder, known)
    return cls("mine", cls.options_type(**options), setting, *with_encoder)


@dataclass
class World:
    """One router behind the real pipeline, a pool that grants at once, and marks."""

    router: Router
    feedback: Feedback = field(default_factory=Feedback)
    awake: frozenset[str] = frozenset()
    failing: frozenset[str] = frozenset()
    asked: list[str] = field(default_factory=list)

    def ask(self, text: str, **options: Any) -> Receipt:
        return asyncio.run(self._ask(text, Options(**options)))

    async def _ask(self, text: str, options: Options) -> Receipt:
        bodies: Any = {e: [json.dumps(completion(e, f"by {e}")).encode()] for e in SIZE}
        refusals = {e: EngineError("gone") for e in self.failing}
        engine = FakeEngine(scripts=bodies, refusals=dict(refusals), asked=self.asked)
        pool = FakePool(engine, awake=set(self.awake))
        current = Generation(1, SPEC, VIEWS, {"mine": self.router}, AGGREGATORS, 0, self.feedback)
        body = {"model": "coe", "messages": [{"role": "user", "content": text}]}
        request = Request("r", "chat/completions", "coe", body, text, options)
        answer = await Pipeline(Generations(current), pool).answer(request)
        try:
            async for _ in answer.chunks():
                pass
        finally:
            await answer.aclose()
        assert pool.out == []
        return answer.receipt()
