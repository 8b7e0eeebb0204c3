"""Traces: where one request's time went, among the spans of whoever called us and of Triton behind us.

Without an endpoint to send them to, nothing of OpenTelemetry is imported and a request pays one attribute look-up.
With one, it is decided first whether a request is traced, so that only those that are pay for spans.

Context travels as W3C Trace Context (https://www.w3.org/TR/trace-context/), the same over HTTP headers and gRPC
metadata. Names follow https://opentelemetry.io/docs/specs/semconv/; what they lack is under `tidegate.`.
"""

import logging
import os
import random
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc

from gateway.error import ConfigurationError
from gateway.log import Record, clean

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OpenSpan
    from opentelemetry.trace import SpanContext

_PATH = "/v1/traces"
_QUEUE_SPANS = 4096
_MAX_LINKS = 64


@dataclass(slots=True)
class Span:
    """A traced request in hand. `linked` are requests that its call to Triton was made together with."""

    open: "OpenSpan"
    context: "SpanContext"
    start_ns: int
    linked: list["SpanContext"] = field(default_factory=list)


class Tracer:
    """Traces nothing: what there is when no endpoint is configured."""

    enabled = False

    def start(self, headers: Mapping[str, str], name: str, start_time: float) -> Span | None:
        """Begin a request's span at a Unix time; None when it isn't traced. Header names are lower-case."""
        return None

    def finish(self, span: Span, record: Record) -> Record:
        """End a request's span; returns the record with the trace's id in it."""
        return record

    def upstream_metadata(self, spans: Iterable[Span | None]) -> list[tuple[str, str]]:
        """The gRPC metadata of a call to Triton on behalf of these requests: the context of the first traced one.

        The others are linked to it, and it to them.
        """
        return []

    def shutdown(self, timeout_s: float) -> None:
        """Send what is waiting, within the time."""


def create_tracer(
    endpoint: str | None, service_name: str, sample_ratio: float, *, environ: Mapping[str, str] = os.environ
) -> Tracer:
    """A tracer to an OTLP/HTTP endpoint such as `http://collector:4318`; without one, a tracer that does nothing.

    `sample_ratio` is for requests that bring no context; those that do are traced when their caller's span is. An
    endpoint of None is looked for in OpenTelemetry's own variables; headers, certificates and time-outs always are.
    Raises ConfigurationError when the endpoint is no URL, or what it takes isn't installed.
    """
    url = _url(endpoint, environ)
    if url is None:
        return Tracer()
    if not 0 <= sample_ratio <= 1:
        raise ConfigurationError(f"expected a share of requests to trace from 0 to 1, got {sample_ratio}")
    try:
        exporter = _exporter(url)
        return OtlpTracer(exporter, environ.get("OTEL_SERVICE_NAME", service_name), sample_ratio)
    except ImportError as exc:
        raise ConfigurationError(
            f"a trace endpoint is set, but {exc.name} isn't installed; run: pip install 'tidegate[tracing]', "
            "or unset the endpoint"
        ) from exc


