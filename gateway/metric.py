"""What the gateway counts. One registry a process; every label set exists from the moment a version is served.

A value that a client chooses never becomes a label: what isn't known is `other`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from contract import Contract
from contract.observation import Observer
from contract.profile import PREDICTION, Feature
from gateway.outcome import STATUSES

PROTOCOLS = ("predict", "v2_http", "v2_grpc")
STAGES = ("admit", "preprocess", "queue", "upstream", "postprocess")
SHED_REASONS = ("capacity", "deadline")
OTHER = "other"

# From 0.5 ms, below which one hop on a host can't be told from another, to the default deadline.
_BUCKETS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0),
)
_STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_BATCH_BUCKETS = tuple(float(2**k) for k in range(9))


class Metrics:
    """The metrics of one gateway process.

    `thresholds_s` are latency thresholds of service-level objectives known when the process starts; each becomes a
    bucket, so that the share of requests within it is exact.
    """

    def __init__(self, registry: CollectorRegistry, thresholds_s: Iterable[float] = ()) -> None:
        self.registry = registry
        buckets = sorted({*_BUCKETS, *thresholds_s})
        self.requests = Counter(
            "gateway_requests_total",
            "Requests by how they ended; the code is the HTTP status, for gRPC its equivalent.",
            ("model", "version", "protocol", "code"),
            registry=registry,
        )
        self.duration = Histogram(
            "gateway_request_duration_seconds",
            "Time from the request's arrival to its answer.",
            ("model", "version", "protocol"),
            buckets=buckets,
            registry=registry,
        )
        self.stage = Histogram(
            "gateway_stage_duration_seconds",
            "Time a request spent in each stage; the stages add up to the request.",
            ("model", "stage"),
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self.inflight = Gauge("gateway_inflight_requests", "Requests in hand.", ("model",), registry=registry)
        self.batch_size = Histogram(
            "gateway_batch_size",
            "Samples in one call to Triton.",
            ("model",),
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        self.shed = Counter(
            "gateway_shed_total",
            "Requests turned away before Triton saw them.",
            ("model", "reason"),
            registry=registry,
        )
        self.attempts = Counter(
            "gateway_upstream_attempts_total", "Calls made to Triton.", ("model",), registry=registry
        )
        self.retries = Counter(
            "gateway_upstream_retries_total",
            "Requests sent to Triton once more, alone, after their batch was refused.",
            ("model",),
            registry=registry,
        )
        self.upstream_up = Gauge("gateway_upstream_up", "1 while Triton answers and is ready.", registry=registry)
        self.route = Counter(
            "gateway_route_total",
            "Requests by the model asked for and the version that served; kind says who chose the version.",
            ("route", "target", "kind"),
            registry=registry,
        )
        self.observation_errors = Counter(
            "gateway_observation_errors_total",
            "Batches whose features couldn't be counted; the requests were answered.",
            ("model",),
            registry=registry,
        )
        self.contract_errors = Gauge(
            "gateway_contract_errors", "Versions not served because their contract can't be read.", registry=registry
        )
        self.info = Gauge("model_info", "1 for each served version.", ("model", "version", "task"), registry=registry)
        self.slo = {
            name: Gauge(f"model_slo_{name}", text, ("model", "version"), registry=registry)
            for name, text in (
                ("latency_threshold_seconds", "A request within this time counts as fast."),
                ("latency_objective_ratio", "Share of requests that should be fast."),
                ("availability_objective_ratio", "Share of requests that should be answered."),
            )
        }
        self.features = FeatureCounts()
        registry.register(self.features)
        self._names: set[str] = set()
        self._prepare(OTHER, OTHER)

    def label_of(self, name: str) -> str:
        """The label for a model that a client names: its own once a version of it was served, else `other`."""
        return name if name in self._names else OTHER

    def serve(self, contract: Contract, observer: Observer) -> None:
        """Make every series of a version that is about to be served."""
        name, version = contract.name, str(contract.version)
        self._prepare(name, version)
        self.info.labels(name, version, contract.task).set(1)
        self.slo["latency_threshold_seconds"].labels(name, version).set(contract.slo.latency_threshold_ms / 1000)
        self.slo["latency_objective_ratio"].labels(name, version).set(contract.slo.latency_objective)
        self.slo["availability_objective_ratio"].labels(name, version).set(contract.slo.availability_objective)
        self.features.add(name, version, observer.features)

    def serve_without_contract(self, name: str, version: str) -> None:
        """Make the series of a version that only passes through."""
        self._prepare(name, version)
        self.info.labels(name, version, "unknown").set(1)

    def retire(self, name: str, version: str) -> None:
        """Take a version's gauges away; its counters stay, so that rates over the change are right."""
        for gauge in (self.info, *self.slo.values()):
            gauge.remove_by_labels({"model": name, "version": version})
        self.features.retire(name, version)

    def _prepare(self, name: str, version: str) -> None:
        self._names.add(name)
        for protocol in PROTOCOLS:
            for known in {version, OTHER}:  # a version that a client names wrongly is `other`
                self.duration.labels(name, known, protocol)
                for status in STATUSES:
                    self.requests.labels(name, known, protocol, str(status))
        for stage in STAGES:
            self.stage.labels(name, stage)
        for reason in SHED_REASONS:
            self.shed.labels(name, reason)
        if name != OTHER:
            for kind in ("pinned", "latest"):
                self.route.labels(name, f"{name}/{version}", kind)
        for metric in (self.inflight, self.batch_size, self.attempts, self.retries, self.observation_errors):
            metric.labels(name)


