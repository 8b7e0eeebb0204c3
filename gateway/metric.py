"""What the gateway counts. One registry a process; every label set exists from the moment a version is served.

A value that a client chooses never becomes a label: what isn't known is `other`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from contract import Contract
from contract.observation import Observer
from contract.profile import PREDICTION, Bin, Feature
from gateway.exposition import Lined, Registry, head, title
from gateway.fact import VersionFacts
from gateway.outcome import OK, STATUSES
from gateway.timing import Count, Counters, Histograms, Tally

PROTOCOLS = ("predict", "v2_http", "v2_grpc")
STAGES = ("admit", "preprocess", "queue", "upstream", "postprocess")
SHED_REASONS = ("capacity", "deadline")
UNROUTED = ("pinned", "latest")  # who chose the version where no route did: the client, or nobody
OTHER = "other"

# From 0.5 ms, below which one hop on a host can't be told from another, to the default deadline.
_BUCKETS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0),
)
_STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_BATCH_BUCKETS = tuple(float(2**k) for k in range(9))


class Hand:
    """How many requests to a model are in hand."""

    __slots__ = ("num",)

    def __init__(self) -> None:
        self.num = 0


class VersionSeries:
    """The series that a request to one version touches, looked up once and kept.

    The latency threshold of the version's objective is a bucket, so that the share of requests within it is exact.
    """

    def __init__(self, metrics: "Metrics", name: str, version: str, threshold_s: float) -> None:
        self.requests = {
            protocol: {status: metrics.requests.child(name, version, protocol, str(status)) for status in STATUSES}
            for protocol in PROTOCOLS
        }
        self.duration = {
            protocol: metrics.duration.child_with(threshold_s, name, version, protocol) for protocol in PROTOCOLS
        }
        self.stages = [metrics.stage.child(name, stage) for stage in STAGES]
        self.unrouted = {
            kind: metrics.route.child(name, f"{name}/{version}", kind) for kind in UNROUTED if version != OTHER
        }
        self.answered = _Answered(self)
        self.inflight = metrics.hand(name)
        self.batch_size = metrics.batch_size.child(name)
        self.attempts = metrics.attempts.child(name)
        self.retries = metrics.retries.child(name)
        self.shed = {reason: metrics.shed.child(name, reason) for reason in SHED_REASONS}
        self.observation_errors = metrics.observation_errors.child(name)
        self.unobserved = metrics.unobserved.child(name)


class _Answered(dict[tuple[str, str], Tally]):
    """By protocol and who chose the version: what counts an answered request, all at once. Made when first asked for.

    Requests that were routed are counted in their route's series by others.
    """

    def __init__(self, series: VersionSeries) -> None:
        super().__init__()
        self._series = series

    def __missing__(self, key: tuple[str, str]) -> Tally:
        protocol, kind = key
        series = self._series
        numbers = [series.requests[protocol][OK.status]]
        if kind in series.unrouted:
            numbers.append(series.unrouted[kind])
        tally = self[key] = Tally(numbers, series.stages, series.duration[protocol])
        return tally


class Metrics:
    """The metrics of one gateway process."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.requests = Counters(
            "gateway_requests_total",
            "Requests by how they ended; the code is the HTTP status, for gRPC its equivalent.",
            ("model", "version", "protocol", "code"),
        )
        self.duration = Histograms(
            "gateway_request_duration_seconds",
            "Time from the request's arrival to its answer.",
            ("model", "version", "protocol"),
            _BUCKETS,
        )
        self.stage = Histograms(
            "gateway_stage_duration_seconds",
            "Time a request spent in each stage; the stages add up to the request.",
            ("model", "stage"),
            _STAGE_BUCKETS,
        )
        self.batch_size = Histograms("gateway_batch_size", "Samples in one call to Triton.", ("model",), _BATCH_BUCKETS)
        self.shed = Counters("gateway_shed_total", "Requests turned away before Triton saw them.", ("model", "reason"))
        self.attempts = Counters("gateway_upstream_attempts_total", "Calls made to Triton.", ("model",))
        self.retries = Counters(
            "gateway_upstream_retries_total",
            "Requests sent to Triton once more, alone, after their batch was refused.",
            ("model",),
        )
        self.route = Counters(
            "gateway_route_total",
            "Requests by the name asked for and the version that served; kind says who chose the version.",
            ("route", "target", "kind"),
        )
        self.observation_errors = Counters(
            "gateway_observation_errors_total",
            "Batches whose features couldn't be counted; the requests were answered.",
            ("model",),
        )
        self.unobserved = Counters(
            "gateway_unobserved_samples_total",
            "Samples whose features weren't counted, for enough of that second's were.",
            ("model",),
        )
        self.features = FeatureCounts()
        for collector in (
            *(self.requests, self.duration, self.stage, self.batch_size, self.shed, self.attempts),
            *(self.retries, self.route, self.observation_errors, self.unobserved, self.features),
        ):
            registry.register(collector)
        self.inflight = Gauge("gateway_inflight_requests", "Requests in hand.", ("model",), registry=registry)
        self.upstream_up = Gauge("gateway_upstream_up", "1 while Triton answers and is ready.", registry=registry)
        self.contract_errors = Gauge(
            "gateway_contract_errors", "Versions not served because their contract can't be read.", registry=registry
        )
        self.facts = VersionFacts(registry)
        self._series: dict[tuple[str, str], VersionSeries] = {}
        self._hands: dict[str, Hand] = {}
        self._routed: dict[tuple[str, str, str], Count] = {}
        self._prepare(OTHER, OTHER)

    def hand(self, name: str) -> Hand:
        """The requests in hand of a model, the same for all of its versions."""
        hand = self._hands.get(name)
        if hand is None:
            hand = self._hands[name] = Hand()
            self.inflight.labels(name).set_function(lambda: hand.num)
        return hand

    def series(self, name: str, version: str) -> VersionSeries:
        """The series of a served version, or those of `other`, for whatever a client names that isn't one."""
        found = self._series.get((name, version)) or self._series.get((name, OTHER))
        return found or self._series[OTHER, OTHER]

    def routed(self, route: str, target: str, kind: str) -> None:
        """Count one request by who was asked for and who serves; all three come from us, never from a client."""
        key = (route, target, kind)
        series = self._routed.get(key)
        if series is None:
            series = self._routed[key] = self.route.child(*key)
        series.inc()

    def serve(self, contract: Contract, observer: Observer) -> None:
        """Make every series of a version that is about to be served."""
        name, version = contract.name, str(contract.version)
        self._prepare(name, version, contract.slo.latency_threshold_ms / 1000)
        self.facts.add(contract)
        self.features.add(name, version, observer.features)

    def serve_without_contract(self, name: str, version: str) -> None:
        """Make the series of a version that only passes through."""
        self._prepare(name, version)
        self.facts.add_unknown(name, version)

    def retire(self, name: str, version: str) -> None:
        """Take a version's gauges away; its counters stay, so that rates over the change are right."""
        self.facts.remove(name, version)
        self.features.retire(name, version)

    def _prepare(self, name: str, version: str, threshold_s: float = _BUCKETS[0]) -> None:
        for known in (version, OTHER):  # a version that a client names wrongly is `other`
            if (name, known) not in self._series:
                self._series[name, known] = VersionSeries(self, name, known, threshold_s)


