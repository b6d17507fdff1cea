"""Prometheus metrics of one service, in its own collector registry: two services never share numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coe.access.limits import Used
from coe.core.errors import CoeError
from coe.core.status import RebalanceCounts, Status
from coe.core.types import Receipt
from coe.gateway.middlewares import Middlewares

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

_TENTHS = tuple(tenth / 10 for tenth in range(1, 11))

Labelled = TypeVar("Labelled", Counter, Gauge, Histogram)


class _Children(Generic[Labelled]):
    """A metric's children by their labels: looking one up in the library takes a lock and some checks."""

    def __init__(self, metric: Labelled) -> None:
        self._metric: Labelled = metric
        self._found: dict[tuple[str, ...], Labelled] = {}

    def labels(self, *values: str) -> Labelled:
        found = self._found.get(values)
        if found is None:
            found = self._found[values] = self._metric.labels(*values)
        return found


class Metrics:
    """Numbers about requests; those about engines are read when Prometheus asks, and so are the others given
    here. ``writer_calls``: the texts that routers had experts write, by result."""

    def __init__(
        self,
        status: Status,
        middlewares: Middlewares | None = None,
        writer_calls: Mapping[str, int] | None = None,
        rebalances: RebalanceCounts | None = None,
    ) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> _Children[Counter]:
            return _Children(Counter(f"coe_{name}", text, labels, registry=registry))

        def histogram(name: str, text: str, *labels: str) -> _Children[Histogram]:
            return _Children(Histogram(f"coe_{name}", text, labels, buckets=_SECONDS, registry=registry))

        self._requests = counter("requests", "Requests by endpoint and HTTP status.", "endpoint", "status")
        self._answers = counter("answers", "Answers by expert and the router that chose.", "expert", "router")
        self._tokens = counter("completion_tokens", "Completion tokens, where reported.", "expert")
        self._merged = counter("merged_answers", "Answers made of several, by aggregator.", "aggregator")
        self._legs = counter("legs", "Experts asked, by role and how it ended.", "role", "outcome")
        self._failed_legs = counter("failed_legs", "Experts asked that did not answer.", "expert")
        self._in_flight = _Children(
            Gauge("coe_requests_in_flight", "Under way.", ["endpoint"], registry=registry)
        )
        self._seconds = histogram("request_seconds", "From arrival to the last byte.", "endpoint")
        self._first_byte = histogram("first_byte_seconds", "From arrival to the first byte.", "endpoint")
        self._queue = histogram("queue_seconds", "Waiting for an expert.", "expert")
        self._swap = histogram("swap_seconds", "Waiting for weights that came from a tier.", "expert", "tier")
        self._errors = counter("errors", "Errors sent to clients, by who failed.", "source", "type")
        self._confidence = _Children(
            Histogram("coe_confidence", "Of routers.", ["router"], buckets=_TENTHS, registry=registry)
        )
        self._usd = Counter("coe_usd", "By the experts' prices, in US dollars.", registry=registry)
        self._gpu_seconds = Counter("coe_gpu_seconds", "That experts worked on requests.", registry=registry)
        registry.register(_Collector(partial(_engines, status), partial(_experts, status)))
        if middlewares is not None:
            read = (partial(each, middlewares) for each in (_keys, _records, _state))
            registry.register(_Collector(*read))
        if writer_calls is not None:
            registry.register(_Collector(partial(_writer_calls, writer_calls)))
        if rebalances is not None:
            registry.register(_Collector(partial(_rebalances, rebalances)))

    def arrived(self, endpoint: str) -> None:
        self._in_flight.labels(endpoint).inc()

    def failed(self, error: CoeError) -> None:
        """A client was told of ``error``."""
        self._errors.labels(error.source, error.type).inc()

    def charged(self, used: Used) -> None:
        """What a request has used."""
        self._usd.inc(used.usd)
        self._gpu_seconds.inc(used.gpu_seconds)

    def finished(
        self, endpoint: str, status: int, seconds: float, first_byte_s: float | None, receipt: Receipt | None
    ) -> None:
        self._in_flight.labels(endpoint).dec()
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)
        if first_byte_s is not None:
            self._first_byte.labels(endpoint).observe(first_byte_s)
        if receipt is not None:
            self._answered(receipt)

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self._registry)

    def _answered(self, receipt: Receipt) -> None:
        self._answers.labels(receipt.expert or "none", receipt.router).inc()
        if receipt.aggregator is not None:
            self._merged.labels(receipt.aggregator).inc()
        if receipt.confidence is not None:
            self._confidence.labels(receipt.router).observe(receipt.confidence)
        for leg in receipt.legs:
            self._legs.labels(leg.role, leg.outcome.partition(":")[0]).inc()
            if leg.outcome.startswith("failed"):
                self._failed_legs.labels(leg.expert).inc()
            self._queue.labels(leg.expert).observe(leg.queue_ms / 1000)
            if leg.swap_ms:
                self._swap.labels(leg.expert, leg.wake_from).observe(leg.swap_ms / 1000)
            if leg.tokens:
                self._tokens.labels(leg.expert).inc(leg.tokens)


