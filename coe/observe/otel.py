"""Spans sent to a collector by OTLP over HTTP. OpenTelemetry's SDK, which is optional, is imported late."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry.context import attach
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import coe
from coe.core.errors import ConfigError
from coe.observe.tracing import TRACER

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PATH = "/v1/traces"
CLOSE_S = 3.0
"""How long the last spans may take at the end."""


def open_tracer(url: str | None, environment: Mapping[str, str] = os.environ) -> RequestTracer | None:
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
    return RequestTracer(_provider(OTLPSpanExporter(endpoint=endpoint)))


class RequestTracer:
    """Traces requests by a provider of OpenTelemetry's SDK, which it owns."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("coe", coe.__version__)

    def begin(self, name: str, headers: Mapping[bytes, bytes]) -> Span:
        """The span of a request that came with ``headers``; hops of this task belong to it from now on."""
        propagator = TraceContextTextMapPropagator()
        carried = {
            key: headers[key.encode()].decode("latin-1")
            for key in propagator.fields
            if key.encode() in headers
        }
        span = self._tracer.start_span(name, propagator.extract(carried), SpanKind.SERVER)
        TRACER.set(self._tracer)
        attach(set_span_in_context(span))
        return span

    def close(self) -> None:
        """Send what is left. Blocking, a few seconds at most."""
        # The exporter goes on for ten seconds with a collector that does not answer; nobody waits for that.
        sending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(CLOSE_S)


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
