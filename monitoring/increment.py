"""Counts of every reference bin in every minute, from the counters that Prometheus has scraped of all replicas.

`increase()` extrapolates to the ends of its window; here differences between the values at whole minutes are taken of
each replica's counter, so that they add up to what was counted, and nothing is counted twice. A counter that falls was
restarted from 0. One that is seen for the first time, or again after a break across a chain's beginning, counts from
there on: so what is read doesn't depend on when the reading began.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from contract.profile import PREDICTION
from monitoring.detector import FLOOR as DEFAULT_FLOOR
from monitoring.detector import STEP_S, Cell, Counts, Reference
from monitoring.drift import DISPERSION, FLOOR, MEASURED_DISPERSION
from monitoring.query import Client, Series
from monitoring.reference import FEATURE
from monitoring.rule import recent

Key = tuple[str, str, str]  # model, version, feature

_BINS = "inference_feature_bin_total"
_PREDICTIONS = "inference_prediction_total"
_RATIO = "inference_feature_reference_ratio"
_SAMPLES = "inference_feature_reference_samples"
_NOT_OURS = frozenset({"__name__", "model", "version", "feature", "bin", "tail", "label"})


@dataclass(slots=True)
class Increments:
    """Reads forwards in time, and remembers the last value of each replica's counters."""

    client: Client
    _last: dict[tuple[Key, Cell, tuple[tuple[str, str], ...]], float] = field(default_factory=dict)

    def begin(self, step: int) -> None:
        """Take the values at a step as those to count from, and forget all others."""
        self._last = {}
        self.read(step, step)

    def read(self, first: int, last: int) -> dict[Key, dict[Cell, Counts]]:
        """Counts in each of the steps `first` to `last`, both included: of each cell `[steps]`."""
        counts: dict[Key, dict[Cell, Counts]] = {}
        for series in list(
            self._series(first, last)
        ):  # all or nothing: a failure must leave the last values as they are
            key, cell, replica = _place(series.labels)
            grown = self._grown((key, cell, replica), series.values)
            cells = counts.setdefault(key, {})
            cells[cell] = cells.get(cell, 0) + grown
        return counts

    def _series(self, first: int, last: int) -> Iterator[Series]:
        for name in (_BINS, _PREDICTIONS):
            yield from self.client.range(name, first * STEP_S, last * STEP_S, STEP_S)

    def _grown(self, series: tuple[Key, Cell, tuple[tuple[str, str], ...]], values: NDArray[np.float64]) -> Counts:
        """How much a counter grew in each step; a step without a value adds nothing, and the next one catches up."""
        grown = np.zeros(len(values), np.int64)
        there = np.flatnonzero(~np.isnan(values))
        if there.size:
            seen = values[there]
            before = np.concatenate(([self._last.get(series, seen[0])], seen[:-1]))
            grown[there] = np.where(seen < before, seen, seen - before)
            self._last[series] = float(seen[-1])
        return grown


def read_references(client: Client, step: int) -> dict[Key, Reference]:
    """Every feature's reference, its dispersion and its floor, as they were at a step."""
    at = step * STEP_S
    shares: dict[Key, dict[Cell, float]] = {}
    for sample in client.instant(f"max by (model, version, feature, bin, tail) ({_RATIO})", at):
        key, cell, _ = _place(sample.labels)
        shares.setdefault(key, {})[cell] = sample.value
    by = f"max by ({FEATURE})"
    dispersed = f"{by} ({recent(DISPERSION)}) or {by} ({recent(MEASURED_DISPERSION)})"
    samples, dispersion, floor = (
        {_place(sample.labels)[0]: sample.value for sample in client.instant(expr, at)}
        for expr in (f"{by} ({_SAMPLES})", dispersed, f"{by} ({recent(FLOOR)})")
    )
    return {
        key: Reference(
            shares=cells,
            num_samples=samples[key],
            dispersion=round(dispersion.get(key, 1.0), 1),  # finer, it would change all the time
            floor=floor.get(key, DEFAULT_FLOOR),
        )
        for key, cells in shares.items()
        if samples.get(key, 0) > 0
    }


def _place(labels: Mapping[str, str]) -> tuple[Key, Cell, tuple[tuple[str, str], ...]]:
    """Which cell of which feature a series counts, and which replica's it is."""
    feature = PREDICTION if "label" in labels else labels["feature"]
    cell = labels.get("bin", labels.get("label", "")), labels.get("tail") == "1"
    replica = tuple(sorted((name, value) for name, value in labels.items() if name not in _NOT_OURS))
    return (labels["model"], labels["version"], feature), cell, replica
