import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.interval import Z_95, bootstrapped, calibration_error, difference, mean, share

COUNTS = st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def test_the_quantile_is_the_normal_distributions() -> None:
    assert stats.norm.ppf(0.975) == Z_95


@given(COUNTS)
def test_a_share_has_scipys_wilson_interval(counts: tuple[int, int]) -> None:
    hits, samples = counts
    metric = share("m", hits, samples)
    expected = stats.binomtest(hits, samples).proportion_ci(0.95, method="wilson")
    assert metric.low == pytest.approx(expected.low, abs=1e-9)
    assert metric.high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= metric.low <= metric.value <= metric.high <= 1


@pytest.mark.parametrize(("hits", "samples"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(hits: int, samples: int) -> None:
    with pytest.raises(ValueError, match="hits"):
        share("m", hits, samples)


def test_a_mean_has_the_normal_interval() -> None:
    values = np.random.default_rng(0).exponential(2.0, 500)
    metric = mean("m", values)
    low, high = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert (metric.low, metric.high) == pytest.approx((low, high))
    assert mean("m", np.array([3.0])).low == 3.0


def test_confidences_that_are_true_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 20_000)
    metric = calibration_error("e", confidence, rng.uniform(size=20_000) < confidence)
    assert metric.value < 0.02
    assert metric.low == 0 or metric.low <= metric.value <= metric.high


def test_confidences_that_are_too_high_are_not() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.8, 1, 20_000)
    metric = calibration_error("e", confidence, rng.uniform(size=20_000) < confidence - 0.3)
    assert metric.low < 0.3 < metric.high
    assert metric.high - metric.low < 0.03


def test_a_calibration_error_is_the_same_every_time() -> None:
    confidence, correct = np.linspace(0.1, 1, 100), np.arange(100) % 3 > 0
    assert calibration_error("e", confidence, correct) == calibration_error("e", confidence, correct)


def test_samples_that_are_drawn_one_by_one_are_drawn_as_ever() -> None:
    """A block of 1 is the bootstrap of independent samples, to the bit: intervals that were published stay."""
    values = np.random.default_rng(0).exponential(2.0, 101)
    rng = np.random.default_rng(1927)
    means = [values[rng.integers(0, 101, 101)].mean() for _ in range(1_000)]
    metric = bootstrapped("m", values, np.mean)
    assert [metric.low, metric.high] == np.quantile(means, (0.025, 0.975)).tolist()
    assert difference(values, 0 * values, np.mean)[:2] == (metric.low, metric.high)


def test_blocks_have_the_variance_of_what_they_hold_together() -> None:
    """A moving mean of five has the mean of its days: as many days' standard error, not a fifth of their variance."""
    days = np.random.default_rng(0).normal(size=4_004)
    values = np.lib.stride_tricks.sliding_window_view(days, 5).mean(axis=1)
    alone, together = (bootstrapped("m", values, np.mean, block=block) for block in (1, 100))
    width = 2 * Z_95 / np.sqrt(len(values))
    assert together.high - together.low == pytest.approx(width, rel=0.1)
    assert alone.high - alone.low == pytest.approx(width / np.sqrt(5), rel=0.1)


def test_a_block_as_long_as_all_samples_still_leaves_something_to_chance() -> None:
    values = np.arange(10.0)
    assert bootstrapped("m", values, np.mean, block=1_000) == bootstrapped("m", values, np.mean, block=5)
    metric = bootstrapped("m", values, np.mean, block=10)
    assert metric.low < metric.value < metric.high
    assert bootstrapped("m", values[:1], np.mean, block=10).low == 0.0
    with pytest.raises(ValueError, match="block: expected at least 1 sample, got 0"):
        bootstrapped("m", values, np.mean, block=0)
