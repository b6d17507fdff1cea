"""Policies on real experts: wall-clock latencies of the service beside the simulator's prediction.

    python -m benchmarks.real --registry experts.yaml --policies coe,fcfs-lru --slots 1 --json real.json

Builds the service as ``coe serve`` does (real vLLM processes) for each policy and number of in-place slots,
or with ``--adapters 150`` as LoRA adapters on one base, measures its costs alone (run time at several batch
sizes, swap times), then sends requests at the times of a recorded trace (``--trace``, stretched to ``--load``
of one request at a time on each slot) and simulates the same run with the measured costs. Needs the machine
for itself: its figures are of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.real_pools import adapters_registry, serves_adapters, slots_registry
from coe.core.files import folder_of
from coe.core.types import ExpertId
from coe.registry.schema import Registry
from coe.service.registry_file import load_registry
from coe.service.service import LocalService, build_service
from coe.simulate.cluster import registry_cluster
from coe.simulate.driver import Simulation
from coe.simulate.hardware import find_preset
from coe.simulate.runs import named_policy
from coe.simulate.synthetic import zipf_labels
from coe.simulate.trace import read_trace
from coe.simulate.workload import Workload

SAMPLE = Path(__file__).parents[1] / "tests" / "data" / "azure_conv_sample.csv"
START_LIMIT_S = 300.0
BATCHES = (1, 2, 4, 8)
SWAPS_MEASURED = 12
LEAST_TOKENS, MOST_TOKENS, TOKEN_SHARE = 4, 32, 10.0
"""Tokens of an answer: a tenth of the trace's, within bounds that a CPU can serve."""


@dataclass(frozen=True)
class Costs:
    """Measured with nothing else to do. A request of n tokens alone takes ``fixed_s + n * token_s``; a batch
    of b does ``b ** exponent`` times the work of one per second."""

    fixed_s: float
    token_s: float
    exponent: float
    swap_s: float