_FORMER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "coe_cache_lookups": "coe_kept_answers",
        "coe_state_failures": "coe_state_down",
        "coe_writer_calls": "coe_router_notes",
        "coe_rebalances": "coe_replans",
        "coe_rebalanced_experts": "coe_replanned_experts",
    }
)
"""A metric's name -> what the version before called it, which is emitted for one more version."""


class _Collector(Collector):
    """Read when Prometheus asks, so that nothing has to be kept up to date."""

    def __init__(self, *read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        for metric in itertools.chain.from_iterable(read() for read in self._read):
            yield metric
            if metric.name in _FORMER_NAMES:
                yield _under_former_name(metric)


def _under_former_name(metric: Metric) -> Metric:
    name = _FORMER_NAMES[metric.name]
    text = f"Deprecated, use {metric.name}_total: this name goes with the next version."
    former = Metric(name, text, metric.type)
    for sample in metric.samples:
        labels = {label: _FORMER_USERS.get(value, value) for label, value in sample.labels.items()}
        former.add_sample(f"{name}_total", labels, sample.value)
    return former


_FORMER_USERS: Mapping[str, str] = MappingProxyType({"cache": "answers"})


def _engines(status: Status) -> list[Metric]:
    ready = GaugeMetricFamily("coe_engine_ready", "1 when the engine can answer.", labels=["engine"])
    swaps = CounterMetricFamily("coe_engine_swaps", "Experts moved in.", labels=["engine"])
    reads = CounterMetricFamily(
        "coe_engine_reads_ahead", "Experts whose weights were read into RAM early.", labels=["engine"]
    )
    broken = GaugeMetricFamily(
        "coe_circuit_open", "1 while an expert that kept failing is not asked.", labels=["expert"]
    )
    for engine, stats in status.engines().items():
        ready.add_metric([engine], float(stats.state == "ready"))
        swaps.add_metric([engine], stats.swaps)
        reads.add_metric([engine], stats.reads_ahead)
        for expert in stats.broken:
            broken.add_metric([expert], 1.0)
    return [ready, swaps, reads, broken]


def _experts(status: Status) -> list[Metric]:
    awake = GaugeMetricFamily("coe_expert_awake", "1 when the expert can answer.", labels=["expert"])
    queued = GaugeMetricFamily("coe_expert_queued", "Requests that wait for it.", labels=["expert"])
    running = GaugeMetricFamily("coe_expert_running", "Requests that it answers.", labels=["expert"])
    for expert, found in status.experts().items():
        awake.add_metric([expert], float(found.state == "awake"))
        queued.add_metric([expert], found.queued)
        running.add_metric([expert], found.running)
    return [awake, queued, running]


def _keys(middlewares: Middlewares) -> list[Metric]:
    edits = CounterMetricFamily("coe_keys_edits", "Edits of the keys file.", labels=["result"])
    stale = GaugeMetricFamily("coe_keys_stale", "1 while the keys file is refused.")
    if middlewares.keys is not None:
        edits.add_metric(["accepted"], middlewares.keys.accepted)
        edits.add_metric(["refused"], middlewares.keys.refused)
        stale.add_metric([], float(middlewares.keys.stale))
    return [edits, stale]


def _records(middlewares: Middlewares) -> list[Metric]:
    records = _by_result("coe_records", "Requests in the record of prompts.")
    if middlewares.recorder is not None:
        records.add_metric(["written"], middlewares.recorder.written)
        records.add_metric(["dropped"], middlewares.recorder.dropped)
    return [records]


def _state(middlewares: Middlewares) -> list[Metric]:
    cache = middlewares.cache
    failures = CounterMetricFamily("coe_state_failures", "Failed calls of the shared state.", labels=["user"])
    failures.add_metric(["limits"], middlewares.access_control.down)
    if cache is None:
        return [failures]
    failures.add_metric(["cache"], cache.down)
    lookups = _by_result("coe_cache_lookups", "Lookups of the response cache.")
    for result, count in (("hit", cache.hits), ("similar", cache.similar_hits), ("miss", cache.misses)):
        lookups.add_metric([result], count)
    return [failures, lookups]


def _writer_calls(counts: Mapping[str, int]) -> list[Metric]:
    calls = _by_result("coe_writer_calls", "Texts that routers have experts write, by result.")
    for result, count in counts.items():
        calls.add_metric([result], count)
    return [calls]


def _rebalances(counts: RebalanceCounts) -> list[Metric]:
    rounds = _by_result("coe_rebalances", "Checks of where experts should run, by result.")
    for result, count in (("moved", counts.moved), ("kept", counts.kept), ("failed", counts.failed)):
        rounds.add_metric([result], count)
    moves = CounterMetricFamily("coe_rebalanced_experts", "Experts moved to another host.")
    moves.add_metric([], counts.experts)
    return [rounds, moves]


def _by_result(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, labels=["result"])
