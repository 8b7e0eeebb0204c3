"""Compared with prometheus_client, whose output is the specification."""

import sys
import threading
from collections.abc import Iterator, Sequence
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from gateway.timing import Counters, Histograms, Tally

BUCKETS = (0.0005, 0.001, 0.25, 1.0, 2.5, 1e7)
LABELS = ("model", "code")

pairs = st.tuples(st.text(st.characters(codec="utf-8"), max_size=5), st.sampled_from(["200", "500"]))
numbers = st.floats(-1e12, 1e12) | st.sampled_from(BUCKETS) | st.integers(-5, 5)
rising = (
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=8, unique=True).map(sorted).filter(lambda b: b != [inf])
)


def exported(*collectors: Collector) -> str:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    lines = generate_latest(registry).decode().split("\n")
    return "\n".join(line for line in lines if "_created" not in line)


@given(st.lists(st.tuples(pairs, numbers)), rising)
def test_histogram_exports_what_prometheus_client_does(
    observations: list[tuple[tuple[str, str], float]], buckets: list[float]
) -> None:
    ours = Histograms("took_seconds", "Line one\nand \\ two.", LABELS, buckets)
    theirs = Histogram("took_seconds", "Line one\nand \\ two.", LABELS, buckets=buckets, registry=None)
    for labels, value in observations:
        ours.child(*labels).observe(value)
        theirs.labels(*labels).observe(value)
    assert exported(ours) == exported(theirs)


@given(
    st.lists(st.tuples(pairs, st.integers(0, 2**60) | st.floats(0, 1e12))), st.sampled_from(["asked", "asked_total"])
)
def test_counter_exports_what_prometheus_client_does(
    increments: list[tuple[tuple[str, str], float]], name: str
) -> None:
    ours = Counters(name, "How many.", LABELS)
    theirs = Counter(name, "How many.", LABELS, registry=None)
    sums: dict[tuple[str, str], float] = {}
    for labels, n in increments:
        ours.child(*labels).inc(n)
        theirs.labels(*labels).inc(n)
        sums[labels] = sums.get(labels, 0) + n
    assert {key: float(ours.child(*key).value) for key in sums} == pytest.approx(sums)
    if all(isinstance(n, float) for _, n in increments):  # ours adds integers exactly
        assert exported(ours) == exported(theirs)


def test_without_labels_and_with_one_each() -> None:
    ours, theirs = Counters("plain", "None."), Counter("plain", "None.", registry=None)
    ours.child().inc()
    theirs.inc()
    assert exported(ours) == exported(theirs)


def test_a_child_is_made_once_and_starts_at_zero() -> None:
    counters = Counters("asked_total", "How many.", LABELS)
    assert counters.child("m", "200") is counters.child("m", "200")
    assert 'asked_total{code="200",model="m"} 0.0' in exported(counters)


def test_what_is_removed_is_exported_no_more() -> None:
    counters = Counters("asked_total", "How many.", LABELS)
    kept, gone = counters.child("m", "200"), counters.child("m", "500")
    counters.remove("m", "500")
    counters.remove("m", "404")
    kept.inc()
    gone.inc()
    assert "500" not in exported(counters)
    assert counters.child("m", "500").value == 0


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_no_number_leaves_the_sum_finite(value: float) -> None:
    histograms = Histograms("took_seconds", "How long.", (), BUCKETS)
    histograms.child().observe(0.5)
    histograms.child().observe(value)
    assert "took_seconds_sum 0.5" in exported(histograms)
    assert "took_seconds_count 1.0" in exported(histograms)


@pytest.mark.parametrize("buckets", [(), (inf,), (nan,), (1, nan), (1, 1), (2, 1), (1, inf, inf)])
def test_bad_buckets_are_refused(buckets: Sequence[float]) -> None:
    with pytest.raises(ValueError, match="took_seconds: expected buckets that rise"):
        Histograms("took_seconds", "How long.", (), buckets)


