"""The real Prometheus and the real Alertmanager tell a webhook that inputs have shifted; in seconds, not in hours."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.alertmanager import ALERTMANAGER_FILE, alertmanager_command, alertmanager_configuration
from monitoring.drift import Window
from monitoring.file import write_texts
from monitoring.prometheus import CONFIG_FILE, command, configuration, find_binary
from monitoring.rulebook import ALERTS_FILE, RULES_FILE, alerts_text, rules_text
from tests.port import free_ports

pytestmark = pytest.mark.integration

DEADLINE_S = 60
WINDOWS = (Window(range="5s", floor=0.02, downsampled=False),)
REFERENCE = {"00": 0.25, "07": 0.25, "13": 0.25, "19": 0.25}
SHIFTED = {"00": 0.10, "07": 0.15, "13": 0.25, "19": 0.50}


class Gateway(Collector):
    """Exports one feature's bins; every scrape finds 500 samples more, of the traffic as it is now."""

    def __init__(self) -> None:
        self.traffic = REFERENCE
        self.counts = dict.fromkeys(REFERENCE, 0.0)

    def collect(self) -> Iterable[Metric]:
        of = ("model", "version", "feature", "bin")
        bins = CounterMetricFamily("inference_feature_bin", "n", None, of)
        ratio = GaugeMetricFamily("inference_feature_reference_ratio", "q", None, of)
        samples = GaugeMetricFamily("inference_feature_reference_samples", "M", None, of[:3])
        samples.add_metric(("m", "1", "brightness"), 10_000)
        for name, share in self.traffic.items():
            self.counts[name] += 500 * share
            bins.add_metric(("m", "1", "brightness", name), self.counts[name])
            ratio.add_metric(("m", "1", "brightness", name), REFERENCE[name])
        return bins, ratio, samples


class Webhook:
    """Remembers what was posted: path, and the alerts in it."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, Any]]] = []

    def received(self, alertname: str) -> list[tuple[str, dict[str, Any]]]:
        return [post for post in list(self.posts) if post[1]["labels"]["alertname"] == alertname]


def test_a_shift_of_the_inputs_reaches_the_models_team_and_nothing_does_before(tmp_path: Path) -> None:
    gateway, webhook = Gateway(), Webhook()
    with ExitStack() as stack:
        exporter = stack.enter_context(exporting(gateway))
        bell = stack.enter_context(listening(webhook))
        prometheus, alertmanager = free_ports(2)
        write_texts(
            tmp_path,
            {
                CONFIG_FILE: configuration(
                    [f"127.0.0.1:{exporter}"], [], scrape_interval_s=1, alertmanagers=[f"127.0.0.1:{alertmanager}"]
                ),
                RULES_FILE: rules_text(slow_interval_s=1, drift_windows=WINDOWS),
                ALERTS_FILE: alerts_text(drift_windows=WINDOWS, drift_pending="1s"),
                ALERTMANAGER_FILE: alertmanager_configuration(
                    f"http://127.0.0.1:{bell}", group_wait="1s", group_interval="1s"
                ),
            },
        )
        lines = {
            "alertmanager": alertmanager_command(
                find_binary("prometheus-alertmanager"),
                tmp_path / ALERTMANAGER_FILE,
                tmp_path / "alertmanager",
                f"127.0.0.1:{alertmanager}",
            ),
            "prometheus": [
                *command(
                    find_binary("prometheus"), tmp_path / CONFIG_FILE, tmp_path / "data", f"127.0.0.1:{prometheus}"
                ),
                "--rules.alert.resend-delay=1s",  # what fires before it has found the Alertmanager is lost for so long
            ],
        }
        logs = [stack.enter_context(running(line, tmp_path / f"{name}.log")) for name, line in lines.items()]

        wait_until(lambda: webhook.received("Watchdog"), "the watchdog is heard", logs)
        wait_until(lambda: sum(gateway.counts.values()) > 2_500, "five scrapes of traffic like the reference", logs)
        assert webhook.received("FeatureDrift") == []

        gateway.traffic = SHIFTED
        wait_until(lambda: webhook.received("FeatureDrift"), "the drift is told", logs)

    path, alert = webhook.received("FeatureDrift")[0]
    assert path == "/model/warning"
    assert alert["status"] == "firing"
    assert alert["labels"].items() >= {"model": "m", "version": "1", "feature": "brightness", "team": "model"}.items()
    assert alert["annotations"]["summary"].startswith("m version 1: the input brightness has drifted, z = ")
    assert webhook.received("Watchdog")[0][0] == "/watchdog"


@contextmanager
def exporting(collector: Collector) -> Iterator[int]:
    registry = CollectorRegistry()
    registry.register(collector)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    with stopping(server, thread):
        yield server.server_port


@contextmanager
def listening(webhook: Webhook) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["content-length"])))
            webhook.posts += [(self.path, alert) for alert in document["alerts"]]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing: what came is in `posts`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with stopping(server, thread):
        yield server.server_port


@contextmanager
def stopping(server: Any, thread: threading.Thread) -> Iterator[None]:
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


@contextmanager
def running(line: list[str], log: Path) -> Iterator[Path]:
    with log.open("wb") as file:
        process = subprocess.Popen(line, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield log
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(holds: Callable[[], object], what: str, logs: Sequence[Path]) -> None:
    deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while not holds():
        if time.monotonic() > deadline:
            said = "\n".join(log.read_text()[-1000:] for log in logs)
            raise AssertionError(f"not within {DEADLINE_S} s: {what}\n{said}")
        pause.wait(0.1)
