"""True labels for earlier predictions, without a store: a prediction's answer carries what is needed to count them.

The token says, signed, which version predicted which class with which confidence and when. Whoever brings it back with
the true label is counted by any replica that has the keys. Accuracy, calibration and the confusion matrix over any
window are then arithmetic over counters.

InvalidRequest
└── UnknownLabel   no label of the version that predicted
UnknownModel
└── FeedbackOff    no keys: the gateway takes no feedback
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from contract import Contract
from contract.postprocess import Array
from contract.profile import MAX_CATEGORIES, OTHER, PREDICTION
from contract.schema import ClassificationPostprocess
from gateway.error import GatewayError, InvalidRequest, UnknownModel
from gateway.key_ring import KeyRing
from gateway.prediction import MAX_AGE_S, NUM_CONFIDENCE_BINS, ExpiredToken, Prediction, sign, verify
from gateway.timing import Counters

MAX_FEEDBACK = 1000  # in one request
MAX_REMEMBERED = 100_000  # predictions whose feedback came, to know a replay
RESULTS = ("counted", "replayed", "expired", "invalid", "unknown_model", "unknown_label")
# Named by their lower bounds.
CONFIDENCE_BINS = tuple(f"{k / NUM_CONFIDENCE_BINS:.1f}" for k in range(NUM_CONFIDENCE_BINS))

_OFF = (
    "this gateway takes no feedback; to switch it on, set TIDEGATE_FEEDBACK_KEYS to a file of keys, "
    "as docs/feedback.md says"
)

Version = tuple[str, int]  # model name, version


class UnknownLabel(InvalidRequest):
    """No label of the version that predicted."""


class FeedbackOff(UnknownModel):
    """No keys: to a client it is as if feedback weren't there, and trying again won't help."""


class Feedback:
    """Makes tokens for predictions, and counts the true labels that come back with them."""

    def __init__(
        self,
        keys: KeyRing | None,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float],
        max_age_s: float = MAX_AGE_S,
        max_remembered: int = MAX_REMEMBERED,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._max_age_s = max_age_s
        self._max_remembered = max_remembered
        self._labels: dict[Version, Mapping[str, int]] = {}
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._counts = FeedbackCounts()
        results = Counters("gateway_feedback_total", "True labels that came, by what became of them.", ("result",))
        self._results = {result: results.child(result) for result in RESULTS}
        registry.register(results)
        registry.register(self._counts)

    @property
    def on(self) -> bool:
        """Whether there are keys: predictions carry tokens, and feedback is taken."""
        return self._keys is not None

    def serve(self, contract: Contract) -> None:
        """Take feedback for a version from now on, also when it is no longer served."""
        if self.on and isinstance(contract.postprocess, ClassificationPostprocess):
            labels = contract.postprocess.labels
            self._labels[contract.name, contract.version] = {label: i for i, label in enumerate(labels)}
            self._counts.add(contract.name, contract.version, labels, _kept(contract, labels))

    def sign(self, contract: Contract, meaning: Array | None, predictions: list[dict[str, Any]]) -> None:
        """Add its token to each prediction; to none when there are no keys, or the model doesn't classify."""
        if self._keys is None or meaning is None or not isinstance(contract.postprocess, ClassificationPostprocess):
            return
        for prediction, index in zip(predictions, meaning.argmax(axis=1).tolist(), strict=True):
            if prediction["label"] is not None:  # None where the model answered NaN
                prediction["token"] = self.token(contract.name, contract.version, index, prediction["confidence"])

    def token(self, model: str, version: int, index: int, confidence: float) -> str | None:
        """A token for one prediction; None when there are no keys."""
        return None if self._keys is None else sign(self._keys, model, version, index, confidence, self._clock())

    def give(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Count `{"token", "label"}`, or each of `{"feedback": [{"token", "label"}, ...]}`, and say what became of it.

        Raises FeedbackOff or InvalidRequest. Alone, a token or label that can't be counted raises what is wrong with
        it; in a list it is told in its place, and the others are counted.
        """
        if self._keys is None:
            raise FeedbackOff(_OFF)
        if document.keys() != {"feedback"}:
            return self._take(self._keys, document)
        entries = document["feedback"]
        if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_FEEDBACK:
            came = len(entries) if isinstance(entries, list) else type(entries).__name__
            raise InvalidRequest(f"expected a list of 1 to {MAX_FEEDBACK} objects in 'feedback', got {came}")
        results = [self._try(self._keys, entry) for entry in entries]
        return {"counted": sum(result["counted"] for result in results), "results": results}

    async def watch(self, interval_s: float) -> None:
        """Keep the keys those of their file, for ever."""
        while True:
            await asyncio.sleep(interval_s)
            if self._keys is not None:
                await asyncio.to_thread(self._keys.refresh)

    def _try(self, keys: KeyRing, entry: object) -> dict[str, Any]:
        try:
            return self._take(keys, entry)
        except GatewayError as exc:
            return {"counted": False, "reason": str(exc)}

    def _take(self, keys: KeyRing, entry: object) -> dict[str, Any]:
        """Count one true label."""
        try:
            prediction, actual = self._read(keys, entry)
        except GatewayError as exc:
            self._results[_result(exc)].inc()
            raise
        if prediction.nonce in self._seen:
            self._results["replayed"].inc()
            return {"counted": False, "reason": "feedback for this prediction was counted before"}
        self._seen[prediction.nonce] = None
        if len(self._seen) > self._max_remembered:
            self._seen.popitem(last=False)
        self._counts.count(prediction, actual)
        self._results["counted"].inc()
        return {"counted": True, "correct": actual == prediction.index}

    def _read(self, keys: KeyRing, entry: object) -> tuple[Prediction, int]:
        """The prediction, and the index of the true label."""
        if not isinstance(entry, Mapping) or entry.keys() != {"token", "label"}:
            came = f"the fields {sorted(entry)!r:.120}" if isinstance(entry, Mapping) else type(entry).__name__
            raise InvalidRequest(f"expected an object of 'token' and 'label', got {came}")
        prediction = verify(keys, entry["token"], self._clock(), self._max_age_s)
        labels = self._labels.get((prediction.model, prediction.version), {})
        if prediction.index >= len(labels):
            raise UnknownModel(
                f"model {prediction.model!r} version {prediction.version}, which predicted, "
                "was not served since this gateway started; its feedback can't be counted any more"
            )
        label = entry["label"]
        if not isinstance(label, str) or label not in labels:
            raise UnknownLabel(
                f"expected a label of {prediction.model!r}, got {label!r:.80}; labels are {list(labels)!r:.200}"
            )
        return prediction, labels[label]


class FeedbackCounts(Collector):
    """Feedback by predicted and true label, and by confidence: arrays that become series when scraped."""

    def __init__(self) -> None:
        self._versions: dict[Version, _Version] = {}

    def add(self, model: str, version: int, labels: tuple[str, ...], kept: tuple[str, ...]) -> None:
        """Start a version's counts at 0, all labels but those kept pooled; one that comes back goes on counting."""
        counts = _Version(labels, kept)
        known = self._versions.get((model, version))
        if known is None or (known.cell, known.names) != (counts.cell, counts.names):
            self._versions = {**self._versions, (model, version): counts}

    def count(self, prediction: Prediction, actual: int) -> None:
        """Count one true label, by its index."""
        counts = self._versions[prediction.model, prediction.version]
        counts.confusion[counts.cell[prediction.index], counts.cell[actual]] += 1
        counts.confidence[prediction.confidence, int(actual == prediction.index)] += 1

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the counters of every version."""
        confusion = CounterMetricFamily(
            "inference_feedback",
            "True labels that came back, by predicted and true label, rare ones pooled.",
            None,
            ("model", "version", "predicted", "actual"),
        )
        confidence = CounterMetricFamily(
            "inference_feedback_confidence",
            "True labels that came back, by the prediction's confidence and whether it was right.",
            None,
            ("model", "version", "bin", "correct"),
        )
        for (model, version), counts in self._versions.items():
            place = (model, str(version))
            for predicted, row in zip(counts.names, counts.confusion.tolist(), strict=True):
                for actual, count in zip(counts.names, row, strict=True):
                    confusion.add_metric((*place, predicted, actual), count)
            for bin_, row in zip(CONFIDENCE_BINS, counts.confidence.tolist(), strict=True):
                for correct, count in zip(("false", "true"), row, strict=True):
                    confidence.add_metric((*place, bin_, correct), count)
        yield from (confusion, confidence)


class _Version:
    """The counts of one version. `cell` is the row and column of each label, by the label's index."""

    def __init__(self, labels: tuple[str, ...], kept: tuple[str, ...]) -> None:
        self.names = (*kept, OTHER)
        position = {name: i for i, name in enumerate(kept)}
        self.cell = [position.get(label, len(kept)) for label in labels]
        self.confusion: NDArray[np.int64] = np.zeros((len(self.names), len(self.names)), np.int64)
        self.confidence: NDArray[np.int64] = np.zeros((len(CONFIDENCE_BINS), 2), np.int64)


def _kept(contract: Contract, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels that the profile doesn't pool; without a profile the first ones, as many as that would keep."""
    features = contract.profile.features
    return next((f.categories for f in features if f.name == PREDICTION), labels[:MAX_CATEGORIES])


def _result(exc: GatewayError) -> str:
    match exc:
        case ExpiredToken():
            return "expired"
        case UnknownLabel():
            return "unknown_label"
        case UnknownModel():
            return "unknown_model"
        case _:
            return "invalid"
