"""False alarms in months of harmless traffic, and how soon a shift is seen; every figure with a fixed seed."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from bench.drift.result import Alarms, Delay
from bench.drift.ruling import Firing, episodes
from bench.drift.traffic import MINUTES_A_DAY, Counts, Distribution, Model, Traffic, simulate
from bench.drift.watch import (
    Watched,
    burn_in_floors,
    by_fast_lane,
    by_floorless_lane,
    by_windows,
    by_windows_and_yesterday,
    watched,
)

WINDOWS_WAY, FAST_WAY, FLOORLESS_WAY = "windows", "fast lane", "fast lane, floor 0"
YESTERDAY_WAY = "windows, and other than the day before"
NUM_SAMPLES = 50_000
MONTH_DAYS = 30
_BURN_IN_DAYS = 7
_AFTER_HOURS = 30

HARMLESS = {
    "independent, 10/min": Traffic(rate=10),
    "independent, 100/min": Traffic(rate=100),
    "sessions, dispersion 3, 10/min": Traffic(rate=10, session=2),
    "sessions, dispersion 7, 10/min": Traffic(rate=10, session=4),
    "sessions, dispersion 7, 100/min": Traffic(rate=100, session=4),
    "daily wave of 0.05 sd, 100/min": Traffic(rate=100, wave=0.05),
    "daily wave of 0.1 sd, 100/min": Traffic(rate=100, wave=0.1),
    "daily wave of 0.2 sd, 100/min": Traffic(rate=100, wave=0.2),
}
SHIFTS = {
    "location 0.1 sd": Distribution(location=0.1),
    "location 0.25 sd": Distribution(location=0.25),
    "location 0.5 sd": Distribution(location=0.5),
    "variance x 1.5": Distribution(scale=1.5**0.5),
    "5 % outliers": Distribution(outliers=0.05),
}
_WATCHES: dict[str, Callable[[Watched], Firing]] = {
    WINDOWS_WAY: by_windows,
    FAST_WAY: by_fast_lane,
    FLOORLESS_WAY: by_floorless_lane,
    YESTERDAY_WAY: by_windows_and_yesterday,
}
CATEGORY_SHIFT = "3 % of a category to the rarest"


def alarms(name: str, months: int, seed: int, num_samples: int = NUM_SAMPLES) -> Iterator[Alarms]:
    """False alarms of harmless traffic, by each way of watching; floors are those of a week before."""
    counted: dict[str, int] = {}
    started = time.monotonic()
    for month in range(months):
        random = np.random.default_rng((seed, month, sum(map(ord, name))))
        model = Model.draw(random, num_samples)
        days = 1 + _BURN_IN_DAYS + MONTH_DAYS
        start = (1 + _BURN_IN_DAYS) * MINUTES_A_DAY
        one = watched(model, simulate(model, HARMLESS[name], days * MINUTES_A_DAY, random), measure_until=start)
        for way, fired in _ways(one, HARMLESS[name], start):
            counted[way] = counted.get(way, 0) + sum(episodes(active, start) for active in fired.values())
    seconds = time.monotonic() - started
    for way, number in counted.items():
        yield Alarms(traffic=name, way=way, alarms=number, months=months, seconds=seconds)


def _ways(one: Watched, traffic: Traffic, start: int) -> Iterator[tuple[str, Firing]]:
    yield WINDOWS_WAY, by_windows(one)
    yield FAST_WAY, by_fast_lane(one)
    yield FLOORLESS_WAY, by_floorless_lane(one)
    if traffic.session > 1:
        yield "windows, dispersion taken for 1", by_windows(one, dispersion=False)
    if traffic.wave:
        floors = burn_in_floors(one, start)
        yield "windows, floor of a week's burn-in", by_windows(one, floors=floors)
        yield YESTERDAY_WAY, by_windows_and_yesterday(one)
        yield "fast lane, floor of a week's burn-in", by_fast_lane(one, floors)


def delays(rate: float, seed: int, num_samples: int = NUM_SAMPLES) -> Iterator[Delay]:
    """Samples that each of 30 equally shifted features takes until an alarm, by each way of watching."""
    for number, (shift, ordered, traffic) in enumerate(_shifts(rate)):
        random = np.random.default_rng((seed, number))
        model = Model.draw(random, num_samples, ordered=30 * ordered, categorical=30 * (not ordered))
        num_minutes = traffic_end(traffic)
        one = watched(model, simulate(model, traffic, num_minutes, random), measure_until=traffic.shift_at)
        for way, watch in _WATCHES.items():
            yield _delay(shift, way, traffic, one.counts, watch, one)


def traffic_end(traffic: Traffic) -> int:
    """Minutes that a run with a shift takes."""
    assert traffic.shift_at is not None
    return traffic.shift_at + _AFTER_HOURS * 60


def _shifts(rate: float) -> Iterator[tuple[str, bool, Traffic]]:
    at = MINUTES_A_DAY + 137  # in no step with any window
    for shift, shifted in SHIFTS.items():
        yield shift, True, Traffic(rate=rate, shifted=shifted, shift_at=at)
    yield CATEGORY_SHIFT, False, Traffic(rate=rate, moved=0.03, shift_at=at)


def _delay(
    shift: str, way: str, traffic: Traffic, counts: list[Counts], watch: Callable[[Watched], Firing], one: Watched
) -> Delay:
    at = traffic.shift_at
    assert at is not None
    fired = watch(one)
    taken = []
    for feature, count in zip(one.model.features, counts, strict=True):
        active = fired.get(feature.name)
        hits = np.flatnonzero(active[at:]) if active is not None else np.empty(0, np.intp)
        taken.append(float(count[:, at : at + int(hits[0]) + 1].sum()) if len(hits) else None)
    limit = (traffic_end(traffic) - at) * traffic.rate
    return Delay(shift=shift, way=way, rate=traffic.rate, samples=tuple(taken), limit=limit)
