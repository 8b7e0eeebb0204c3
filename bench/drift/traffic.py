"""Simulated traffic of one model: what its gateways would have counted in each minute, independent draws or not.

Ordered features are normal under the reference; a minute's counts are drawn from the exact shares of the shifted
distribution in the profile's bins. Categorical ones have eight categories. Requests come as Poisson arrivals of
sessions: a session is a geometric number of requests that are all alike, so a mean of s gives the dispersion 2 s - 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from bench.drift.evaluator import Labels, Vector
from contract.profile import Feature, categorical_feature, ordered_feature

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

MINUTES_A_DAY = 24 * 60
NUM_ORDERED, NUM_CATEGORICAL = 24, 6
CATEGORIES = tuple("abcdefgh")
CATEGORY_SHARES = np.array([0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.04, 0.01])

_LONGEST_SESSION = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """An ordered feature's distribution in one minute: a normal one, with a share of outliers four times as wide."""

    location: float = 0.0
    scale: float = 1.0
    outliers: float = 0.0

    def cumulative(self, edges: Floats) -> Floats:
        """Share below each edge."""
        inner, outer = (ndtr((edges - self.location) / (self.scale * wide)) for wide in (1.0, 4.0))
        return np.asarray((1 - self.outliers) * inner + self.outliers * outer)

    def draw(self, random: np.random.Generator, num: int) -> Floats:
        """So many values."""
        wide = np.where(random.random(num) < self.outliers, 4.0, 1.0)
        return np.asarray(self.location + self.scale * wide * random.normal(size=num))


NULL = Distribution()


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Requests a minute, how long their sessions are on average, and the height of a daily wave in the location.

    From the minute `shift_at` on, ordered features have `shifted`, and of the categorical ones' values a share of
    `moved` is taken from the most frequent category and given to the rarest.
    """

    rate: float
    session: float = 1.0
    wave: float = 0.0
    shifted: Distribution = NULL
    moved: float = 0.0
    shift_at: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A version's features with their profiles; the samples behind each are its own."""

    features: tuple[Feature, ...]
    num_samples: int

    @classmethod
    def draw(
        cls,
        random: np.random.Generator,
        num_samples: int,
        ordered: int = NUM_ORDERED,
        categorical: int = NUM_CATEGORICAL,
    ) -> "Model":
        """A model whose reference is a sample of the null distribution."""
        features = [ordered_feature(f"x{i:02d}", NULL.draw(random, num_samples)) for i in range(ordered)]
        for i in range(categorical):
            drawn = random.choice(len(CATEGORIES), size=num_samples, p=CATEGORY_SHARES)
            features.append(categorical_feature(f"c{i:02d}", [CATEGORIES[k] for k in drawn], CATEGORIES))
        return cls(features=tuple(features), num_samples=num_samples)


def simulate(model: Model, traffic: Traffic, num_minutes: int, random: np.random.Generator) -> list[Counts]:
    """For each feature the counts `[bins, minutes]` of its profile's bins."""
    return [_sampled(_shares(feature, traffic, num_minutes), traffic, random) for feature in model.features]


def counters(model: Model, counts: list[Counts]) -> dict[str, Vector]:
    """The series that a gateway exports: counters that begin at 0, and the reference."""
    num_minutes = counts[0].shape[1]
    labels = [(feature, one) for feature in model.features for one in feature.bins]
    names = [_labels(feature.name, bin=one.id, tail="1" if one.tail else "") for feature, one in labels]
    totals = np.concatenate(counts).cumsum(axis=1, dtype=np.float64)
    ones = np.ones((1, num_minutes))
    samples = np.array([[feature.num_samples] for feature in model.features], float)
    return {
        "inference_feature_bin_total": Vector(names, totals),
        "inference_feature_reference_ratio": Vector(names, np.array([[one.ratio] for _, one in labels]) * ones),
        "inference_feature_reference_samples": Vector([_labels(f.name) for f in model.features], samples * ones),
    }


def gauge(values: dict[str, float], num_minutes: int) -> Vector:
    """A gauge of each feature that doesn't change."""
    return Vector(
        [_labels(name) for name in values], np.array([[v] for v in values.values()]) * np.ones((1, num_minutes))
    )


def _labels(feature: str, **more: str) -> Labels:
    labels = {"model": "m", "version": "1", "feature": feature, **more}
    return tuple(sorted((name, value) for name, value in labels.items() if value))


def _shares(feature: Feature, traffic: Traffic, num_minutes: int) -> Floats:
    """Share of each bin in each minute, `[minutes, bins]`."""
    minutes = np.arange(num_minutes)
    shifted = np.zeros(num_minutes, bool) if traffic.shift_at is None else minutes >= traffic.shift_at
    if feature.kind == "categorical":
        moved = CATEGORY_SHARES + traffic.moved * (np.arange(8) == 7) - traffic.moved * (np.arange(8) == 0)
        shares = np.where(shifted[:, None], moved, CATEGORY_SHARES)
        return np.pad(shares, ((0, 0), (0, 2)))
    wave = traffic.wave * np.sin(2 * np.pi * minutes / MINUTES_A_DAY)
    edges = np.array(feature.edges)
    below = _by_wave(lambda x: NULL.cumulative(edges - x), wave)
    below_shifted = _by_wave(lambda x: traffic.shifted.cumulative(edges - x), wave)
    cumulative = np.where(shifted[:, None], below_shifted, below)
    return np.pad(np.diff(cumulative, prepend=0, append=1), ((0, 0), (0, 1)))


def _by_wave(cumulative: Callable[[float], Floats], wave: Floats) -> Floats:
    known = cache(cumulative)  # a day has few different minutes
    return np.stack([known(float(x)) for x in np.round(wave, 4)])


def _sampled(shares: Floats, traffic: Traffic, random: np.random.Generator) -> Counts:
    num_minutes, num_bins = shares.shape
    if traffic.session == 1:
        return np.asarray(random.multinomial(random.poisson(traffic.rate, num_minutes), shares).T)
    counts = np.zeros((num_minutes, num_bins), np.int64)
    stop = 1 / traffic.session
    for length in range(1, _LONGEST_SESSION):
        rate = traffic.rate / traffic.session * stop * (1 - stop) ** (length - 1)
        counts += length * random.multinomial(random.poisson(rate, num_minutes), shares)
    return counts.T
