"""The S&P 500, day by day from 1999 to 2018: what its last 60 days say of how much it moves in the next five.

5,031 days of the index's opening, highest, lowest and closing value, as the Python package arch brings them (NCSA).

How much a day moved is measured by its range: the highest and lowest value hold as much as five closing values do
(Parkinson 1980, "The extreme value method for estimating the variance of the rate of return", Journal of Business 53).
The splits follow each other in time, and between two of them lie as many days as a sample sees and is asked for: no
day is in two splits, neither as something known nor as something to be forecast.
"""

import csv
import gzip
import hashlib
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.schema import Column
from training.data import Dataset, Split
from training.package import Package

NUM_DAYS = 60  # that a forecast sees: a quarter of a year
HORIZON = 5  # days that it is for: a week
DAYS_A_YEAR = 252
PARKINSON = 4 * math.log(2)  # a range's square is on average so many times the variance
MIN_VARIANCE = 1e-4  # of a day in per cent squared: a week without any range would have a logarithm of minus infinity

COLUMNS = tuple(
    Column(name=f"{kind}_{day}", kind="number") for kind in ("return", "range") for day in range(1, NUM_DAYS + 1)
)

GAP = NUM_DAYS + HORIZON
TRAIN_SHARE, VALIDATION_SHARE = 0.6, 0.12

PACKAGE = Package(
    manager="pypi",
    name="arch",
    version="8.0.0",
    members=("arch/data/sp500/sp500.csv.gz",),
    sha256="b1635d874870bc9fc59cf4db9c84990169e9e9dc4efc92385676cedda64e8b0f",
    licence="NCSA",
)


def load(data_dir: Path | None) -> Dataset:
    """2,979 days to learn from, 595 to watch, 1,262 to judge, in order; raises DataNotFound or DataInvalid."""
    (content,) = PACKAGE.read(data_dir).values()
    samples = windows(*_read(content))
    first = int(TRAIN_SHARE * len(samples))
    second = first + GAP + int(VALIDATION_SHARE * len(samples))
    identity = f"{PACKAGE.digest()} days={NUM_DAYS} horizon={HORIZON} train={TRAIN_SHARE} {VALIDATION_SHARE} gap={GAP}"
    return Dataset(
        name="S&P 500, 1999 to 2018",
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        train=samples.take(slice(first)),
        validation=samples.take(slice(first + GAP, second)),
        test=samples.take(slice(second + GAP, None)),
    )


def windows(return_T: NDArray[np.float64], range_T: NDArray[np.float64]) -> Split:
    """A sample for each day that has 60 days up to it and five after it, in order of time.

    `return_T` and `range_T` are the logarithms of close to close and of highest to lowest, in per cent. A row holds
    those of the last 60 days, the latest first: all returns, then all ranges.
    """
    last_M = np.arange(NUM_DAYS - 1, len(return_T) - HORIZON)
    seen_MT = last_M[:, None] - np.arange(NUM_DAYS)
    ahead_MH = last_M[:, None] + np.arange(1, HORIZON + 1)
    row_MC = np.concatenate((return_T[seen_MT], range_T[seen_MT]), axis=1)
    return Split(inputs={"row": row_MC.astype(np.float32)}, targets=volatility(range_T[ahead_MH]).astype(np.float32))


def volatility(range_MT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Realised volatility `[M]` in per cent a year of days whose ranges `[M, T]` are given in per cent."""
    variance_M = np.maximum((range_MT**2).mean(axis=1) / PARKINSON, MIN_VARIANCE)
    return np.asarray(np.sqrt(variance_M * DAYS_A_YEAR))


def _read(content: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns and ranges of each day but the first, `[T]`, in per cent."""
    rows = csv.DictReader(gzip.decompress(content).decode().splitlines())
    high_T, low_T, close_T = np.log([[float(row[name]) for name in ("High", "Low", "Close")] for row in rows]).T
    return 100 * np.diff(close_T), 100 * (high_T - low_T)[1:]
