"""Spans by OpenTelemetry, sent to a collector by OTLP over HTTP. Its packages are imported late."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import coe
from coe.core.errors import ConfigError
from coe.observe.tracing import Attributes, Kind, Span, Tracer

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PATH = "/v1/traces"
CLOSE_S = 3.0
"""How long the last spans may take at the end."""


def open_tracer(url: str | None, environment: Mapping[str, str] = os.environ) -> Tracer | None:
    """To the collector at ``url``, else where OpenTelemetry's environment variables say; None where neither
    says anything. Raises ConfigError. A collector that is not there costs spans, never an answer."""
    if url is None and not any(environment.get(name) for name in ENDPOINTS):
        return None
    endpoint = None if url is None else _checked(url)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(
            f"traces need OpenTelemetry: {error}",
            hint="pip install 'coe-router[traces]', or switch traces off.",
        ) from error
    return OtelTracer(_provider(OTLPSpanExporter(endpoint=endpoint)))


class OtelTracer:
    """:class:`coe.observe.tracing.Tracer` by a provider of OpenTelemetry's SDK, which it owns."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("coe", coe.__version__)
        self._propagator = TraceContextTextMapPropagator()

    def request(self, name: str, headers: Mapping[bytes, bytes]) -> Span:
        carried = {
            key: headers[key.encode()].decode("latin-1")
            for key in self._propagator.fields
            if key.encode() in headers
        }
        return self.span(name, "server", {}, self._propagator.extract(carried), 0.0)

    def span(self, name: str, kind: Kind, attributes: Attributes, context: Any, since_s: float) -> OtelSpan:
        """A new one in ``context``, OpenTelemetry's."""
        from opentelemetry.trace import SpanKind

        start = time.time_ns() - int(since_s * 1e9)
        return OtelSpan(
            self,
            self._tracer.start_span(
                name, context, SpanKind[kind.upper()], _known(attributes), start_time=start
            ),
        )

    def headers(self, context: Any) -> Mapping[str, str]:
        carried: dict[str, str] = {}
        self._propagator.inject(carried, context)
        return carried

    def close(self) -> None:
        # The exporter goes on for ten seconds with a collector that does not answer; nobody waits for that.
        sending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(CLOSE_S)


class OtelSpan:
    """:class:`coe.observe.tracing.Span`."""

    def __init__(self, tracer: OtelTracer, span: trace.Span) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer, self._span = tracer, span
        self._context = set_span_in_context(span)

    def child(
        self, name: str, kind: Kind = "internal", attributes: Attributes | None = None, since_s: float = 0.0
    ) -> Span:
        return self._tracer.span(name, kind, attributes or {}, self._context, since_s)

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(_known(attributes))

    def fail(self, code: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", code)
        self._span.set_status(StatusCode.ERROR, code)

    def headers(self) -> Mapping[str, str]:
        return self._tracer.headers(self._context)

    def end(self) -> None:
        if self._span.is_recording():
            self._span.end()


def _provider(exporter: SpanExporter) -> TracerProvider:
    """Spans leave in the background, in batches. OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
    OTEL_TRACES_SAMPLER and OTEL_BSP_* count."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {"service.version": coe.__version__}
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "coe"}
    provider = TracerProvider(resource=Resource.create({**name, **own}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise ConfigError(
            "the URL for traces is not one of a collector that speaks OTLP over HTTP",
            hint="Write it like http://127.0.0.1:4318; credentials go into OTEL_EXPORTER_OTLP_HEADERS.",
        )
    return url if parts.path.strip("/") else url.rstrip("/") + PATH


def _known(attributes: Attributes) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
