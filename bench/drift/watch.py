"""The ways that a model is watched: the windows' rules, with what they know of its traffic, and the fast lane."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.drift.evaluator import Evaluator, Vector
from bench.drift.ruling import COARSE, STEP_S, Firing, Series, alarm_series, firing, record, rules
from bench.drift.traffic import Counts, Model, counters, gauge
from monitoring.detector import FLOOR as DEFAULT_FLOOR
from monitoring.detector import HORIZON, Detector, Reference
from monitoring.dispersion import dispersion_group
from monitoring.drift import FLOOR, MEASURED_DISPERSION, WINDOWS
from monitoring.fast_lane import BUDGET_MINUTES
from monitoring.reference import BIN, EACH, FEATURE, SCORE
from monitoring.statistic import ALARM_Z

BURN_IN_MARGIN = 1.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """A model under traffic: its counts, the series that rules read, and what was measured of its traffic."""

    model: Model
    counts: list[Counts]
    series: Series
    dispersion: dict[str, float]


def watched(model: Model, counts: list[Counts], *, measure_until: int | None = None) -> Watched:
    """Measure the dispersion by its own rules; they see traffic up to a minute, and what they record is constant then.

    In Prometheus the record goes on changing by a few percent; here the value at that minute is used throughout.
    """
    series = counters(model, counts)
    coarse = {name: Vector(v.labels, v.values[:, :measure_until:COARSE]) for name, v in series.items()}
    evaluator = Evaluator(coarse, COARSE * STEP_S)
    record(evaluator, (*rules(WINDOWS[-1:]), *dispersion_group().rules))
    measured = evaluator.series[MEASURED_DISPERSION]
    values = {
        dict(labels)["feature"]: float(row[-1]) for labels, row in zip(measured.labels, measured.values, strict=True)
    }
    series[MEASURED_DISPERSION] = gauge(values, counts[0].shape[1])
    return Watched(model=model, counts=counts, series=series, dispersion=values)


def by_windows(one: Watched, *, floors: dict[str, float] | None = None, dispersion: bool = True) -> Firing:
    """What the rules and alerts say, for each feature and minute."""
    series = dict(one.series)
    if floors is not None:
        series[FLOOR] = gauge(floors, one.counts[0].shape[1])
    if not dispersion:
        del series[MEASURED_DISPERSION]
    return firing(series)


def by_windows_and_yesterday(one: Watched) -> Firing:
    """An idea tried: an ordered feature must also differ from the same hour of the day before."""
    hour = WINDOWS[0]
    evaluator = Evaluator(
        {name: Vector(v.labels, v.values[:, ::COARSE]) for name, v in one.series.items()}, COARSE * STEP_S
    )
    record(evaluator, rules((hour,)))
    n, num = hour.count, hour.record()
    now, then = f"{n} / {EACH}({num} > 0)", f"{n} offset 1d / {EACH}({num} offset 1d > 0)"
    moved = f"sum by ({FEATURE}, test) ({SCORE} * on ({BIN}) group_left () ({now} - {then}))"
    variance = f"(1 / {num} + 1 / {num} offset 1d) * max by ({FEATURE}) ({MEASURED_DISPERSION})"
    alike = evaluator.evaluate(f"max by ({FEATURE}) (abs({moved} / {EACH}sqrt({variance}))) <= {ALARM_Z}")
    hushed = {
        dict(labels)["feature"]: np.repeat(~np.isnan(row), COARSE)[: one.counts[0].shape[1]]
        for labels, row in zip(alike.labels, alike.values, strict=True)
    }
    return firing(one.series, hushed=hushed)


def burn_in_floors(one: Watched, until: int) -> dict[str, float]:
    """For each feature a quarter more than the largest unbiased PSI of any window up to a minute."""
    series = {name: Vector(v.labels, v.values[:, :until]) for name, v in one.series.items()}
    names = {window.record("psi_unbiased") for window in WINDOWS}
    floors: dict[str, float] = {}
    for name, vector in alarm_series(series, read=names).items():
        assert name in names
        for labels, values in zip(vector.labels, vector.values, strict=True):
            feature = dict(labels)["feature"]
            floors[feature] = max(floors.get(feature, 0.0), BURN_IN_MARGIN * float(np.nanmax(values, initial=0)))
    return floors


def by_fast_lane(one: Watched, floors: dict[str, float] | None = None) -> Firing:
    """Whether the evidence of each feature is above the limit, for each minute."""
    limit = np.log10(BUDGET_MINUTES * len(one.model.features))
    return {
        feature.name: _evidence(
            Reference(
                shares={(b.id, b.tail): b.ratio for b in feature.bins},
                num_samples=feature.num_samples,
                dispersion=one.dispersion.get(feature.name, 1.0),
                floor=(floors or {}).get(feature.name, DEFAULT_FLOOR),
            ),
            [(b.id, b.tail) for b in feature.bins],
            counts,
        )
        > limit
        for feature, counts in zip(one.model.features, one.counts, strict=True)
    }


def by_floorless_lane(one: Watched) -> Firing:
    """The fast lane where traffic is known to have no rhythm."""
    return by_fast_lane(one, {feature.name: 0.0 for feature in one.model.features})


def _evidence(reference: Reference, cells: list[tuple[str, bool]], counts: Counts) -> NDArray[np.float64]:
    detector = Detector(reference)
    ordered = counts[[cells.index(cell) for cell in reference.cells]]
    parts = []
    for start in range(0, counts.shape[1], HORIZON):
        detector.rotate()
        parts.append(detector.update(ordered[:, start : start + HORIZON]))
    return np.concatenate(parts)
