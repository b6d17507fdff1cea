"""Routers that let an LLM write first, on a real pool: time of the writer's call, hits, fall-backs.

    python -m benchmarks.llm_routers --registry experts.yaml --writer base --json writers.json

Builds the service as ``coe serve`` does, with one router of each kind that has a writer, and sends each of
them a stream of requests made of ``--questions`` fixed questions of the demonstration (held-out phrasings, by
seed). How often each question comes follows Zipf's law with exponent ``--zipf``, each at least once; a repeat
differs from the first in case or spaces, as people's do. Says nothing about the quality of the choices: the
writers of the demonstration have 135 million parameters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from coe.core.files import folder_of
from coe.demo.questions import held_out_questions
from coe.registry.schema import Registry, RouterSpec
from coe.service.registry_file import load_registry
from coe.service.service import LocalService, build_service

KINDS = ("skill", "instruction")
ANSWER_TOKENS = 1
"""The answers do not matter here; the writers' texts do."""
START_LIMIT_S = 300.0


@dataclass(frozen=True)
class Sent:
    """One request: its legs as the receipt has them, and the seconds that it took as a whole."""

    legs: Sequence[Mapping[str, Any]]
    seconds: float

    @property
    def writing(self) -> Mapping[str, Any] | None:
        return next((leg for leg in self.legs if leg["role"] == "router"), None)


@dataclass(frozen=True)
class Load:
    """``concurrency`` requests at a time; none begins later than ``seconds`` after the first."""

    texts: Sequence[str]
    concurrency: int
    seconds: float = math.inf


@dataclass(frozen=True)
class Result:
    """``hit_rate``: requests whose text was there already. ``fall_backs``: share of all requests that were
    routed without a text. Times in milliseconds, of calls that gave a text: waiting for the writer, writing,
    and both."""

    kind: str
    requests: int
    failed: int
    results: Mapping[str, int]
    hit_rate: float
    fall_backs: float
    queue_p50_ms: float
    run_p50_ms: float
    call_p50_ms: float
    call_p95_ms: float
    tokens_mean: float
    request_p50_with_call_ms: float
    request_p50_with_hit_ms: float
    seconds: float


def stream(questions: Sequence[str], requests: int, zipf: float, seed: int) -> list[str]:
    """``requests`` texts in a fixed order: each question at least once, the popular ones more often."""
    draws = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, len(questions) + 1) ** zipf
    repeats = draws.choice(len(questions), max(0, requests - len(questions)), p=weights / weights.sum())
    order = draws.permutation(np.concatenate([np.arange(len(questions)), repeats]))
    seen: Counter[int] = Counter()
    texts = []
    for place in order.tolist():
        texts.append(_said_again(questions[place], seen[place]))
        seen[place] += 1
    return texts


def _said_again(text: str, times: int) -> str:
    return (text, f" {text} ", text.upper(), text.replace(" ", "  "))[times % 4]


def with_writers(registry: Registry, kinds: Sequence[str], options: dict[str, Any]) -> Registry:
    """The registry with one router of each kind, named after it."""
    specs = tuple(RouterSpec(name=kind, kind=kind, options=options) for kind in kinds)
    routers = registry.routers.model_copy(update={"default": kinds[0], "available": specs})
    return registry.model_copy(update={"routers": routers})


async def send(service: LocalService, router: str, load: Load) -> list[Sent | None]:
    """One entry for each request that began; None for one that failed."""
    free, began = asyncio.Semaphore(load.concurrency), time.perf_counter()
    transport = httpx.ASGITransport(app=service.app)
    found: list[Sent | None] = []

    async def one(http: httpx.AsyncClient, text: str) -> None:
        body = {
            "model": service.generations.current.registry.service.model_name,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": ANSWER_TOKENS,
            "temperature": 0,
            "coe": {"router": router},
        }
        async with free:
            started = time.perf_counter()
            if started - began > load.seconds:
                return
            answer = await http.post("/v1/chat/completions", json=body)
        if answer.status_code != 200:
            print(answer.text, file=sys.stderr)
            found.append(None)
        else:
            found.append(Sent(answer.json()["coe"]["legs"], time.perf_counter() - started))

    async with httpx.AsyncClient(transport=transport, base_url="http://coe", timeout=600.0) as http:
        await asyncio.gather(*(one(http, text) for text in load.texts))
    return found


