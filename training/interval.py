"""95 % intervals for what a finite test set shows of one model, and of two that answered the same samples.

One model. Wilson, E. B. (1927), "Probable inference, the law of succession, and statistical inference", JASA 22: for a
share it keeps its coverage near 0 and 1, where the usual normal interval doesn't. Means get the normal interval by the
central limit theorem; whatever is no mean, a bootstrap (Efron & Tibshirani 1993, section 13).

Two models. Samples that both get right, or both wrong, say nothing of which is better. McNemar, Q. (1947),
Psychometrika 12, looks at the others alone; exact, with the mid-p value that Fagerland, Lydersen & Laake (2013), BMC
Med Res Methodol 13:91, recommend. The difference of the two shares gets the score interval of Tango, T. (1998), Stat
Med 17; any other difference a bootstrap that draws samples, each with both answers.

Both kinds of bootstrap take samples for independent, unless they are told that neighbours belong together: then blocks
of neighbours are drawn, the last sample's neighbour being the first. Politis, D. & Romano, J. (1992), "A circular
block-resampling procedure for stationary data", in Exploring the Limits of Bootstrap.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.schema import Metric

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile
NUM_BINS = 15  # Guo et al. 2017, arXiv 1706.04599
_NUM_RESAMPLES = 1_000
_BOOTSTRAP_SEED = 1927
_NUM_HALVINGS = 60  # of an interval of length 1: to the last bit of a double

Statistic = Callable[[NDArray[Any]], float]
"""What some rows of `[N, ...]` amount to."""


def share(name: str, num_hits: int, num_samples: int) -> Metric:
    """A share with its Wilson interval; ValueError unless 0 <= hits <= samples and samples > 0."""
    if not 0 <= num_hits <= num_samples or num_samples == 0:
        raise ValueError(f"{name}: expected 0 <= hits <= samples, samples above 0, got {num_hits} of {num_samples}")
    p, n, zz = num_hits / num_samples, num_samples, Z_95 * Z_95
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + zz / (4 * n * n)) / (1 + zz / n)
    low = 0.0 if num_hits == 0 else centre - half  # exactly, where rounding would miss it
    high = 1.0 if num_hits == n else centre + half
    return Metric(name=name, value=p, low=low, high=high, num_samples=n)


def mean(name: str, values: NDArray[np.float64]) -> Metric:
    """The mean of `[N]` values with its normal interval; of one value the interval is the value."""
    value = float(values.mean())
    half = Z_95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Metric(name=name, value=value, low=value - half, high=value + half, num_samples=len(values))


def calibration_error(name: str, confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> Metric:
    """Expected calibration error over 15 equal bins: mean distance of confidence `[N]` from accuracy in a bin.

    Noise only ever adds to this distance, so the bootstrap's values lie too high by about as much as the estimate
    itself: the interval is the reflected one, which takes that off.
    """
    samples: NDArray[np.float64] = np.stack((confidence, correct.astype(np.float64)), axis=1)
    value = binned_gap(samples)
    below, above = np.quantile(_resampled(len(samples), lambda chosen: binned_gap(samples[chosen])), (0.025, 0.975))
    low, high = min(value, max(0.0, 2 * value - above)), max(value, 2 * value - below)
    return Metric(name=name, value=value, low=float(low), high=float(high), num_samples=len(samples))


def binned_gap(samples: NDArray[np.float64]) -> float:
    """Mean distance of confidence from accuracy over 15 equal bins; `samples` `[N, 2]`: confidence, and 1 if right."""
    confidence, correct = samples.T
    bins = np.minimum((confidence * NUM_BINS).astype(np.intp), NUM_BINS - 1)
    return float(abs(np.bincount(bins, confidence - correct, NUM_BINS)).sum() / len(samples))


def bootstrapped(name: str, samples: NDArray[Any], statistic: Statistic, *, block: int = 1) -> Metric:
    """A statistic of `[N, ...]` samples with its percentile interval; `block` neighbours each are drawn together."""
    value = statistic(samples)
    low, high = np.quantile(_resampled(len(samples), lambda chosen: statistic(samples[chosen]), block), (0.025, 0.975))
    return Metric(
        name=name, value=value, low=min(value, float(low)), high=max(value, float(high)), num_samples=len(samples)
    )


def difference(
    ours: NDArray[Any], theirs: NDArray[Any], statistic: Statistic, *, block: int = 1
) -> tuple[float, float, float]:
    """Percentile interval of a statistic's difference between two models, and its two-sided p value.

    `ours` and `theirs` are `[N, ...]` of the same samples, `block` neighbours of which are drawn together.
    """
    both = _resampled(len(ours), lambda chosen: statistic(ours[chosen]) - statistic(theirs[chosen]), block)
    low, high = np.quantile(both, (0.025, 0.975))
    rarer = min(int((both <= 0).sum()), int((both >= 0).sum()))
    return float(low), float(high), min(1.0, 2 * (rarer + 1) / (len(both) + 1))


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided mid-p value of McNemar's exact test.

    `gained` samples only the one model gets right, `lost` only the other.
    """
    fewer, total = min(gained, lost), gained + lost
    i = np.arange(1, fewer + 1)
    log_ways = np.concatenate(([0.0], np.cumsum(np.log((total - i + 1) / i))))  # log of total over 0, 1, ... fewer
    mass = np.exp(log_ways - total * math.log(2))
    return min(1.0, float(2 * mass.sum() - mass[-1]))


def share_difference(gained: int, lost: int, num_samples: int) -> tuple[float, float]:
    """Tango's score interval of the difference of two shares of the same samples; counts as in `mcnemar`."""
    return _tango(gained, lost, num_samples), -_tango(lost, gained, num_samples)


def _tango(gained: int, lost: int, n: int) -> float:
    """The lower end: where the score of a smaller difference would be above the normal's quantile."""
    low, high = -1.0, (gained - lost) / n
    for _ in range(_NUM_HALVINGS):
        delta = (low + high) / 2
        b = (2 * n - gained + lost) * delta - gained - lost
        q = (math.sqrt(b * b + 8 * n * lost * delta * (1 - delta)) - b) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        score = gained - lost - n * delta
        low, high = (delta, high) if score * score > Z_95 * Z_95 * max(variance, 0.0) else (low, delta)
    return high


def _resampled(num_samples: int, statistic: Statistic, block: int = 1) -> NDArray[np.float64]:
    """The statistic of the indices of each resample: as many as there are samples, in blocks drawn with replacement.

    A single block would always be all of the samples, and show no chance at all: there are at least two.
    """
    if block < 1:
        raise ValueError(f"block: expected at least 1 sample, got {block}")
    block = min(block, -(-num_samples // 2))
    rng = np.random.default_rng(_BOOTSTRAP_SEED)

    def drawn() -> NDArray[np.intp]:
        first = rng.integers(0, num_samples, -(-num_samples // block))
        return (first[:, None] + np.arange(block)).ravel()[:num_samples] % num_samples

    return np.array([statistic(drawn()) for _ in range(_NUM_RESAMPLES)])
