"""The real Prometheus scrapes a real exporter of our metrics' names, and answers every query of the dashboard."""

import math
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, start_http_server
from prometheus_client.registry import Collector

from monitoring.dashboard import queries_of
from monitoring.inventory import used_metrics
from monitoring.overview import overview
from monitoring.prometheus import command, find_binary, write_configuration
from monitoring.rulebook import rule_groups

pytestmark = pytest.mark.integration

DEADLINE_S = 60
QUERIES = list(queries_of(overview()))
MODELS = {"digits": 5, "idle": 0}  # requests between two scrapes
BINS = {"00": 0.25, "01": 0.5, "02": 0.25}
LABELS = {"seven": 0.6, "nine": 0.4, "other": 0.0, "missing": 0.0}


class Gateway(Collector):
    """Serves the gateway's metrics; every scrape finds a little more traffic, so rates don't depend on timing."""

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(self)  # first of all, so that it counts before the others are read
        by = ("model", "version")
        self.requests = Counter("gateway_requests_total", "n", (*by, "protocol", "code"), registry=registry)
        self.duration = Histogram("gateway_request_duration_seconds", "s", (*by, "protocol"), registry=registry)
        self.stage = Histogram("gateway_stage_duration_seconds", "s", ("model", "stage"), registry=registry)
        self.inflight = Gauge("gateway_inflight_requests", "n", ("model",), registry=registry)
        self.batch = Histogram("gateway_batch_size", "n", ("model",), registry=registry)
        self.shed = Counter("gateway_shed_total", "n", ("model", "reason"), registry=registry)
        self.attempts = Counter("gateway_upstream_attempts_total", "n", ("model",), registry=registry)
        self.retries = Counter("gateway_upstream_retries_total", "n", ("model",), registry=registry)
        self.upstream = Gauge("gateway_upstream_up", "1 when Triton answers", registry=registry)
        Gauge("gateway_contract_errors", "versions whose contract can't be read", registry=registry)
        self.bins = Counter("inference_feature_bin_total", "n", (*by, "feature", "bin", "tail"), registry=registry)
        self.predictions = Counter("inference_prediction_total", "n", (*by, "label"), registry=registry)
        info = Gauge("model_info", "1", (*by, "task"), registry=registry)
        ratio = Gauge("inference_feature_reference_ratio", "q", (*by, "feature", "bin", "tail"), registry=registry)
        samples = Gauge("inference_feature_reference_samples", "M", (*by, "feature"), registry=registry)
        objectives = {
            "model_slo_latency_threshold_seconds": 0.1,
            "model_slo_latency_objective_ratio": 0.99,
            "model_slo_availability_objective_ratio": 0.999,
        }
        slo = {Gauge(name, "objective", by, registry=registry): value for name, value in objectives.items()}
        self.upstream.set(1)
        for model in MODELS:
            info.labels(model, "1", "classification").set(1)
            for gauge, value in slo.items():
                gauge.labels(model, "1").set(value)
            for feature, shares in (("brightness", BINS), ("prediction", LABELS)):
                samples.labels(model, "1", feature).set(1_000)
                for name, share in shares.items():
                    ratio.labels(model, "1", feature, name, "").set(share)
            self.count(model, 0)

    def collect(self) -> Iterable[Metric]:
        for model, num_requests in MODELS.items():
            self.count(model, num_requests)
        return []

    def count(self, model: str, num_requests: int) -> None:
        """Touch every label set, and count some requests of 40 rows."""
        for code, share in (("200", 0.6), ("400", 0.2), ("500", 0.2)):
            self.requests.labels(model, "1", "predict", code).inc(share * num_requests)
        duration, batch = self.duration.labels(model, "1", "predict"), self.batch.labels(model)
        stages = [self.stage.labels(model, s) for s in ("admit", "preprocess", "queue", "upstream", "postprocess")]
        for _ in range(num_requests):
            duration.observe(0.04)
            batch.observe(40)
            for stage in stages:
                stage.observe(0.008)
        self.inflight.labels(model).set(2)
        self.attempts.labels(model).inc(num_requests)
        self.retries.labels(model).inc(num_requests)
        for reason in ("capacity", "deadline"):
            self.shed.labels(model, reason).inc(num_requests)
        for name in BINS:
            self.bins.labels(model, "1", "brightness", name, "").inc(40 * num_requests / len(BINS))
        for label, share in LABELS.items():
            self.predictions.labels(model, "1", label).inc(40 * num_requests * share)


class Triton(Collector):
    """Serves Triton's metrics, whose counters carry no `_total`: so they are gauges to the Python client."""

    NAMES = (
        "nv_inference_request_success",
        "nv_inference_request_failure",
        "nv_inference_count",
        "nv_inference_exec_count",
        "nv_inference_queue_duration_us",
        "nv_inference_compute_infer_duration_us",
        "nv_inference_pending_request_count",
    )

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(self)
        self.gauges = [Gauge(name, "n", ("model", "version"), registry=registry) for name in self.NAMES]

    def collect(self) -> Iterable[Metric]:
        for gauge in self.gauges:
            for model, num_requests in MODELS.items():
                gauge.labels(model, "1").inc(num_requests)
        return []