async def measure(registry: Registry, root: Path, kinds: Sequence[str], load: Load) -> list[Result]:
    """All kinds on one service, one after the other."""
    service = await asyncio.to_thread(build_service, registry, root)
    await service.start()
    try:
        await _ready(service)
        return [await _measured(service, kind, load) for kind in kinds]
    finally:
        await service.stop(0.0)


async def _measured(service: LocalService, kind: str, load: Load) -> Result:
    await send(service, kind, Load([f"Warm up {kind}."], 1))
    before = dict(service.pipeline.writer_calls.counts)
    started = time.perf_counter()
    sent = await send(service, kind, load)
    seconds = time.perf_counter() - started
    counts = {name: n - before[name] for name, n in service.pipeline.writer_calls.counts.items()}
    found = result(kind, sent, counts, seconds)
    print(json.dumps(asdict(found), indent=1), flush=True)
    return found


def result(kind: str, sent: Sequence[Sent | None], counts: Mapping[str, int], seconds: float) -> Result:
    answered = [each for each in sent if each is not None]
    written = [leg for each in answered if (leg := each.writing) and leg["outcome"] == "ok"]
    calls = [leg["queue_ms"] + leg["run_ms"] for leg in written]
    total = max(1, sum(counts.values()))
    return Result(
        kind=kind,
        requests=len(sent),
        failed=len(sent) - len(answered),
        results=counts,
        hit_rate=counts["kept"] / total,
        fall_backs=sum(counts[name] for name in ("late", "failed", "paused", "empty")) / total,
        queue_p50_ms=_percentile([leg["queue_ms"] for leg in written], 50),
        run_p50_ms=_percentile([leg["run_ms"] for leg in written], 50),
        call_p50_ms=_percentile(calls, 50),
        call_p95_ms=_percentile(calls, 95),
        tokens_mean=float(np.mean([leg["tokens"] or 0 for leg in written])) if written else 0.0,
        request_p50_with_call_ms=_percentile([e.seconds * 1e3 for e in answered if e.writing], 50),
        request_p50_with_hit_ms=_percentile([e.seconds * 1e3 for e in answered if not e.writing], 50),
        seconds=seconds,
    )


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else 0.0


async def _ready(service: LocalService) -> None:
    async with asyncio.timeout(START_LIMIT_S):
        while not service.readiness().ready:  # noqa: ASYNC110 (engines start by themselves)
            await asyncio.sleep(0.2)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.llm_routers", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--registry", type=Path, default=Path("experts.yaml"))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--writer", default="base")
    parser.add_argument("--experts", help="only these of the registry, separated by commas")
    parser.add_argument("--encoder", default="minilm-int8")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--zipf", type=float, default=1.0)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=math.inf, help="of sending, for each kind")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds for the writer")
    parser.add_argument("--tokens", type=int, default=16, help="of the writer's text, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(words)
    registry, root = load_registry(args.registry), folder_of(args.registry)
    if args.experts:
        names = args.experts.split(",")
        experts = tuple(expert for expert in registry.experts if expert.id in names)
        registry = registry.model_copy(update={"experts": experts})
    asked = held_out_questions(per_skill=max(1, -(-args.questions // 9)))[: args.questions]
    texts = stream([each.text for each in asked], args.requests, args.zipf, args.seed)
    options = {
        "writer": args.writer,
        "encoder": args.encoder,
        "writer_deadline_s": args.deadline,
        "writer_tokens": args.tokens,
    }
    kinds = args.kinds.split(",")
    load = Load(texts, args.concurrency, args.minutes * 60)
    found = asyncio.run(measure(with_writers(registry, kinds, options), root, kinds, load))
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
