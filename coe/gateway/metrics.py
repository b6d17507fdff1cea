"""Prometheus metrics of one service, in its own collector registry: two services never share numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coe.access.limits import Used
from coe.core.errors import CoeError
from coe.core.status import ReplanCounts, Status
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
    """Numbers about requests; those about engines are read when Prometheus asks. ``notes``: what came of the
    errands of routers so far, by result, as it is at any moment; so are ``replans``."""

    def __init__(
        self,
        status: Status,
        reception: Middlewares | None = None,
        notes: Mapping[str, int] | None = None,
        replans: ReplanCounts | None = None,
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
        self._errors = counter("errors", "Errors told to clients, by who failed.", "source", "type")
        self._confidence = _Children(
            Histogram("coe_confidence", "Of routers.", ["router"], buckets=_TENTHS, registry=registry)
        )
        self._usd = Counter("coe_usd", "By the experts' prices, in US dollars.", registry=registry)
        self._gpu_seconds = Counter("coe_gpu_seconds", "That experts worked on requests.", registry=registry)
        registry.register(_StatusCollector(status))
        if reception is not None:
            registry.register(_ReceptionCollector(reception))
        if notes is not None:
            registry.register(_NotesCollector(notes))
        if replans is not None:
            registry.register(_ReplanCollector(replans))

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


class _StatusCollector(Collector):
    """Read when Prometheus asks, so that nothing has to be kept up to date."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        return [*self._engines(), *self._experts()]

    def _engines(self) -> Iterable[Metric]:
        ready = GaugeMetricFamily("coe_engine_ready", "1 when the engine can answer.", labels=["engine"])
        swaps = CounterMetricFamily("coe_engine_swaps", "Experts moved in.", labels=["engine"])
        reads = CounterMetricFamily(
            "coe_engine_reads_ahead", "Experts whose weights were read into RAM early.", labels=["engine"]
        )
        broken = GaugeMetricFamily(
            "coe_circuit_open", "1 while an expert that kept failing is not asked.", labels=["expert"]
        )
        for engine, stats in self._status.engines().items():
            ready.add_metric([engine], float(stats.state == "ready"))
            swaps.add_metric([engine], stats.swaps)
            reads.add_metric([engine], stats.reads_ahead)
            for expert in stats.broken:
                broken.add_metric([expert], 1.0)
        return [ready, swaps, reads, broken]

    def _experts(self) -> Iterable[Metric]:
        awake = GaugeMetricFamily("coe_expert_awake", "1 when the expert can answer.", labels=["expert"])
        queued = GaugeMetricFamily("coe_expert_queued", "Requests that wait for it.", labels=["expert"])
        running = GaugeMetricFamily("coe_expert_running", "Requests that it answers.", labels=["expert"])
        for expert, status in self._status.experts().items():
            awake.add_metric([expert], float(status.state == "awake"))
            queued.add_metric([expert], status.queued)
            running.add_metric([expert], status.running)
        return [awake, queued, running]


class _ReceptionCollector(Collector):
    """The keys file, the response cache, and how often the shared state was not there."""

    def __init__(self, reception: Middlewares) -> None:
        self._reception = reception

    def collect(self) -> Iterable[Metric]:
        return [*self._keys(), *self._state()]

    def _keys(self) -> Iterable[Metric]:
        keys = self._reception.keys
        edits = CounterMetricFamily("coe_keys_edits", "Edits of the keys file.", labels=["result"])
        stale = GaugeMetricFamily("coe_keys_stale", "1 while the keys file is refused.")
        if keys is not None:
            edits.add_metric(["accepted"], keys.accepted)
            edits.add_metric(["refused"], keys.refused)
            stale.add_metric([], float(keys.stale))
        return [edits, stale]

    def _state(self) -> Iterable[Metric]:
        down = CounterMetricFamily("coe_state_down", "Calls of the shared state in vain.", labels=["user"])
        down.add_metric(["limits"], self._reception.access_control.down)
        kept, recorder = self._reception.answers, self._reception.recorder
        records = CounterMetricFamily("coe_records", "Requests in the record of prompts.", labels=["result"])
        if recorder is not None:
            records.add_metric(["written"], recorder.written)
            records.add_metric(["dropped"], recorder.dropped)
        if kept is None:
            return [down, records]
        down.add_metric(["answers"], kept.down)
        found = CounterMetricFamily("coe_kept_answers", "Lookups of the response cache.", labels=["result"])
        found.add_metric(["hit"], kept.hits)
        found.add_metric(["similar"], kept.similar_hits)
        found.add_metric(["miss"], kept.misses)
        return [down, records, found]


class _NotesCollector(Collector):
    """What experts wrote for routers."""

    def __init__(self, notes: Mapping[str, int]) -> None:
        self._notes = notes

    def collect(self) -> Iterable[Metric]:
        found = CounterMetricFamily("coe_router_notes", "Texts that routers wanted first.", labels=["result"])
        for result, count in self._notes.items():
            found.add_metric([result], count)
        return [found]


class _ReplanCollector(Collector):
    """What came of placing experts anew."""

    def __init__(self, counts: ReplanCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        counts = self._counts
        looks = CounterMetricFamily("coe_replans", "Looks at where experts are.", labels=["result"])
        for result, count in (("moved", counts.moved), ("kept", counts.kept), ("failed", counts.failed)):
            looks.add_metric([result], count)
        moves = CounterMetricFamily("coe_replanned_experts", "Experts moved to another host.")
        moves.add_metric([], counts.experts)
        return [looks, moves]