class FeatureCounts(Collector):
    """Counts of reference bins, kept in arrays and turned into series only when scraped."""

    def __init__(self) -> None:
        self._features: dict[tuple[str, str], tuple[Feature, ...]] = {}
        self._counts: dict[tuple[str, str], dict[str, NDArray[np.int64]]] = {}
        self._retired: set[tuple[str, str]] = set()

    def add(self, name: str, version: str, features: tuple[Feature, ...]) -> None:
        """Start a version's counts at 0; a version that comes back goes on counting."""
        key = (name, version)
        self._retired.discard(key)
        if self._features.get(key) != features:
            counts = {feature.name: np.zeros(len(feature.bins), np.int64) for feature in features}
            self._features, self._counts = {**self._features, key: features}, {**self._counts, key: counts}

    def retire(self, name: str, version: str) -> None:
        """Stop exporting the version's reference."""
        self._retired.add((name, version))

    def count(self, name: str, version: str, assigned: dict[str, NDArray[np.intp]]) -> None:
        """Count the bins that the samples of a batch fell into: feature name to bin indices `[N]`."""
        counts = self._counts[name, version]
        for feature, index in assigned.items():
            counts[feature] += np.bincount(index, minlength=len(counts[feature]))

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the counters, and the reference they are compared with."""
        labels = ("model", "version", "feature", "bin", "tail")
        bins = CounterMetricFamily(
            "inference_feature_bin", "Samples in each bin of the reference profile.", None, labels
        )
        predictions = CounterMetricFamily(
            "inference_prediction", "Predicted labels, rare ones pooled.", None, ("model", "version", "label")
        )
        ratios = GaugeMetricFamily(
            "inference_feature_reference_ratio", "Share of each bin when the model was trained.", None, labels
        )
        samples = GaugeMetricFamily(
            "inference_feature_reference_samples", "Samples behind the reference.", None, labels[:3]
        )
        for key, features in self._features.items():
            for feature in features:
                counts: Any = self._counts[key][feature.name]
                if key not in self._retired:
                    samples.add_metric((*key, feature.name), feature.num_samples)
                for one, count in zip(feature.bins, counts.tolist(), strict=True):
                    place = (*key, feature.name, one.id, "1" if one.tail else "")
                    if key not in self._retired:
                        ratios.add_metric(place, one.ratio)
                    if feature.name == PREDICTION:
                        predictions.add_metric((*key, one.id), count)
                    else:
                        bins.add_metric(place, count)
        yield from (bins, predictions, ratios, samples)
