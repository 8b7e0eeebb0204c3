"""95 % intervals for what a finite test set shows.

Wilson, E. B. (1927), "Probable inference, the law of succession, and statistical inference", JASA 22: for a share it
keeps its coverage near 0 and 1, where the usual normal interval doesn't. Means get the normal interval by the central
limit theorem; a calibration error, which is no mean, a bootstrap (Efron & Tibshirani 1993, section 13).
"""

import math

import numpy as np
from numpy.typing import NDArray

from contract.schema import Metric

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile
NUM_BINS = 15  # Guo et al. 2017, arXiv 1706.04599
_NUM_RESAMPLES = 1_000
_BOOTSTRAP_SEED = 1927


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
    bins = np.minimum((confidence * NUM_BINS).astype(np.intp), NUM_BINS - 1)
    gap = confidence - correct
    value = float(abs(np.bincount(bins, gap, NUM_BINS)).sum() / len(gap))
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    resampled = np.empty(_NUM_RESAMPLES)
    for i in range(_NUM_RESAMPLES):
        chosen = rng.integers(0, len(gap), len(gap))
        resampled[i] = abs(np.bincount(bins[chosen], gap[chosen], NUM_BINS)).sum() / len(gap)
    below, above = np.quantile(resampled, (0.025, 0.975))
    low, high = min(value, max(0.0, 2 * value - above)), max(value, 2 * value - below)
    return Metric(name=name, value=value, low=float(low), high=float(high), num_samples=len(gap))
