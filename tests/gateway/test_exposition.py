"""The text is what the library would write, whatever the labels; and it is served as Prometheus asks for it."""

import gzip
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from contract import Repository
from contract.observation import Observer
from contract.profile import categorical_feature, ordered_feature
from gateway.exposition import CONTENT_TYPE, Registry, start_exporter
from gateway.metric import FeatureCounts
from gateway.timing import Counters, Histograms

LABELS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20)


def values(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@given(label=LABELS, other=LABELS, seconds=st.lists(st.floats(-10, 10), max_size=5), count=st.floats(0, 1e9))
def test_counters_and_histograms_read_as_the_librarys(
    label: str, other: str, seconds: list[float], count: float
) -> None:
    registry = Registry()
    counters = Counters("asked_total", 'How often; a "quoted" \\ word.\nTwo lines.', ("one", "two"))
    durations = Histograms("took_seconds", "How long.", ("one",), (0.1, 1))
    for each in (counters, durations):
        registry.register(each)
    Gauge("level", "The library's own.", ("one",), registry=registry).labels(label).set(3)
    counters.child(label, other).inc(count)
    for second in seconds:
        durations.child(label).observe(second)

    assert values(registry.text()) == values(generate_latest(registry))
    counters.child(label, other).inc()
    assert values(registry.text()) == values(generate_latest(registry))  # the heads are made by now


@given(feature=LABELS.filter(bool), label=LABELS.filter(bool), model=LABELS)
def test_features_read_as_the_librarys(feature: str, label: str, model: str) -> None:
    registry, counts = Registry(), FeatureCounts()
    registry.register(counts)
    features = (
        ordered_feature(feature, np.arange(1000.0)),
        categorical_feature("prediction", [label] * 9 + [f"{label}2"], (label, f"{label}2")),
    )
    for version in ("1", "2"):
        counts.add(model, version, features)
    counts.count(model, "1", {feature: np.array([0, 3, 3]), "prediction": np.array([1, 1])})
    counts.retire(model, "2")

    assert values(registry.text()) == values(generate_latest(registry))


def test_a_series_that_is_removed_and_made_again_has_its_own_buckets() -> None:
    registry, durations = Registry(), Histograms("took_seconds", "How long.", ("one",), (1,))
    registry.register(durations)
    durations.child_with(0.25, "a")
    assert b'le="0.25"' in registry.text()
    durations.remove("a")
    durations.child_with(0.5, "a")
    assert b'le="0.5"' in registry.text()
    assert b'le="0.25"' not in registry.text()


@pytest.fixture
def exporter() -> Iterator[tuple[Registry, httpx.Client]]:
    registry = Registry()
    server, thread = start_exporter("127.0.0.1", 0, registry)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False, timeout=10) as client:
        yield registry, client
    server.shutdown()
    thread.join(5)
    server.server_close()


def test_it_is_served_plain_and_packed(exporter: tuple[Registry, httpx.Client]) -> None:
    registry, client = exporter
    counters = Counters("asked_total", "How often.", ("one",))
    registry.register(counters)
    counters.child("a").inc(2)

    plain = client.get("/metrics", headers={"accept-encoding": "identity"})
    assert plain.content == b'# HELP asked_total How often.\n# TYPE asked_total counter\nasked_total{one="a"} 2\n'
    assert plain.headers["content-type"] == CONTENT_TYPE
    with client.stream("GET", "/metrics", headers={"accept-encoding": "gzip"}) as answer:
        assert gzip.decompress(b"".join(answer.iter_raw())) == plain.content
    assert client.head("/metrics").headers["content-length"]
    assert client.post("/metrics", content=b"x").status_code == 405


def test_a_version_comes_and_goes_while_it_is_scraped(tiny_repository: Repository) -> None:
    contract = tiny_repository.contract("tiny", 1)
    observer, registry, counts = Observer(contract), Registry(), FeatureCounts()
    registry.register(counts)
    errors: list[Any] = []
    stop = threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            try:
                registry.text()
            except Exception as exc:
                errors.append(exc)

    thread = threading.Thread(target=scrape)
    thread.start()
    for number in range(300):
        features = observer.features if number % 2 else observer.features[:2]  # published anew with another profile
        counts.add("tiny", "1", features)
        counts.retire("tiny", "1")
    stop.set()
    thread.join(10)
    assert not errors