@pytest.mark.parametrize("name", ["", "_total", "1st", "a b", "a-b", "å", "a\n"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a metric name"):
        Counters(name, "How many.")


@pytest.mark.parametrize("labels", [("le",), ("a", "a"), ("__a",), ("a-b",), ("",)])
def test_bad_label_names_are_refused(labels: Sequence[str]) -> None:
    with pytest.raises(ValueError, match="label names"):
        Histograms("took_seconds", "How long.", labels, BUCKETS)


@pytest.mark.parametrize("labels", [(), ("m",), ("m", "200", "x")])
def test_a_wrong_number_of_labels_is_refused(labels: Sequence[str]) -> None:
    counters = Counters("asked_total", "How many.", LABELS)
    with pytest.raises(ValueError, match=r"asked: expected values for labels"):
        counters.child(*labels)
    with pytest.raises(ValueError, match=r"asked: expected values for labels"):
        counters.remove(*labels)


def test_a_registry_refuses_the_same_name_twice() -> None:
    registry = CollectorRegistry()
    registry.register(Counters("asked_total", "How many."))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(Counter("asked", "How many.", registry=None))


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
def test_a_scrape_from_another_thread_is_consistent() -> None:
    histograms = Histograms("took_seconds", "How long.", ("model",), (1, 2, 3))
    wrong: list[list[float]] = []
    done = threading.Event()

    def scrape() -> None:
        while not done.is_set():
            for family in histograms.collect():
                for i in range(0, len(family.samples), 6):
                    *buckets, count, total = (sample.value for sample in family.samples[i : i + 6])
                    rises = buckets == sorted(buckets) and count == buckets[-1]
                    if not rises or not 0 <= count - total <= 1:  # each observation is of 1
                        wrong.append([*buckets, count, total])

    scraper = threading.Thread(target=scrape)
    scraper.start()
    for number in range(20_000):
        histograms.child(str(number // 1000)).observe(1)  # series come and go meanwhile
        if number % 3000 == 2999:
            histograms.remove(str(number // 3000))
    done.set()
    scraper.join(10)
    assert not wrong


@given(st.lists(numbers), st.floats(0.0001, 100))
def test_a_series_may_have_a_bucket_more(values: list[float], bound: float) -> None:
    ours = Histograms("took_seconds", "How long.", ("model",), BUCKETS)
    theirs = Histogram("took_seconds", "How long.", ("model",), buckets=sorted({*BUCKETS, bound}), registry=None)
    for value in values:
        ours.child_with(bound, "it").observe(value)
        theirs.labels("it").observe(value)
    ours.child_with(bound, "it")
    theirs.labels("it")
    assert exported(ours) == exported(theirs)
    assert ours.child_with(1.5, "it") is ours.child("it")


STAGES = ("queue", "upstream")
seconds = st.floats(0, 1e12) | st.sampled_from(BUCKETS)


class Families:
    """A counter of requests, and histograms of their stages and of their whole time."""

    def __init__(self) -> None:
        self.requests = Counters("asked_total", "How many.", ("model",))
        self.stages = Histograms("stage_seconds", "How long.", ("model", "stage"), BUCKETS)
        self.duration = Histograms("took_seconds", "How long.", ("model",), (0.0002, *BUCKETS[1:]))

    def tally(self) -> Tally:
        stages = [self.stages.child("m", stage) for stage in STAGES]
        return Tally([self.requests.child("m")], stages, self.duration.child("m"))

    def count(self, times: Sequence[float]) -> None:
        """One by one, what a tally counts at once."""
        self.requests.child("m").inc()
        self.duration.child("m").observe(sum(times))
        for stage, time in zip(STAGES, times, strict=True):
            self.stages.child("m", stage).observe(time)

    def samples(self) -> list[Sample]:
        families = (self.requests, self.stages, self.duration)
        return [sample for family in families for metric in family.collect() for sample in metric.samples]


@given(st.lists(st.tuples(seconds, seconds), max_size=3), st.integers(0, 1200), st.integers(0, 2))
def test_a_tally_is_exported_as_if_all_were_counted_one_by_one(
    rows: list[tuple[float, float]], more: int, others: int
) -> None:
    ours, theirs = Families(), Families()
    tallies = [ours.tally(), ours.tally()]
    theirs.tally()  # makes the series
    for number, row in enumerate([*rows, *[(0.25, 0.5)] * more]):
        tallies[number % 2].add([*row])
        theirs.count(row)
    for _ in range(others):  # by whoever counts one by one, into the same series
        ours.count((0.1, 2.0))
        theirs.count((0.1, 2.0))
    assert [sample[:2] for sample in ours.samples()] == [sample[:2] for sample in theirs.samples()]
    ours_values, theirs_values = ([sample.value for sample in each.samples()] for each in (ours, theirs))
    assert ours_values == pytest.approx(theirs_values)
    text = "".join(line for family in (ours.requests, ours.stages, ours.duration) for line in family.lines())
    assert [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"] == ours_values


@pytest.mark.usefixtures("frequent_switches")
def test_a_scrape_loses_nothing_of_what_waits_to_be_counted() -> None:
    families = Families()
    tally = families.tally()
    seen: list[list[float]] = []
    done = threading.Event()

    def scrape() -> None:
        while not done.is_set():
            seen.append(families.duration.child("m").read())

    thread = threading.Thread(target=scrape)
    thread.start()
    for _ in range(20_000):
        tally.add([0.5, 1.5])
    done.set()
    thread.join(timeout=10)
    counts = [sum(cells[:-1]) for cells in seen]
    assert counts == sorted(counts)
    assert all(cells[-1] == 2 * count for cells, count in zip(seen, counts, strict=True))
    assert families.requests.child("m").read() == 20_000