@dataclass(frozen=True)
class Load:
    arrivals: tuple[float, ...]
    experts: tuple[ExpertId, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """Mean and p99 latency in seconds, swaps counted; ``error``: of the simulated mean, relative."""

    policy: str
    experts: int
    slots: int
    requests: int
    failed: int
    mean: float
    p99: float
    swaps: int
    simulated_mean: float
    simulated_p99: float
    simulated_swaps: int
    error: float
    costs: Costs


def recorded_load(trace: Path, count: int, experts: Sequence[ExpertId], seed: int) -> Load:
    rows = read_trace(trace).rows[:count]
    tokens = [max(LEAST_TOKENS, min(MOST_TOKENS, int((r.output_tokens or 0) / TOKEN_SHARE))) for r in rows]
    return Load(tuple(r.t for r in rows), tuple(zipf_labels(experts, len(rows), 1.0, seed)), tuple(tokens))


class Client:
    """Sends requests to a bound service through its HTTP application."""

    def __init__(self, service: LocalService) -> None:
        transport = httpx.ASGITransport(app=service.app)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://coe", timeout=300.0)

    async def ask(self, expert: ExpertId, tokens: int) -> tuple[float, Mapping[str, Any]]:
        """Seconds to the whole answer, and the body."""
        body = {
            "model": expert,
            "messages": [{"role": "user", "content": "Tell me about the sea and the sky."}],
            "max_tokens": tokens,
            "min_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
        }
        started = time.perf_counter()
        answer = await self._http.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
        return time.perf_counter() - started, answer.json()


async def calibrate(client: Client, experts: Sequence[ExpertId], mixed: bool) -> Costs:
    """One expert at several batch sizes (``mixed``: a batch of as many experts, which adapters of one base
    share a batch for), and a round of swaps through the first experts."""
    first = experts[0]
    await client.ask(first, LEAST_TOKENS)
    short = statistics.median([(await client.ask(first, LEAST_TOKENS))[0] for _ in range(3)])
    long = statistics.median([(await client.ask(first, MOST_TOKENS))[0] for _ in range(3)])
    token_s = max(1e-4, (long - short) / (MOST_TOKENS - LEAST_TOKENS))
    slopes = []
    for batch in BATCHES[1:]:
        asked = [experts[i % len(experts)] if mixed else first for i in range(batch)]
        for expert in asked:
            await client.ask(expert, LEAST_TOKENS)
        took = [t for t, _ in await asyncio.gather(*(client.ask(one, MOST_TOKENS) for one in asked))]
        slopes.append(1.0 - math.log(max(1.0, statistics.mean(took) / long)) / math.log(batch))
    swaps = []
    for expert in (*experts[:SWAPS_MEASURED], *experts[:SWAPS_MEASURED]):
        _, body = await client.ask(expert, LEAST_TOKENS)
        if (swap_ms := body["coe"]["swap_ms"]) > 0:
            swaps.append(swap_ms / 1000.0)
    fixed_s = max(0.0, short - LEAST_TOKENS * token_s)
    return Costs(fixed_s, token_s, statistics.mean(slopes), statistics.median(swaps))


async def replay(client: Client, load: Load) -> list[float]:
    """Latencies of the requests, sent at their times; NaN where one failed."""
    started = time.perf_counter()

    async def one(at: float, expert: ExpertId, tokens: int) -> float:
        await asyncio.sleep(max(0.0, at - (time.perf_counter() - started)))
        try:
            return (await client.ask(expert, tokens))[0]
        except httpx.HTTPError:
            return math.nan

    return list(await asyncio.gather(*map(one, load.arrivals, load.experts, load.tokens)))


def predict(registry: Registry, load: Load, costs: Costs) -> tuple[list[float], int]:
    """The same run in virtual time: latencies and loads."""
    experts = tuple(e.model_copy(update={"load_s": costs.swap_s}) for e in registry.experts)
    cluster = registry_cluster(registry.model_copy(update={"experts": experts}), find_preset("cpu"))
    hosts = {name: replace(host, exponent=costs.exponent) for name, host in cluster.hosts.items()}
    cluster = replace(cluster, hosts=hosts)
    work = tuple(costs.fixed_s + tokens * costs.token_s for tokens in load.tokens)
    workload = Workload(load.arrivals, load.experts, work)
    outcome = Simulation(cluster, workload, named_policy(registry.pool.policy, workload, cluster)).run()
    return [end - at for end, at in zip(outcome.finished, load.arrivals, strict=True)], outcome.loads


async def compare(registry: Registry, root: Path, load: Load, pace: float) -> Comparison:
    """Run and predict one policy. ``pace``: work per second and slot, requests one at a time."""
    service = await asyncio.to_thread(build_service, registry, root)
    await service.start()
    try:
        await _ready(service)
        client = Client(service)
        costs = await calibrate(client, [expert.id for expert in registry.experts], serves_adapters(registry))
        print(f"measured {costs}", file=sys.stderr, flush=True)
        work = sum(costs.fixed_s + tokens * costs.token_s for tokens in load.tokens)
        stretch = work / (pace * len(registry.pool.hosts)) / load.arrivals[-1]
        load = replace(load, arrivals=tuple(t * stretch for t in load.arrivals))
        before = service.pool.snapshot().swaps
        latencies = await replay(client, load)
        swaps = service.pool.snapshot().swaps - before
    finally:
        await service.stop(0.0)
    answered = [seconds for seconds in latencies if not math.isnan(seconds)]
    predicted, loads = predict(registry, load, costs)
    mean, simulated = statistics.mean(answered), statistics.mean(predicted)
    return Comparison(
        policy=registry.pool.policy,
        experts=len(registry.experts),
        slots=len(registry.pool.hosts),
        requests=len(latencies),
        failed=len(latencies) - len(answered),
        mean=mean,
        p99=_p99(answered),
        swaps=swaps,
        simulated_mean=simulated,
        simulated_p99=_p99(predicted),
        simulated_swaps=loads,
        error=simulated / mean - 1.0,
        costs=costs,
    )


async def _ready(service: LocalService) -> None:
    started = time.monotonic()
    while not service.readiness().ready:
        if time.monotonic() > started + START_LIMIT_S:
            raise TimeoutError(f"the engines did not start: {'; '.join(service.readiness().reasons)}")
        await asyncio.sleep(0.2)


def _p99(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)]


def main(words: Sequence[str] | None = None) -> int:
    args = _arguments(words)
    registry, root = load_registry(args.registry), folder_of(args.registry)
    found = []
    for dealt in _pools(args, registry, root):
        load = recorded_load(args.trace, args.requests, [e.id for e in dealt.experts], args.seed)
        result = asyncio.run(compare(dealt, root, load, args.load))
        found.append(result)
        print(
            f"{result.policy}, {result.experts} experts, {result.slots} slots: mean {result.mean:.2f} s "
            f"(simulated {result.simulated_mean:.2f}, {result.error:+.0%}), p99 {result.p99:.2f} "
            f"({result.simulated_p99:.2f}), swaps {result.swaps} ({result.simulated_swaps}), "
            f"failed {result.failed}",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")
    return 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__.split("\n")[0])
    parser.add_argument("--registry", type=Path, default=Path("experts.yaml"))
    parser.add_argument("--trace", type=Path, default=SAMPLE)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--slots", default="1,2", help="numbers of in-place slots")
    parser.add_argument("--adapters", type=int, help="instead: this many LoRA experts on one base")
    parser.add_argument("--kept", type=int, default=8, help="adapters that are loaded at once")
    parser.add_argument("--policies", default="coe,collating-fifo,fcfs-lru")
    parser.add_argument("--load", type=float, default=0.9, help="work per second and slot, one at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def _pools(args: argparse.Namespace, registry: Registry, root: Path) -> Iterator[Registry]:
    """One registry for each run that was asked for."""
    for policy in args.policies.split(","):
        if args.adapters:
            yield adapters_registry(registry, root, args.adapters, args.kept, policy)
            continue
        for slots in (int(part) for part in args.slots.split(",")):
            yield slots_registry(registry, slots, policy)


if __name__ == "__main__":
    raise SystemExit(main())