class OtlpTracer(Tracer):
    """Sends the spans of traced requests through an exporter, from a thread with a bounded queue."""

    enabled = True

    def __init__(self, exporter: "SpanExporter", service_name: str, sample_ratio: float) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        for name in ("opentelemetry.trace.span", TraceContextTextMapPropagator.__module__):
            logging.getLogger(name).setLevel(logging.ERROR)  # a client's malformed header deserves no line in our log
        self._api = trace
        self._propagator = TraceContextTextMapPropagator()
        self._sample_ratio = sample_ratio
        resource = Resource.create({"service.name": service_name})
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_QUEUE_SPANS))
        self._tracer = self._provider.get_tracer("tidegate.gateway")

    def start(self, headers: Mapping[str, str], name: str, start_time: float) -> Span | None:
        """Begin a request's span, if its caller's is traced or its turn has come."""
        api = self._api
        parent = None
        if "traceparent" in headers:
            parent = self._propagator.extract(headers)
            above = api.get_current_span(parent).get_span_context()
            sampled = above.trace_flags.sampled if above.is_valid else self._draw()
        else:
            sampled = self._draw()
        if not sampled:
            return None
        start_ns = round(start_time * 1e9)
        opened = self._tracer.start_span(clean(name), parent, api.SpanKind.SERVER, start_time=start_ns)
        return Span(opened, opened.get_span_context(), start_ns)

    def finish(self, span: Span, record: Record) -> Record:
        """End a request's span with what is known of it now, and lay its stages end to end below it."""
        api, opened = self._api, span.open
        opened.set_attributes(_attributes(record))
        if record.status >= 500:  # the client's faults are no errors of a server's span
            opened.set_status(api.StatusCode.ERROR, clean(record.error or ""))
        parent = api.set_span_in_context(opened)
        at_ns = span.start_ns
        for stage, took_ms in record.stages.items():
            end_ns = at_ns + round(took_ms * 1e6)
            if end_ns > at_ns:
                upstream = stage == "upstream"
                child = self._tracer.start_span(
                    stage,
                    parent,
                    api.SpanKind.CLIENT if upstream else api.SpanKind.INTERNAL,
                    links=[api.Link(context) for context in span.linked] if upstream else (),
                    start_time=at_ns,
                )
                child.end(end_ns)
            at_ns = end_ns
        opened.end(span.start_ns + round(record.duration_ms * 1e6))
        return replace(record, trace_id=api.format_trace_id(span.context.trace_id))

    def upstream_metadata(self, spans: Iterable[Span | None]) -> list[tuple[str, str]]:
        """The context of the first traced request; the others are linked to it, and it to them."""
        traced = [span for span in spans if span is not None]
        if not traced:
            return []
        first, *others = traced
        first.linked += [other.context for other in others[:_MAX_LINKS]]
        for other in others:
            other.linked.append(first.context)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._api.set_span_in_context(first.open))
        return list(carrier.items())

    def shutdown(self, timeout_s: float) -> None:
        """Send what is waiting; a collector that doesn't answer within the time is given up."""
        ending = threading.Thread(target=self._provider.shutdown, name="trace-shutdown", daemon=True)
        ending.start()  # the library's own call takes no time limit
        ending.join(timeout_s)

    def _draw(self) -> bool:
        return random.random() < self._sample_ratio  # noqa: S311  # a sample, no secret


def _url(endpoint: str | None, environ: Mapping[str, str]) -> str | None:
    """Where to send spans, checked; None when nobody wants them."""
    url = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") if endpoint is None else None
    base = endpoint or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not url and base:
        url = base if base.endswith(_PATH) else base.rstrip("/") + _PATH
    if not url or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # no host or port that can be read
        usable = False
    if not usable:
        raise ConfigurationError(f"expected a trace endpoint such as http://collector:4318, got {url!r}")
    return url


def _exporter(url: str) -> "SpanExporter":
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    session = None
    if _is_loopback(urlsplit(url).hostname or ""):
        session = requests.Session()
        session.trust_env = False  # a proxy from the environment would look for the collector on its own host
    return OTLPSpanExporter(url, session=session)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _attributes(record: Record) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "tidegate.request.id": clean(record.request_id),
        "tidegate.protocol": record.protocol,
        "tidegate.asked": clean(record.asked),
        "tidegate.model.name": clean(record.model),
        "tidegate.model.version": clean(record.version),
        "tidegate.batch.samples": record.batch_samples,
    }
    if record.protocol.endswith("grpc"):
        attributes |= {
            "rpc.system": "grpc",
            "rpc.grpc.status_code": grpc.StatusCode[record.grpc_code].value[0],
            "rpc.response.status_code": record.grpc_code,  # which newer conventions put in its place
        }
    else:
        attributes |= {"http.request.method": "POST", "http.response.status_code": record.status}
    if record.client:
        attributes["client.address"] = clean(record.client)
    if record.status >= 500:
        attributes["error.type"] = record.grpc_code if record.protocol.endswith("grpc") else str(record.status)
    return attributes
