"""The real Prometheus scrapes a real exporter of our metrics' names, and answers every query of every board."""

import math
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

from monitoring.boardbook import board_texts
from monitoring.dispersion import GROUP, GROUP_SAMPLES, dispersion_group
from monitoring.fast_lane import EVIDENCE, SAMPLES, TIMESTAMP
from monitoring.inventory import optional_metrics, used_metrics
from monitoring.prometheus import command, find_binary, write_configuration
from monitoring.question import bound, queries_of, selectors_of
from monitoring.rulebook import rule_groups
from tests.port import free_ports

pytestmark = pytest.mark.integration

SLOW = {rule.record for rule in dispersion_group().rules if rule.record not in (GROUP, GROUP_SAMPLES)}
DEADLINE_S = 60
BOARDS = {name.removesuffix(".json"): text for name, text in board_texts().items()}
QUERIES = [(f"{name}: {where}", expr) for name, text in BOARDS.items() for where, expr in queries_of(text)]
CHOSEN = {"model": "digits", "version": "1", "feature": "brightness", "route": "digits"}
MODELS = {("digits", "1"): 100, ("digits", "2"): 200, ("idle", "1"): 0}  # requests between two scrapes
BINS = {("00", "1"): 0.25, ("07", ""): 0.5, ("19", "1"): 0.25, ("missing", ""): 0.0}
DRIFTED = {"00": 0.5, "07": 0.3, "19": 0.1, "missing": 0.1}  # brightness, so that a drift alert has a time of onset
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
        self.bins = Counter("inference_feature_bin_total", "n", (*by, "feature", "bin", "tail"), registry=registry)
        self.predictions = Counter("inference_prediction_total", "n", (*by, "label"), registry=registry)
        self.matrix = Counter("inference_feedback_total", "n", (*by, "predicted", "actual"), registry=registry)
        self.feedback = Counter("inference_feedback_confidence_total", "n", (*by, "bin", "correct"), registry=registry)
        self.route = Counter("gateway_route_total", "n", ("route", "target", "kind"), registry=registry)
        self.shadow = Counter("gateway_shadow_requests_total", "n", ("route", "target", "result"), registry=registry)
        self.top1 = Counter("gateway_shadow_top1_total", "n", ("route", "target", "result"), registry=registry)
        self.uncounted = Counter("gateway_observation_errors_total", "n", ("model",), registry=registry)
        Counter("gateway_upstream_retry_budget_exhausted_total", "n", registry=registry)
        Gauge("gateway_contract_errors", "versions whose contract can't be read", registry=registry)
        Gauge("gateway_upstream_up", "1 when Triton answers", registry=registry).set(1)
        Gauge("gateway_route_config_in_force", "1 when it is", registry=registry).set(1)
        Gauge("gateway_api_keys_in_force", "1 when they are", registry=registry).set(1)
        Gauge("gateway_upstream_breaker_state", "n", ("endpoint",), registry=registry).labels("t:8001").set(0)
        Gauge("gateway_upstream_pending", "n", ("endpoint",), registry=registry).labels("t:8001").set(2)
        Counter("gateway_upstream_ejections_total", "n", ("endpoint",), registry=registry).labels("t:8001")
        Counter("gateway_upstream_failovers_total", "n", registry=registry)
        self.edits = Counter("gateway_route_reloads_total", "n", ("result",), registry=registry)
        pair = ("route", "target")
        self.shadow_took = Histogram("gateway_shadow_duration_seconds", "s", pair, registry=registry)
        self.shadow_error = Histogram("gateway_shadow_max_error", "n", pair, registry=registry)
        info = Gauge("model_info", "1", (*by, "task"), registry=registry)
        ratio = Gauge("inference_feature_reference_ratio", "q", (*by, "feature", "bin", "tail"), registry=registry)
        samples = Gauge("inference_feature_reference_samples", "M", (*by, "feature"), registry=registry)
        right = Gauge("inference_confidence_accuracy_ratio", "right", (*by, "bin"), registry=registry)
        facts = {
            "model_slo_latency_threshold_seconds": 0.1,
            "model_slo_latency_objective_ratio": 0.99,
            "model_slo_availability_objective_ratio": 0.999,
            "model_evaluation_accuracy_ratio": 0.95,
            "model_evaluation_samples": 1_000,
            "model_created_timestamp_seconds": time.time(),
        }
        gauges = {Gauge(name, "of the contract", by, registry=registry): value for name, value in facts.items()}
        for version in MODELS:
            info.labels(*version, "classification").set(1)
            for gauge, value in gauges.items():
                gauge.labels(*version).set(value)
            for feature in ("brightness", "confidence", "prediction"):
                samples.labels(*version, feature).set(1_000)
            for (name, tail), share in BINS.items():
                for feature in ("brightness", "confidence"):
                    ratio.labels(*version, feature, name, tail).set(share)
                right.labels(*version, name).set(share)
            for name, share in LABELS.items():
                ratio.labels(*version, "prediction", name, "").set(share)
            self.count(*version, 0)

    def collect(self) -> Iterable[Metric]:
        for version, num_requests in MODELS.items():
            self.count(*version, num_requests)
        return []

    def count(self, model: str, version: str, num_requests: int) -> None:
        """Touch every label set, and count some requests of 40 rows."""
        by = (model, version)
        for code, share in (("200", 0.6), ("400", 0.2), ("500", 0.2)):
            self.requests.labels(*by, "predict", code).inc(share * num_requests)
        duration, batch = self.duration.labels(*by, "predict"), self.batch.labels(model)
        stages = [self.stage.labels(model, s) for s in ("admit", "preprocess", "queue", "upstream", "postprocess")]
        for _ in range(num_requests):
            duration.observe(0.04)
            batch.observe(40)
            for stage in stages:
                stage.observe(0.008)
        self.inflight.labels(model).set(2)
        self.attempts.labels(model).inc(num_requests)
        self.retries.labels(model).inc(num_requests)
        self.uncounted.labels(model).inc(0)
        self.route.labels(model, f"{model}/{version}", "latest").inc(num_requests)
        for reason in ("capacity", "deadline"):
            self.shed.labels(model, reason).inc(num_requests)
        num_rows = 40 * num_requests
        for (name, tail), share in BINS.items():
            self.bins.labels(*by, "confidence", name, tail).inc(num_rows * share)
            self.bins.labels(*by, "brightness", name, tail).inc(num_rows * DRIFTED[name])
        for label, share in LABELS.items():
            self.predictions.labels(*by, label).inc(num_rows * share)
            self.matrix.labels(*by, label, "seven").inc(num_rows * share)
        for correct, share in (("true", 0.9), ("false", 0.1)):
            self.feedback.labels(*by, "0.9", correct).inc(num_rows * share)
        self.edits.labels("applied").inc(num_requests)
        self.shadow_took.labels(model, f"{model}/{version}").observe(0.01)
        self.shadow_error.labels(model, f"{model}/{version}").observe(0.001)
        for result in ("agreed", "disagreed"):
            self.shadow.labels(model, f"{model}/{version}", result).inc(num_rows)
        for result in ("same", "different"):
            self.top1.labels(model, f"{model}/{version}", result).inc(num_rows)


