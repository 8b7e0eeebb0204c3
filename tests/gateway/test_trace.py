"""Against a collector that speaks OTLP over HTTP, in this process."""

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from gateway.error import ConfigurationError
from gateway.log import Record
from gateway.trace import Span, Tracer, create_tracer

CHECKOUT = Path(__file__).parents[2]
START_S = 1_767_225_600.0
START_NS = 1_767_225_600_000_000_000
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=opaque"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-00"}


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths: list[str] = []
        self.requests: list[ExportTraceServiceRequest] = []
        self.hung = threading.Event()
        self.hung.set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self) -> dict[str, ProtoSpan]:
        """The spans by name."""
        groups = [group for request in self.requests for group in request.resource_spans]
        found = [span for group in groups for scope in group.scope_spans for span in scope.spans]
        assert len({span.name for span in found}) == len(found)
        return {span.name: span for span in found}


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:  # http.server names it
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.paths.append(self.path)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.server.hung.wait(30)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.hung.set()
        server.shutdown()
        thread.join(10)


def tracer_to(endpoint: str | None, ratio: float = 1, environ: Mapping[str, str] | None = None) -> Tracer:
    return create_tracer(endpoint, "tidegate-gateway", ratio, environ=environ or {})


def record(**fields: Any) -> Record:
    known: dict[str, Any] = {
        "time_unix_s": START_S,
        "request_id": "r1",
        "protocol": "v2_http",
        "asked": "tiny",
        "model": "tiny",
        "version": "3",
        "status": 200,
        "grpc_code": "OK",
        "duration_ms": 10.0,
        "stages": {"admit": 1.0, "preprocess": 0.0, "queue": 2.0, "upstream": 6.5, "postprocess": 0.5},
        "batch_samples": 4,
    }
    return Record(**(known | fields))


def started(tracer: Tracer, headers: Mapping[str, str], name: str = "v2_http") -> Span:
    span = tracer.start(headers, name, START_S)
    assert span is not None
    return span


def attributes(span: ProtoSpan) -> dict[str, Any]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


def test_a_request_becomes_a_span_with_its_stages_end_to_end(collector: Collector) -> None:
    tracer = tracer_to(collector.endpoint)
    assert tracer.enabled
    finished = tracer.finish(started(tracer, SAMPLED), record(client="10.0.0.7"))
    tracer.shutdown(10)

    spans = collector.spans
    server = spans["v2_http"]
    assert finished.trace_id == TRACE
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert server.parent_span_id.hex() == CALLER
    assert server.trace_state == "vendor=opaque"
    assert server.kind == ProtoSpan.SPAN_KIND_SERVER
    assert server.status.code == Status.STATUS_CODE_UNSET
    assert (server.start_time_unix_nano, server.end_time_unix_nano) == (START_NS, START_NS + 10_000_000)
    assert attributes(server) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "client.address": "10.0.0.7",
        "tidegate.request.id": "r1",
        "tidegate.protocol": "v2_http",
        "tidegate.asked": "tiny",
        "tidegate.model.name": "tiny",
        "tidegate.model.version": "3",
        "tidegate.batch.samples": 4,
    }
    stages = {name: span for name, span in spans.items() if span is not server}
    assert {span.parent_span_id for span in stages.values()} == {server.span_id}
    assert {
        name: (span.start_time_unix_nano - START_NS, span.end_time_unix_nano - START_NS)
        for name, span in stages.items()
    } == {
        "admit": (0, 1_000_000),
        "queue": (1_000_000, 3_000_000),
        "upstream": (3_000_000, 9_500_000),
        "postprocess": (9_500_000, 10_000_000),
    }
    assert stages["upstream"].kind == ProtoSpan.SPAN_KIND_CLIENT
    (resource,) = {group.resource.SerializeToString() for one in collector.requests for group in one.resource_spans}
    assert b"tidegate-gateway" in resource


@pytest.mark.parametrize(("status", "code"), [(404, Status.STATUS_CODE_UNSET), (504, Status.STATUS_CODE_ERROR)])
def test_only_our_own_faults_are_errors(collector: Collector, status: int, code: int) -> None:
    tracer = tracer_to(collector.endpoint)
    tracer.finish(started(tracer, {}), record(status=status, stages={}, error="why\n\ud800"))
    tracer.shutdown(10)
    span = collector.spans["v2_http"]
    assert span.status.code == code
    assert attributes(span)["http.response.status_code"] == status
    assert attributes(span).get("error.type") == ("504" if status == 504 else None)
    assert span.status.message == (r"why\n\ud800" if status == 504 else "")


def test_grpc_has_names_of_its_own(collector: Collector) -> None:
    tracer = tracer_to(collector.endpoint)
    failed = record(protocol="v2_grpc", status=503, grpc_code="UNAVAILABLE", stages={})
    tracer.finish(started(tracer, {}), failed)
    tracer.shutdown(10)
    said = attributes(collector.spans["v2_http"])
    assert said["rpc.system"] == "grpc"
    assert said["rpc.grpc.status_code"] == 14
    assert said["rpc.response.status_code"] == said["error.type"] == "UNAVAILABLE"
    assert not any(name.startswith("http.") for name in said)


def test_what_a_client_chose_never_costs_its_neighbours_their_spans(collector: Collector) -> None:
    tracer = tracer_to(collector.endpoint)
    tracer.finish(started(tracer, {}, "no text: \ud800"), record(asked="\udfff\n", stages={}))
    tracer.finish(started(tracer, {}, "neighbour"), record(stages={}))
    tracer.shutdown(10)
    assert set(collector.spans) == {r"no text: \ud800", "neighbour"}


