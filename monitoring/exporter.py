"""`python -m monitoring.exporter`: the fast lane, which finds a shift at high rates long before the windows do.

It reads the counters in Prometheus minute by minute, keeps an e-detector for each feature, and exports its evidence.
All of its state follows from those counters: it is read anew at start, written nowhere, and two instances agree. When
it isn't there nothing else misses it; when it falls behind, an alert says so.
"""

import argparse
import ipaddress
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

import numpy as np
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from monitoring.detector import HORIZON, STEP_S, Cell, Counts, Detector
from monitoring.error import QueryFailed
from monitoring.fast_lane import EVIDENCE, SAMPLES, TIMESTAMP
from monitoring.increment import Increments, Key, read_references
from monitoring.query import TIMEOUT_S, URL, Client

log = logging.getLogger(__name__)

LISTEN = "127.0.0.1:9098"  # upwards of 8082 are the metrics of further gateway processes
DELAY_S = 30  # after which a minute's scrapes are in Prometheus
_SEGMENT = 10  # steps that go by the same references, and are read at once
_RETRY_S = 5.0


class FastLane(Collector):
    """The detectors of every watched feature, and how far in time they have come."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._increments = Increments(client)
        self._detectors: dict[Key, Detector] = {}
        self._evidence: dict[Key, tuple[float, int]] = {}
        self._step = self._begun = -1  # up to which counters were read, and at which a chain began last
        self._shown: tuple[int, dict[Key, tuple[float, int]]] | None = None

    def advance(self, now: float) -> None:
        """Take in all that is known at a Unix time; raises QueryFailed, and goes on from there when called again."""
        target = int((now - DELAY_S) // STEP_S)
        start = (target // HORIZON - 1) * HORIZON  # the older chain's first step
        if self._step < start:
            self._detectors.clear()
            self._evidence.clear()
            self._step = start
        while self._step < target:
            if self._step % HORIZON == 0 and self._begun != self._step:
                self._begin()
            end = min(self._step - self._step % _SEGMENT + _SEGMENT, target)
            self._take(self._step, end)
            self._step = end
        self._shown = target, dict(self._evidence)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what the last whole minute came to."""
        labels = ("model", "version", "feature")
        evidence = GaugeMetricFamily(
            EVIDENCE, "log10 of the minutes that it takes at least, without drift, to see as much.", None, labels
        )
        samples = GaugeMetricFamily(SAMPLES, "Samples behind the evidence.", None, labels)
        stamp = GaugeMetricFamily(TIMESTAMP, "The minute up to which counters have been read.")
        if self._shown is not None:
            step, shown = self._shown
            stamp.add_metric((), step * STEP_S)
            for key, (value, num) in shown.items():
                if num:
                    evidence.add_metric(key, value)
                    samples.add_metric(key, num)
        yield from (evidence, samples, stamp)

    def _take(self, step: int, end: int) -> None:
        """Read the steps after `step` up to `end`, all of one segment, and update every detector."""
        references = read_references(self._client, step - step % _SEGMENT)
        counts = self._increments.read(step + 1, end)
        for key in self._detectors.keys() - references.keys():
            del self._detectors[key], self._evidence[key]  # retired
        for key, reference in references.items():
            detector = self._detectors.setdefault(key, Detector(reference))
            detector.renew(reference)
            evidence = detector.update(_columns(reference.cells, counts.get(key, {}), end - step))
            self._evidence[key] = float(evidence[-1]), detector.num_samples

    def _begin(self) -> None:
        """Begin a chain at this step."""
        self._increments.begin(self._step)
        for detector in self._detectors.values():
            detector.rotate()
        self._begun = self._step


def _columns(cells: Sequence[Cell], counts: dict[Cell, Counts], num_steps: int) -> Counts:
    """Counts `[cells, steps]`; a cell that the reference hasn't is none of them."""
    none = np.zeros(num_steps, np.int64)
    return np.stack([counts.get(cell, none) for cell in cells])


def run(lane: FastLane) -> NoReturn:
    """Advance once a minute; what can't be read now is read later."""
    while True:
        now = time.time()
        try:
            lane.advance(now)
            wait_s = STEP_S - (now - DELAY_S) % STEP_S
        except QueryFailed as exc:
            log.warning("%s; trying again in %g s", exc, _RETRY_S)
            wait_s = _RETRY_S
        time.sleep(wait_s)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the evidence until told to end."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.exporter", description="The fast lane of drift.")
    parser.add_argument("--prometheus", default=URL, help="address of Prometheus")
    parser.add_argument("--listen", default=LISTEN, help="host:port that Prometheus scrapes this at")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds to wait for each answer")
    options = parser.parse_args(arguments)
    host, _, port = options.listen.rpartition(":")
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        parser.error(f"expected --listen ip:port, got {options.listen!r}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every question

    def end(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit()  # amid whatever it reads: nothing is to be finished

    for which in (signal.SIGTERM, signal.SIGINT):
        signal.signal(which, end)
    registry = CollectorRegistry()
    with Client(options.prometheus, options.timeout) as client:
        lane = FastLane(client)
        registry.register(lane)
        try:
            server, thread = start_http_server(number, host, registry)
        except OSError as exc:
            sys.exit(f"{options.listen} can't be had ({exc.strerror}): end what uses it, or choose another by --listen")
        log.info("evidence of %s at http://%s/metrics", options.prometheus, options.listen)
        try:
            run(lane)
        finally:
            server.shutdown()
            server.server_close()
            thread.join(timeout=_RETRY_S)


if __name__ == "__main__":
    main()
