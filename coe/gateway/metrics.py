"""Prometheus metrics of one service, in its own collector registry: two services never share numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coe.access.limits import Used
from coe.core.errors import CoeError
from coe.core.status import ExpertStatus, RebalanceCounts, Status
from coe.core.types import EngineStats, Receipt

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
    """Numbers about requests. Those about engines, and what is added by :meth:`watch`, are read when
    Prometheus asks."""

    def __init__(self, status: Status) -> None:
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
        for each in _of_status(status):
            registry.register(each)

    def watch(self, name: str, text: str, label: str | None, read: Callable[[], Mapping[str, float]]) -> None:
        """Also show a counter that lives elsewhere, by the values of its ``label``."""
        self._registry.register(_Watched(CounterMetricFamily, name, text, label, read))

    def watch_rebalances(self, counts: RebalanceCounts) -> None:
        """Also show what came of checking where experts should run."""

        def checks() -> Mapping[str, float]:
            return {"moved": counts.moved, "kept": counts.kept, "failed": counts.failed}

        self.watch("rebalances", "Checks of where experts should run, by result.", "result", checks)
        self.watch("rebalanced_experts", "Experts moved to another host.", None, lambda: {"": counts.experts})

    def watch_gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Also show a number that may go down."""
        self._registry.register(_Watched(GaugeMetricFamily, name, text, None, lambda: {"": read()}))

    def arrived(self, endpoint: str) -> None:
        self._in_flight.labels(endpoint).inc()

    def failed(self, error: CoeError) -> None:
        """A client was sent ``error``."""
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


def _under_former_name(metric: Metric) -> Metric:
    name = _FORMER_NAMES[metric.name]
    text = f"Deprecated, use {metric.name}_total: this name goes with the next version."
    former = Metric(name, text, metric.type)
    for sample in metric.samples:
        labels = {label: _FORMER_USERS.get(value, value) for label, value in sample.labels.items()}
        former.add_sample(f"{name}_total", labels, sample.value)
    return former


_FORMER_USERS: Mapping[str, str] = MappingProxyType({"cache": "answers"})


@dataclass(frozen=True)
class _Watched(Collector):
    """One number for each value of a label, read when Prometheus asks."""

    family: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    text: str
    label: str | None
    read: Callable[[], Mapping[str, float]]

    def collect(self) -> Iterator[Metric]:
        found = self.family(f"coe_{self.name}", self.text, labels=[self.label] if self.label else [])
        for value, number in self.read().items():
            found.add_metric([value] if self.label else [], number)
        yield found
        if found.name in _FORMER_NAMES:
            yield _under_former_name(found)


def _of_status(status: Status) -> Iterator[_Watched]:
    """The metrics of engines and experts."""

    def engines(read: Callable[[EngineStats], float]) -> Callable[[], Mapping[str, float]]:
        return lambda: {name: read(stats) for name, stats in status.engines().items()}

    def experts(read: Callable[[ExpertStatus], float]) -> Callable[[], Mapping[str, float]]:
        return lambda: {name: read(found) for name, found in status.experts().items()}

    def broken() -> Mapping[str, float]:
        return {expert: 1.0 for stats in status.engines().values() for expert in stats.broken}

    gauge = partial(_Watched, GaugeMetricFamily)
    counter = partial(_Watched, CounterMetricFamily)
    ready, reads = "1 when the engine can answer.", "Experts whose weights were read into RAM early."
    yield gauge("engine_ready", ready, "engine", engines(lambda stats: stats.state == "ready"))
    yield counter("engine_swaps", "Experts moved in.", "engine", engines(lambda stats: stats.swaps))
    yield counter("engine_reads_ahead", reads, "engine", engines(lambda stats: stats.reads_ahead))
    yield gauge("circuit_open", "1 while an expert that kept failing is not asked.", "expert", broken)
    awake = "1 when the expert can answer."
    yield gauge("expert_awake", awake, "expert", experts(lambda found: found.state == "awake"))
    yield gauge("expert_queued", "Requests that wait for it.", "expert", experts(lambda found: found.queued))
    yield gauge("expert_running", "Requests that it answers.", "expert", experts(lambda found: found.running))