class Client:
    """Asks a Prometheus at a port of this machine."""

    def __init__(self, port: int, http: httpx.Client) -> None:
        self.root, self.http = f"http://127.0.0.1:{port}", http

    def get(self, path: str, **parameters: str) -> Any:
        answer = self.http.get(f"{self.root}/api/v1/{path}", params=parameters)
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body.get('error')}"
        return body["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.get("query", query=expr)["result"]
        return result

    def is_ready(self) -> bool:
        try:
            return self.http.get(f"{self.root}/-/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("prometheus")
    with exporter(Gateway) as gateway, exporter(Triton) as triton, httpx.Client(timeout=10) as http:
        config = write_configuration(
            folder,
            gateways=[f"127.0.0.1:{gateway}"],
            tritons=[f"127.0.0.1:{triton}"],
            scrape_interval_s=1,
            drift_interval_s=1,
        )
        port = free_port()
        line = command(find_binary("prometheus"), config, folder / "data", f"127.0.0.1:{port}")
        client = Client(port, http)
        with (folder / "prometheus.log").open("w+") as log, running(line, log):
            try:
                wait_until(client.is_ready, "Prometheus is ready")
                wait_until(lambda: has_data(client), "targets are up and all rules have data")
            except TimeoutError as exc:
                log.seek(0)
                raise AssertionError(f"{exc}: {log.read()[-2000:]}") from exc
            yield client


@contextmanager
def exporter(kind: Callable[[CollectorRegistry], Collector]) -> Iterator[int]:
    registry = CollectorRegistry()
    kind(registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


@contextmanager
def running(line: list[str], log: Any) -> Iterator[None]:
    process = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def has_data(client: Client) -> bool:
    """Both targets are up and every rule has recorded; drift comes last, since it waits for enough samples."""
    rules = {rule["name"] for rule in client.rules()}
    return len(client.query("up == 1")) == 2 and all(client.query(name) for name in rules)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {DEADLINE_S} s: {what}")
        pause.wait(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_both_jobs_are_up(prometheus: Client) -> None:
    targets = prometheus.get("targets")["activeTargets"]

    assert {target["labels"]["job"]: target["health"] for target in targets} == {"gateway": "up", "triton": "up"}


def test_every_rule_runs_and_records_something(prometheus: Client) -> None:
    rules = prometheus.rules()

    assert {rule["name"] for rule in rules} == {rule.record for group in rule_groups() for rule in group.rules}
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
    assert [rule["name"] for rule in rules if not prometheus.query(rule["name"])] == []


@pytest.mark.parametrize(
    ("title", "expr"), QUERIES, ids=[f"{number}-{title}" for number, (title, _) in enumerate(QUERIES)]
)
def test_every_query_of_the_dashboard_gives_numbers(prometheus: Client, title: str, expr: str) -> None:
    result = prometheus.query(expr.replace("$model", ".*").replace("$version", ".*"))

    assert result, f"{title}: no data for {expr}"
    assert all(math.isfinite(float(sample["value"][1])) for sample in result)


def test_variables_list_the_models(prometheus: Client) -> None:
    assert prometheus.get("label/model/values", **{"match[]": "model_info"}) == ["digits", "idle"]
    assert prometheus.get("label/version/values", **{"match[]": 'model_info{model=~"digits"}'}) == ["1"]


def test_every_used_metric_is_scraped(prometheus: Client) -> None:
    assert used_metrics() - set(prometheus.get("label/__name__/values")) == set()


def test_a_model_without_traffic_has_ratio_zero_and_no_latency(prometheus: Client) -> None:
    (idle,) = prometheus.query('model_version:gateway_requests_5xx:ratio_rate5m{model="idle"}')
    (busy,) = prometheus.query('model_version:gateway_requests_5xx:ratio_rate5m{model="digits"}')

    assert float(idle["value"][1]) == 0
    assert float(busy["value"][1]) == pytest.approx(0.2)
    latency = "model_version_quantile:gateway_request_duration_seconds:histogram_quantile_rate5m"
    assert {sample["metric"]["model"] for sample in prometheus.query(latency)} == {"digits"}


def test_predicted_classes_match_the_reference(prometheus: Client) -> None:
    psi = 'model_version_feature:inference_feature_bin:psi_increase1h{feature="prediction"}'
    (prediction,) = prometheus.query(psi)

    assert float(prediction["value"][1]) == pytest.approx(0, abs=1e-3)


def test_nothing_recorded_is_ever_nan(prometheus: Client) -> None:
    samples = prometheus.query('{__name__=~".+:.+:.+"}')

    assert len(samples) > len(prometheus.rules())
    assert [sample for sample in samples if not math.isfinite(float(sample["value"][1]))] == []


def test_it_can_be_neither_reloaded_nor_stopped_over_http(prometheus: Client) -> None:
    for path in ("/-/reload", "/-/quit", "/api/v1/admin/tsdb/snapshot"):
        assert prometheus.http.post(prometheus.root + path).is_error
    assert prometheus.is_ready()