@pytest.mark.parametrize(
    ("headers", "ratio", "traced"),
    [
        ({}, 0, False),
        ({}, 1, True),
        (SAMPLED, 0, True),
        (UNSAMPLED, 1, False),
        ({"traceparent": "nonsense"}, 0, False),
        ({"traceparent": "nonsense"}, 1, True),
        ({"traceparent": f"00-{'0' * 32}-{CALLER}-01"}, 0, False),
        ({"traceparent": f"ff-{TRACE}-{CALLER}-01"}, 0, False),
        (SAMPLED | {"tracestate": "=,\u2028" * 10_000}, 0, True),
    ],
)
def test_the_caller_decides_and_without_one_the_ratio(
    collector: Collector, caplog: pytest.LogCaptureFixture, headers: Mapping[str, str], ratio: float, traced: bool
) -> None:
    tracer = tracer_to(collector.endpoint, ratio)
    assert (tracer.start(headers, "v2_http", START_S) is not None) == traced
    tracer.shutdown(10)
    assert not caplog.records, "who sends nonsense can't fill the log"


def test_a_batch_carries_the_first_context_and_links_the_others(collector: Collector) -> None:
    tracer = tracer_to(collector.endpoint)
    first, second = started(tracer, SAMPLED, "first"), started(tracer, {}, "second")
    metadata = dict(tracer.upstream_metadata([None, first, None, second]))
    for span in (first, second):
        tracer.finish(span, record(stages={}))
    alone, other = started(tracer, {}, "alone"), started(tracer, {}, "other")
    tracer.upstream_metadata([alone, other])
    tracer.finish(alone, record(stages={"upstream": 1.0}))
    tracer.shutdown(10)

    spans = collector.spans
    assert metadata["traceparent"].split("-")[1:3] == [TRACE, spans["first"].span_id.hex()]
    assert int(metadata["traceparent"].split("-")[3], 16) & 1
    assert metadata["tracestate"] == "vendor=opaque"
    (link,) = spans["upstream"].links
    assert link.span_id == other.context.span_id.to_bytes(8, "big")
    assert [context.span_id for context in other.linked] == [alone.context.span_id]


def test_a_call_for_nobody_traced_has_no_metadata(collector: Collector) -> None:
    tracer = tracer_to(collector.endpoint)
    assert tracer.upstream_metadata([None, None]) == []
    tracer.shutdown(10)


def test_a_proxy_is_not_asked_for_a_collector_on_this_host(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    tracer = tracer_to(collector.endpoint)
    tracer.finish(started(tracer, {}), record(stages={}))
    tracer.shutdown(10)
    assert "v2_http" in collector.spans


def test_a_collector_that_hangs_holds_the_end_up_no_longer_than_it_may(collector: Collector) -> None:
    collector.hung.clear()
    tracer = tracer_to(collector.endpoint)
    tracer.finish(started(tracer, {}), record(stages={}))
    tracer.shutdown(0.1)
    assert "trace-shutdown" in {thread.name for thread in threading.enumerate()}, "it goes on without us"


@pytest.mark.parametrize(
    ("endpoint", "variable", "path"),
    [
        ("", None, "/v1/traces"),
        ("/", None, "/v1/traces"),
        ("/base/v1/traces", None, "/base/v1/traces"),
        ("/base", "OTEL_EXPORTER_OTLP_ENDPOINT", "/base/v1/traces"),
        ("/own", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/own"),
    ],
)
def test_the_endpoint_comes_from_the_setting_or_the_standard_variables(
    collector: Collector, endpoint: str, variable: str | None, path: str
) -> None:
    url = collector.endpoint + endpoint
    tracer = tracer_to(url) if variable is None else tracer_to(None, environ={variable: url})
    tracer.finish(started(tracer, {}), record(stages={}))
    tracer.shutdown(10)
    assert collector.paths == [path]


@pytest.mark.parametrize("environ", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1", "OTEL_SDK_DISABLED": "true"}])
def test_without_an_endpoint_nothing_happens(environ: Mapping[str, str]) -> None:
    tracer = tracer_to(None, environ=environ)
    assert not tracer.enabled
    assert tracer.start(SAMPLED, "v2_http", START_S) is None
    assert tracer.upstream_metadata([None]) == []
    tracer.shutdown(0)


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://collector", "http://", "http://[::1", "http://x:port"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="such as http://collector:4318, got"):
        tracer_to(endpoint)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_that_is_none_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigurationError, match="from 0 to 1"):
        tracer_to("http://127.0.0.1:1", ratio)


def in_another_process(code: str) -> str:
    command = [sys.executable, "-c", "import sys\nfrom gateway.trace import create_tracer\n" + code]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True).stdout


def test_nothing_is_imported_until_it_is_needed() -> None:
    code = """
create_tracer(None, "x", 1, environ={})
print([name for name in sys.modules if name.startswith("opentelemetry.sdk")])
"""
    assert in_another_process(code) == "[]\n"


@pytest.mark.parametrize("missing", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http", "requests"])
def test_a_package_that_is_not_installed_is_one_sentence(missing: str) -> None:
    code = f"""
sys.modules[{missing!r}] = None
try:
    create_tracer("http://127.0.0.1:1", "x", 1, environ={{}})
except Exception as exc:
    print(type(exc).__name__, exc)
"""
    said = in_another_process(code)
    assert said.startswith("ConfigurationError a trace endpoint is set, but ")
    assert "pip install 'tidegate[tracing]'" in said
    assert said.count("\n") == 1
