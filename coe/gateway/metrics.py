"""Prometheus metrics of one service, in its own collector registry: two services never share numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coe.types import EngineStats, Receipt

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

StatsSource = Callable[[], Mapping[str, EngineStats]]
"""The stats of every engine by its id, at the moment of the call."""


class Metrics:
    """Numbers about requests; those about engines are read when Prometheus asks."""

    def __init__(self, engine_stats: StatsSource) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "coe_requests", "Requests by endpoint and HTTP status.", ["endpoint", "status"], registry=registry
        )
        self._answers = Counter(
            "coe_answers",
            "Answers by expert and the router that chose it.",
            ["expert", "router"],
            registry=registry,
        )
        self._in_flight = Gauge(
            "coe_requests_in_flight", "Requests under way.", ["endpoint"], registry=registry
        )
        self._seconds = _histogram(
            "coe_request_seconds", "From arrival to the last byte.", "endpoint", registry
        )
        self._first_byte = _histogram(
            "coe_first_byte_seconds", "From arrival to the first byte.", "endpoint", registry
        )
        self._queue = _histogram("coe_queue_seconds", "Waiting for an expert.", "expert", registry)
        self._swap = _histogram(
            "coe_swap_seconds", "Waiting for an expert's weights, where it had to wait.", "expert", registry
        )
        self._tokens = Counter(
            "coe_completion_tokens",
            "Completion tokens, where the expert reports them.",
            ["expert"],
            registry=registry,
        )
        self._failed_legs = Counter(
            "coe_failed_legs", "Experts that were asked and did not answer.", ["expert"], registry=registry
        )
        registry.register(_EngineCollector(engine_stats))

    def arrived(self, endpoint: str) -> None:
        self._in_flight.labels(endpoint).inc()

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
        self._answers.labels(receipt.expert, receipt.router).inc()
        for leg in receipt.legs:
            if leg.outcome.startswith("failed"):
                self._failed_legs.labels(leg.expert).inc()
            self._queue.labels(leg.expert).observe(leg.queue_ms / 1000)
            if leg.swap_ms:
                self._swap.labels(leg.expert).observe(leg.swap_ms / 1000)
            if leg.tokens:
                self._tokens.labels(leg.expert).inc(leg.tokens)


class _EngineCollector(Collector):
    def __init__(self, engine_stats: StatsSource) -> None:
        self._engine_stats = engine_stats

    def collect(self) -> Iterable[Metric]:
        ready = GaugeMetricFamily("coe_engine_ready", "1 when the engine can answer.", labels=["engine"])
        swaps = CounterMetricFamily("coe_engine_swaps", "Experts moved in.", labels=["engine"])
        awake = GaugeMetricFamily("coe_expert_awake", "1 for experts in memory.", labels=["engine", "expert"])
        for engine, stats in self._engine_stats().items():
            ready.add_metric([engine], float(stats.state == "ready"))
            swaps.add_metric([engine], stats.swaps)
            for expert in stats.awake:
                awake.add_metric([engine, expert], 1.0)
        return [ready, swaps, awake]


def _histogram(name: str, text: str, label: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, [label], buckets=_SECONDS, registry=registry)
