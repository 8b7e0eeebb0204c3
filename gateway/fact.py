"""What a served version promises, as metrics: facts of its contract, that rules and boards read beside the counters."""

from contextlib import suppress
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge

from contract import Contract
from contract.schema import Evaluation

_BY_VERSION = ("model", "version")


class VersionFacts:
    """Gauges that are there for as long as the version is served."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *more_labels: str) -> Gauge:
            return Gauge(name, text, (*_BY_VERSION, *more_labels), registry=registry)

        self._info = gauge("model_info", "1 for each served version.", "task")
        self._threshold = gauge("model_slo_latency_threshold_seconds", "A request within this time counts as fast.")
        self._fast = gauge("model_slo_latency_objective_ratio", "Share of requests that should be fast.")
        self._answered = gauge("model_slo_availability_objective_ratio", "Share of requests that should be answered.")
        self._created = gauge("model_created_timestamp_seconds", "When the version was made, Unix time.")
        self._accuracy = gauge("model_evaluation_accuracy_ratio", "Share of right answers on the test data.")
        self._samples = gauge("model_evaluation_samples", "How many samples of test data that share is of.")
        self._confidence = gauge(
            "inference_confidence_accuracy_ratio",
            "Share of right answers among held-out samples whose confidence fell into the bin.",
            "bin",
        )
        self._all = (
            *(self._info, self._threshold, self._fast, self._answered),
            *(self._created, self._accuracy, self._samples, self._confidence),
        )

    def add(self, contract: Contract) -> None:
        """Show a version's facts."""
        name, version, slo = contract.name, str(contract.version), contract.slo
        self._info.labels(name, version, contract.task).set(1)
        self._threshold.labels(name, version).set(slo.latency_threshold_ms / 1000)
        self._fast.labels(name, version).set(slo.latency_objective)
        self._answered.labels(name, version).set(slo.availability_objective)
        with suppress(ValueError):  # it is for people, and may be no date
            created = datetime.fromisoformat(contract.provenance.created_at)
            self._created.labels(name, version).set(created.timestamp())
        self._add_quality(name, version, contract.evaluation)
        for cell in contract.profile.confidence:
            self._confidence.labels(name, version, cell.id).set(cell.num_right / cell.num_samples)

    def add_unknown(self, name: str, version: str) -> None:
        """Show that a version without a contract is served."""
        self._info.labels(name, version, "unknown").set(1)

    def remove(self, name: str, version: str) -> None:
        """Show a version's facts no longer."""
        for gauge in self._all:
            gauge.remove_by_labels({"model": name, "version": version})

    def _add_quality(self, name: str, version: str, evaluation: Evaluation) -> None:
        with suppress(KeyError):
            accuracy = evaluation.metric("accuracy")
            self._accuracy.labels(name, version).set(accuracy.value)
            self._samples.labels(name, version).set(accuracy.num_samples)