_BIN_LABELS = ("model", "version", "feature", "bin", "tail")
_PREDICTION_LABELS = ("model", "version", "label")
_BINS = "Samples in each bin of the reference profile."
_PREDICTIONS = "Predicted labels, rare ones pooled."
_RATIOS = "Share of each bin when the model was trained."
_SAMPLES = "Samples behind the reference."


class FeatureCounts(Lined):
    """Counts of reference bins, kept in arrays and turned into series only when scraped."""

    def __init__(self) -> None:
        self._features: dict[tuple[str, str], tuple[Feature, ...]] = {}
        self._counts: dict[tuple[str, str], dict[str, NDArray[np.int64]]] = {}
        self._retired: set[tuple[str, str]] = set()
        self._texts: dict[tuple[str, str], _VersionText] = {}

    def add(self, name: str, version: str, features: tuple[Feature, ...]) -> None:
        """Start a version's counts at 0; a version that comes back goes on counting."""
        key = (name, version)
        self._retired.discard(key)
        if self._features.get(key) != features:
            counts = {feature.name: np.zeros(len(feature.bins), np.int64) for feature in features}
            self._features, self._counts = {**self._features, key: features}, {**self._counts, key: counts}
            self._texts = {**self._texts, key: _VersionText(key, features, counts)}

    def retire(self, name: str, version: str) -> None:
        """Stop exporting the version's reference."""
        self._retired.add((name, version))

    def count(self, name: str, version: str, assigned: dict[str, NDArray[np.intp]]) -> None:
        """Count the bins that the samples of a batch fell into: feature name to bin indices `[N]`."""
        counts = self._counts[name, version]
        for feature, index in assigned.items():
            counts[feature] += np.bincount(index, minlength=len(counts[feature]))

    def lines(self) -> Iterator[str]:
        """The text of what `collect` yields."""
        texts = self._texts
        kept = [text for key, text in texts.items() if key not in self._retired]
        bins: list[str] = []
        predictions: list[str] = []
        for text in texts.values():
            for name, heads in text.heads.items():
                of = predictions if name == PREDICTION else bins
                of += [f"{each}{count}\n" for each, count in zip(heads, text.counts[name].tolist(), strict=True)]
        yield title("inference_feature_bin_total", "counter", _BINS)
        yield from bins
        yield title("inference_prediction_total", "counter", _PREDICTIONS)
        yield from predictions
        yield title("inference_feature_reference_ratio", "gauge", _RATIOS)
        yield from (text.ratios for text in kept)
        yield title("inference_feature_reference_samples", "gauge", _SAMPLES)
        yield from (text.samples for text in kept)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the counters, and the reference they are compared with."""
        bins = CounterMetricFamily("inference_feature_bin", _BINS, None, _BIN_LABELS)
        predictions = CounterMetricFamily("inference_prediction", _PREDICTIONS, None, _PREDICTION_LABELS)
        ratios = GaugeMetricFamily("inference_feature_reference_ratio", _RATIOS, None, _BIN_LABELS)
        samples = GaugeMetricFamily("inference_feature_reference_samples", _SAMPLES, None, _BIN_LABELS[:3])
        for key, features in self._features.items():
            for feature in features:
                counts: Any = self._counts[key][feature.name]
                if key not in self._retired:
                    samples.add_metric((*key, feature.name), feature.num_samples)
                for one, count in zip(feature.bins, counts.tolist(), strict=True):
                    place = _place(key, feature.name, one)
                    if key not in self._retired:
                        ratios.add_metric(place, one.ratio)
                    if feature.name == PREDICTION:
                        predictions.add_metric((*key, one.id), count)
                    else:
                        bins.add_metric(place, count)
        yield from (bins, predictions, ratios, samples)


class _VersionText:
    """The text of a version's features that no request changes: the reference, and the heads of the counters' lines."""

    __slots__ = ("counts", "heads", "ratios", "samples")

    def __init__(
        self, key: tuple[str, str], features: tuple[Feature, ...], counts: Mapping[str, NDArray[np.int64]]
    ) -> None:
        self.counts = counts
        self.heads: dict[str, list[str]] = {}
        ratios, samples = [], []
        for feature in features:
            places = [dict(zip(_BIN_LABELS, _place(key, feature.name, one), strict=True)) for one in feature.bins]
            if feature.name == PREDICTION:
                labels = [dict(zip(_PREDICTION_LABELS, (*key, one.id), strict=True)) for one in feature.bins]
                self.heads[feature.name] = [head("inference_prediction_total", each) for each in labels]
            else:
                self.heads[feature.name] = [head("inference_feature_bin_total", each) for each in places]
            for place, one in zip(places, feature.bins, strict=True):
                ratios.append(f"{head('inference_feature_reference_ratio', place)}{one.ratio}\n")
            of = dict(zip(_BIN_LABELS, (*key, feature.name), strict=False))
            samples.append(f"{head('inference_feature_reference_samples', of)}{feature.num_samples}\n")
        self.ratios, self.samples = "".join(ratios), "".join(samples)


def _place(key: tuple[str, str], feature: str, one: Bin) -> tuple[str, ...]:
    return (*key, feature, one.id, "1" if one.tail else "")
