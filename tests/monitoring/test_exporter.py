"""The fast lane over a real Prometheus: state from its counters alone, the same for whoever reads them, and when."""

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, start_http_server

from bench.drift.backfill import open_metrics, prometheus_of
from bench.drift.evaluator import Labels
from bench.drift.traffic import Distribution, Model, Traffic, simulate
from monitoring.detector import HORIZON, STEP_S, Detector, Reference
from monitoring.error import QueryFailed
from monitoring.exporter import DELAY_S, FastLane
from monitoring.fast_lane import EVIDENCE, SAMPLES, TIMESTAMP
from monitoring.query import Client

pytestmark = pytest.mark.integration

NOW = int(time.time())
BEGINNING = (NOW // (HORIZON * STEP_S) - 2) * HORIZON  # of the older chain, in steps
NUM_STEPS = HORIZON + 240
END = BEGINNING + NUM_STEPS
RESTARTED, LOST, BACK = 500, HORIZON - 10, HORIZON + 15
MODEL = Model.draw(np.random.default_rng(3), 5_000, ordered=2, categorical=1)
TRAFFIC = Traffic(rate=10, shifted=Distribution(location=0.8), shift_at=NUM_STEPS - 60)
CLEAN, LOSSY = "x00", "x01"


@pytest.fixture(scope="module")
def counts() -> list[NDArray[np.int64]]:
    """Of each feature, `[bins, minutes]`; the minute 0 is the one that the counting begins with."""
    found = simulate(MODEL, TRAFFIC, NUM_STEPS + 1, np.random.default_rng(4))
    for each in found:
        each[:, 0] = 0
    return found


@pytest.fixture(scope="module")
def url(counts: list[NDArray[np.int64]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prometheus_of(lines(counts), tmp_path_factory.mktemp("prometheus")) as address:
        yield address


def lines(counts: list[NDArray[np.int64]]) -> Iterator[str]:
    """Two replicas share the traffic; one restarts, and of one feature is lost from sight for 25 minutes."""
    bins: dict[Labels, NDArray[np.float64]] = {}
    ratios: dict[Labels, NDArray[np.float64]] = {}
    samples: dict[Labels, NDArray[np.float64]] = {}
    often = np.ones(NUM_STEPS // 4 + 1)
    for feature, each in zip(MODEL.features, counts, strict=True):
        of = (("model", "m"), ("version", "1"), ("feature", feature.name))
        samples[of] = often * feature.num_samples
        first = each // 2
        for one, half, whole in zip(feature.bins, first, each, strict=True):
            cell = (*of, ("bin", one.id), ("tail", "1" if one.tail else ""))
            ratios[cell] = often * one.ratio
            total = half.cumsum().astype(np.float64)
            total[RESTARTED:] -= total[RESTARTED - 1]
            other = (whole - half).cumsum().astype(np.float64)
            if feature.name == LOSSY:
                other[LOST:BACK] = np.nan
            bins[*cell, ("instance", "a")], bins[*cell, ("instance", "b")] = total, other
    start = BEGINNING * STEP_S
    yield from open_metrics("inference_feature_bin_total", bins, start, STEP_S)
    yield from open_metrics("inference_feature_reference_ratio", ratios, start, 4 * STEP_S)
    yield from open_metrics("inference_feature_reference_samples", samples, start, 4 * STEP_S)


def exported(lane: FastLane) -> dict[str, dict[str, float]]:
    return {
        family.name: {sample.labels.get("feature", ""): sample.value for sample in family.samples}
        for family in lane.collect()
    }


def at(step: int) -> float:
    return step * STEP_S + DELAY_S + 1.0


def test_the_evidence_is_that_of_what_was_counted(url: str, counts: list[NDArray[np.int64]]) -> None:
    with Client(url) as client:
        lane = FastLane(client)
        lane.advance(at(END))
    shown = exported(lane)

    feature, each = MODEL.features[0], counts[0]
    shares = {(one.id, one.tail): one.ratio for one in feature.bins}
    reference = Reference(shares=shares, num_samples=feature.num_samples)
    cells = list(shares)
    ordered = each[[cells.index(cell) for cell in reference.cells]]
    detector = Detector(reference)
    detector.update(ordered[:, 1 : HORIZON + 1])
    detector.rotate()
    expected = detector.update(ordered[:, HORIZON + 1 :])[-1]
    assert shown[EVIDENCE][CLEAN] == expected
    assert shown[SAMPLES][CLEAN] == each[:, 1:].sum()
    assert expected > 8
    assert shown[TIMESTAMP][""] == END * STEP_S
    assert shown[SAMPLES][LOSSY] < counts[1][:, 1:].sum()  # what came while the chain began anew isn't guessed


def test_who_began_earlier_and_who_starts_now_agree_to_the_last_bit(url: str) -> None:
    with Client(url) as client:
        early, late = FastLane(client), FastLane(client)
        for step in (BEGINNING + 40, BEGINNING + HORIZON - 5, BEGINNING + HORIZON + 3, END - 17, END - 1, END):
            early.advance(at(step))
        late.advance(at(END))

    assert exported(early) == exported(late)
    assert len(exported(late)[EVIDENCE]) == len(MODEL.features)


def test_after_a_failure_it_goes_on_from_where_it_was(url: str) -> None:
    with Client(url) as client:
        whole, broken = FastLane(client), FastLane(Failing(client, every=7))  # type: ignore[arg-type]
        whole.advance(at(END))
        failures = 0
        while exported(broken)[TIMESTAMP].get("") != END * STEP_S:
            try:
                broken.advance(at(END))
            except QueryFailed:
                failures += 1
                assert failures < 200

    assert failures > 5
    assert exported(broken) == exported(whole)


def test_it_is_scraped_over_http(url: str) -> None:
    registry = CollectorRegistry()
    with Client(url) as client:
        lane = FastLane(client)
        registry.register(lane)
        lane.advance(at(END))
        server, thread = start_http_server(0, "127.0.0.1", registry)
        try:
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(f"http://127.0.0.1:{server.server_port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        finally:
            server.shutdown()
            server.server_close()
            thread.join(timeout=10)

    assert f'{EVIDENCE}{{feature="{CLEAN}",model="m",version="1"}}' in text
    assert f"\n{TIMESTAMP} " in text


class Failing:
    """A client that fails every few questions."""

    def __init__(self, client: Client, every: int) -> None:
        self._client, self._every, self._asked = client, every, 0

    def instant(self, *arguments: Any) -> Any:
        self._count()
        return self._client.instant(*arguments)

    def range(self, *arguments: Any) -> Any:
        self._count()
        return self._client.range(*arguments)

    def _count(self) -> None:
        self._asked += 1
        if self._asked % self._every == 0:
            raise QueryFailed("not now")


def test_a_dead_prometheus_is_said_in_one_sentence(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:9", 1.0) as client, pytest.raises(QueryFailed, match="can't be reached"):
        FastLane(client).advance(at(END))
