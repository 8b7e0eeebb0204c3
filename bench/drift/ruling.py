"""What the drift rules and alerts of `monitoring` say of a model's counters, minute by minute."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.drift.evaluator import Evaluator, Vector
from monitoring.drift import WINDOWS, Window, drift_groups
from monitoring.drift_alert import drift_alerts
from monitoring.promql import metric_names
from monitoring.rule import Rule

STEP_S = 60
COARSE = 5  # steps between evaluations of what is downsampled
PENDING_STEPS = 15

_CHUNK_STEPS = 2 * 24 * 60
_HOUR_STEPS = 60

Series = Mapping[str, Vector]
Firing = dict[str, NDArray[np.bool_]]  # by feature, `[T]`


def firing(series: Series, windows: Iterable[Window] = WINDOWS, hushed: Firing | None = None) -> Firing:
    """Whether a drift alert fires for each feature in each minute; it isn't active where the feature is hushed."""
    recorded = alarm_series(series, windows)
    evaluator = Evaluator(recorded, STEP_S)
    alerts = {alert.name: alert for alert in drift_alerts(tuple(windows)).rules}
    active: Firing = {}
    for name in ("FeatureDrift", "UnseenValues"):
        result = evaluator.evaluate(alerts[name].expr)
        for labels, values in zip(result.labels, result.values, strict=True):
            feature = dict(labels)["feature"]
            there = ~np.isnan(values)
            held = _held(there if hushed is None or feature not in hushed else there & ~hushed[feature])
            active[feature] = active[feature] | held if feature in active else held
    return active


def alarm_series(
    series: Series, windows: Iterable[Window] = WINDOWS, read: Set[str] | None = None
) -> dict[str, Vector]:
    """What the alerts read, or `read`, on the grid of a minute: of long windows where it is recorded."""
    chosen = tuple(windows)
    read = read or {name for alert in drift_alerts(chosen).rules for name in metric_names(alert.expr)}
    long = tuple(window for window in chosen if window.downsampled)
    short = tuple(window for window in chosen if not window.downsampled)
    found: dict[str, Vector] = {}
    if short:
        found |= _in_chunks(series, rules(short), read)
    if long:
        evaluator = Evaluator(_thinned(series), COARSE * STEP_S)
        record(evaluator, rules(long))
        num = next(iter(series.values())).values.shape[1]
        found |= {name: _spread(vector, num) for name, vector in evaluator.series.items() if name in read}
    return found


def rules(windows: tuple[Window, ...]) -> list[Rule]:
    """The recording rules of these windows, in order, without those that only people look at."""
    return [rule for group in drift_groups(windows) if group.name != "drift_distance" for rule in group.rules]


def record(evaluator: Evaluator, chosen: Iterable[Rule]) -> None:
    """Record rules in order."""
    for rule in chosen:
        evaluator.record(rule.record, rule.expr, rule.labels)


def episodes(active: NDArray[np.bool_], start: int) -> int:
    """How often an alert begins to fire from a minute on."""
    return int(np.count_nonzero(active[start:] & ~np.pad(active, (1, 0))[start:-1]))


def _in_chunks(series: Series, chosen: list[Rule], read: Set[str]) -> dict[str, Vector]:
    """The hour's rules look back an hour, so they are evaluated two days at a time, in little memory."""
    num = next(iter(series.values())).values.shape[1]
    parts: dict[str, list[Vector]] = {}
    for start in range(0, num, _CHUNK_STEPS):
        before = min(start, _HOUR_STEPS)
        part = slice(start - before, start + _CHUNK_STEPS)
        evaluator = Evaluator({name: replace(v, values=v.values[:, part]) for name, v in series.items()}, STEP_S)
        record(evaluator, chosen)
        for name in read & evaluator.series.keys():
            vector = evaluator.series[name]
            parts.setdefault(name, []).append(replace(vector, values=vector.values[:, before:]))
    return {name: _concatenated(vectors) for name, vectors in parts.items()}


def _concatenated(vectors: list[Vector]) -> Vector:
    labels = list(dict.fromkeys(one for vector in vectors for one in vector.labels))
    rows = {one: i for i, one in enumerate(labels)}
    whole = np.full((len(labels), sum(vector.values.shape[1] for vector in vectors)), np.nan)
    start = 0
    for vector in vectors:
        end = start + vector.values.shape[1]
        whole[[rows[one] for one in vector.labels], start:end] = vector.values
        start = end
    return Vector(labels, whole)


def _thinned(series: Series) -> dict[str, Vector]:
    return {name: replace(vector, values=vector.values[:, ::COARSE]) for name, vector in series.items()}


def _spread(vector: Vector, num: int) -> Vector:
    values = np.full((len(vector.labels), num), np.nan)
    values[:, ::COARSE] = vector.values
    return replace(vector, values=values)


def _held(active: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether it has been active at this and all evaluations of the pending time before it."""
    quiet = np.where(active, 0, np.arange(1, len(active) + 1))
    last_quiet = np.maximum.accumulate(quiet)
    return np.arange(1, len(active) + 1) - last_quiet > PENDING_STEPS