class Triton(Collector):
    """Serves Triton's metrics, whose counters carry no `_total`: so they are gauges to the Python client."""

    NAMES = (
        "nv_inference_request_success",
        "nv_inference_count",
        "nv_inference_exec_count",
        "nv_inference_queue_duration_us",
        "nv_inference_compute_input_duration_us",
        "nv_inference_compute_infer_duration_us",
        "nv_inference_compute_output_duration_us",
        "nv_inference_pending_request_count",
    )

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(self)
        by = ("model", "version")
        self.gauges = [Gauge(name, "n", by, registry=registry) for name in self.NAMES]
        self.failure = Gauge("nv_inference_request_failure", "n", (*by, "reason"), registry=registry)
        for name in (name for name in optional_metrics() if name.startswith("DCGM_")):
            Gauge(name, "of a GPU", ("Hostname", "gpu"), registry=registry).labels("node", "0").set(50)

    def collect(self) -> Iterable[Metric]:
        for version, num_requests in MODELS.items():
            for gauge in self.gauges:
                gauge.labels(*version).inc(num_requests)
            self.failure.labels(*version, "BACKEND").inc(num_requests)
        return []


class FastLane(Collector):
    """Serves the metrics of drift's fast lane, as `monitoring.exporter` names them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(self)
        by = ("model", "version", "feature")
        evidence = Gauge(EVIDENCE, "e", by, registry=registry)
        samples = Gauge(SAMPLES, "n", by, registry=registry)
        Gauge(TIMESTAMP, "t", registry=registry).set_to_current_time()
        for version in MODELS:
            for feature in ("brightness", "confidence", "prediction"):
                evidence.labels(*version, feature).set(1)
                samples.labels(*version, feature).set(1_000)

    def collect(self) -> Iterable[Metric]:
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
        return [rule for group in self.get("rules", type="record")["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        exporter(Gateway) as gateway,
        exporter(Triton) as triton,
        exporter(FastLane) as detector,
        httpx.Client(timeout=10) as http,
    ):
        config = write_configuration(
            folder,
            gateways=[f"127.0.0.1:{gateway}"],
            tritons=[f"127.0.0.1:{triton}"],
            detectors=[f"127.0.0.1:{detector}"],
            scrape_interval_s=1,
            slow_interval_s=1,
        )
        (port,) = free_ports(1)
        line = command(find_binary("prometheus"), config, folder / "data", f"127.0.0.1:{port}")
        client = Client(port, http)
        with (folder / "prometheus.log").open("w+") as log, running(line, log):
            try:
                wait_until(client.is_ready, "Prometheus is ready")
                wait_until(lambda: has_data(client), "targets are up and all rules have data")
            except TimeoutError as exc:
                log.seek(0)
                raise AssertionError(f"{exc}: {silent(client)}: {log.read()[-2000:]}") from exc
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
    """All targets are up, every rule has recorded, and drift has been seen; it waits for enough samples."""
    drifted = 'ALERTS{alertname="FeatureDrift"} and on () ALERTS{alertname="Watchdog"}'
    return len(client.query("up == 1")) == 3 and not silent(client) and bool(client.query(drifted))


def silent(client: Client) -> list[str]:
    """Rules that have recorded nothing yet, without those that need two groups of five minutes first."""
    return [name for name in {rule["name"] for rule in client.rules()} - SLOW if not client.query(name)]


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {DEADLINE_S} s: {what}")
        pause.wait(0.1)


def test_all_jobs_are_up(prometheus: Client) -> None:
    targets = prometheus.get("targets")["activeTargets"]
    health = {target["labels"]["job"]: target["health"] for target in targets}

    assert health == dict.fromkeys(("gateway", "triton", "drift"), "up")


def test_every_rule_runs_and_records_something(prometheus: Client) -> None:
    rules = prometheus.rules()

    assert {rule["name"] for rule in rules} == {rule.record for group in rule_groups() for rule in group.rules}
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
    assert silent(prometheus) == []


@pytest.mark.parametrize(("where", "expr"), QUERIES, ids=[f"{i}-{where}" for i, (where, _) in enumerate(QUERIES)])
def test_every_query_of_every_board_gives_numbers(prometheus: Client, where: str, expr: str) -> None:
    result = prometheus.query(bound(expr, **CHOSEN))

    assert result, f"{where}: no data for {expr}"
    assert all(math.isfinite(float(sample["value"][1])) for sample in result)


def test_every_query_of_every_board_gives_numbers_for_all_models(prometheus: Client) -> None:
    for where, expr in QUERIES:
        if '=~"$' in expr:
            assert prometheus.query(bound(expr, **CHOSEN | {"model": ".*", "version": ".*", "route": ".*"})), where


def test_every_variable_has_values(prometheus: Client) -> None:
    for text in BOARDS.values():
        for name, selector in selectors_of(text):
            values = prometheus.get(f"label/{name}/values", **{"match[]": bound(selector, **CHOSEN)})
            assert CHOSEN[name] in values, f"{name} of {selector}"


def test_variables_list_the_models(prometheus: Client) -> None:
    assert prometheus.get("label/model/values", **{"match[]": "model_info"}) == ["digits", "idle"]
    assert prometheus.get("label/version/values", **{"match[]": 'model_info{model=~"digits"}'}) == ["1", "2"]


def test_every_used_metric_is_scraped(prometheus: Client) -> None:
    assert used_metrics() - set(prometheus.get("label/__name__/values")) == set()


def test_a_model_without_traffic_has_ratio_zero_and_no_latency(prometheus: Client) -> None:
    (idle,) = prometheus.query('model_version:gateway_requests_5xx:ratio_rate5m{model="idle"}')
    (busy,) = prometheus.query('model_version:gateway_requests_5xx:ratio_rate5m{model="digits", version="1"}')

    assert float(idle["value"][1]) == 0
    assert float(busy["value"][1]) == pytest.approx(0.2)
    latency = "model_version_quantile:gateway_request_duration_seconds:histogram_quantile_rate5m"
    assert {sample["metric"]["model"] for sample in prometheus.query(latency)} == {"digits"}


def test_predicted_classes_match_the_reference(prometheus: Client) -> None:
    psi = 'model_version_feature:inference_feature_bin:psi_increase1h{feature="prediction", version="1"}'
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
