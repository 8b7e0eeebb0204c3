"""Which requests show a drift: a few recent ones of each bin that is fuller than it should be, if keeping is wanted.

Requests are people's data: nothing is kept unless `TIDEGATE_EXAMPLES` says so, then in memory only, for twenty minutes
at most, and whoever can reach the gateway can read it. `ids` keeps when a request came, its id and the bins that its
features fell into; `inputs` keeps the model's input too, as far as it is small.

A bin is watched while it holds more than four standard deviations above its share of the reference, counting anew every
ten minutes; of what falls into it then, each has the same chance to be kept.
Source: Vitter, "Random sampling with a reservoir" (1985), algorithm R.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.profile import Feature
from contract.tensor import Tensors, datatype_of

PERIOD_S = 600.0
MAX_EXAMPLES = 4  # of a bin and a period
MAX_BINS = 64  # that are watched in a period
MAX_INPUT_BYTES = 16 * 1024  # of one example: 8 MiB of a version at most, in both periods

_SURPLUS_SD = 4.0

Assigned = Mapping[str, NDArray[np.intp]]
Key = tuple[str, int]  # feature, index of the bin


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One sample of a request: when it was counted, its id, the bin of each feature, and its input where it is kept."""

    time: float
    request_id: str
    bins: Mapping[str, str]
    inputs: Tensors

    def describe(self) -> dict[str, Any]:
        """In JSON's types."""
        inputs = {
            name: {"datatype": datatype_of(array), "shape": list(array.shape), "data": array.tolist()}
            for name, array in self.inputs.items()
        }
        return {"time": self.time, "request_id": self.request_id, "bins": dict(self.bins), "inputs": inputs}


@dataclass(slots=True)
class _Period:
    """What was seen since `start`, and what of it is kept."""

    start: float
    counts: dict[str, NDArray[np.int64]]
    offered: dict[Key, int] = field(default_factory=dict)
    kept: dict[Key, list[Example]] = field(default_factory=dict)


class Reservoir:
    """Examples of one version. Bounded in number, in bytes and in time."""

    def __init__(
        self,
        features: tuple[Feature, ...],
        *,
        keep_inputs: bool,
        clock: Callable[[], float],
        random: np.random.Generator,
    ) -> None:
        self._features = {feature.name: feature for feature in features}
        self._shares = {feature.name: np.array([one.ratio for one in feature.bins]) for feature in features}
        self._keep_inputs = keep_inputs
        self._clock = clock
        self._random = random
        self._current = self._begin()
        self._previous: _Period | None = None

    def offer(self, assigned: Assigned, inputs: Tensors, request_ids: list[str]) -> None:
        """Look at the samples of a batch: the bins of their features, their inputs `[N, ...]`, their requests' ids."""
        self._turn()
        made: dict[int, Example] = {}
        for key, row in self._chosen(assigned):
            if row not in made:
                made[row] = self._example(row, assigned, inputs, request_ids)
            self._keep(key, made[row])

    def examples(self, feature: str) -> list[dict[str, Any]]:
        """What is kept of a feature, newest first; KeyError for one there isn't."""
        bins = self._features[feature].bins
        self._turn()
        periods = [self._current] if self._previous is None else [self._current, self._previous]
        found = [
            {"bin": bins[index].id, **example.describe()}
            for period in periods
            for (name, index), examples in period.kept.items()
            if name == feature
            for example in examples
        ]
        return sorted(found, key=lambda one: -one["time"])

    def _chosen(self, assigned: Assigned) -> Iterator[tuple[Key, int]]:
        """Bins with too many samples, and the rows of the batch that go into their reservoirs."""
        period = self._current
        for name, index in assigned.items():
            counts = period.counts[name]
            counts += np.bincount(index, minlength=len(counts))
            expected = self._shares[name] * counts.sum()
            for hot in np.flatnonzero(counts - expected > _SURPLUS_SD * np.sqrt(expected + 1)).tolist():
                rows = np.flatnonzero(index == hot)
                key = (name, hot)
                if not len(rows) or (key not in period.offered and len(period.offered) >= MAX_BINS):
                    continue
                places = period.offered.get(key, 0) + 1 + np.arange(len(rows))
                period.offered[key] = int(places[-1])
                for row in rows[self._random.random(len(rows)) * places < MAX_EXAMPLES].tolist():
                    yield key, row

    def _keep(self, key: Key, example: Example) -> None:
        kept = self._current.kept.setdefault(key, [])
        if len(kept) < MAX_EXAMPLES:
            kept.append(example)
        else:
            kept[int(self._random.integers(MAX_EXAMPLES))] = example

    def _example(self, row: int, assigned: Assigned, inputs: Tensors, request_ids: list[str]) -> Example:
        bins = {name: self._features[name].bins[int(index[row])].id for name, index in assigned.items()}
        kept: dict[str, NDArray[Any]] = {}
        if self._keep_inputs and sum(_row_bytes(array[row]) for array in inputs.values()) <= MAX_INPUT_BYTES:
            kept = {name: np.array(array[row]) for name, array in inputs.items()}  # a copy: the batch can go
        return Example(time=self._clock(), request_id=request_ids[row], bins=bins, inputs=kept)

    def _turn(self) -> None:
        """Begin a new period when it is time, and forget what is older than two of them."""
        age = self._clock() - self._current.start
        if age >= PERIOD_S:
            self._previous = self._current if age < 2 * PERIOD_S else None
            self._current = self._begin()

    def _begin(self) -> _Period:
        counts = {name: np.zeros(len(shares), np.int64) for name, shares in self._shares.items()}
        return _Period(start=self._clock(), counts=counts)


def _row_bytes(row: NDArray[Any]) -> int:
    """What a sample takes; of texts, what they hold."""
    if row.dtype != object:
        return int(row.nbytes)
    return sum(len(element) for element in row.ravel().tolist())
