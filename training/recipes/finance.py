"""How much a share index will move in the next five days, from its last 60: a forecast that is held against others.

Network: smoothing at several speeds, Guyon & Lekeufack 2023, Quantitative Finance 23(9). The loss is QLIKE, by which
the best forecast stays the best although the truth is only measured with noise: Patton 2011, "Volatility forecast
comparison using imperfect volatility proxies", Journal of Econometrics 160. Days close to each other are alike, and
windows of five overlap, so what is told from chance is told by blocks of a quarter.

The other forecasts see the same variances: yesterday's, the last month's mean, RiskMetrics' smoothing, and a regression
on the last day, week and month (Corsi 2009, HAR), by far the best of these four.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from contract.schema import AxisRange, RegressionPostprocess, Slo, TablePreprocess, TensorSpec
from contract.tensor import Tensors
from training.config import TrainConfig
from training.data import Dataset
from training.dataset.market import COLUMNS, DAYS_A_YEAR, MIN_VARIANCE, NUM_DAYS, PARKINSON, load
from training.evaluation import Measure, averaged
from training.gate import Gate
from training.network.forecaster import VolatilityNetwork
from training.recipe import Recipe

BLOCK_DAYS = 63
WEEK, MONTH = 5, 22
DECAY = 0.94  # RiskMetrics 1996, Technical Document, section 5.3: the usual one for daily data
# What `har_weights` finds: in the graph, so that a version answers the usual forecast beside its own.
HAR, HAR_CONSTANT = {1: 0.0631477, WEEK: 0.4103857, MONTH: 0.4223087}, 5.6121826

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Qlike:
    """Volatilities `[N, 1]` near realised ones `[N]`: QLIKE of the variances. The score is the loss, negated."""

    score_name: str = "minus QLIKE"

    def check(self, outputs: Sequence[TensorSpec], targets: NDArray[Any], *, whole: bool) -> None:
        """Realised volatilities are above 0."""
        if targets.dtype.kind != "f" or not (np.isfinite(targets) & (targets > 0)).all():
            raise ValueError(f"expected finite volatilities above 0, got {targets.dtype} from {targets.min()}")

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean QLIKE."""
        log_ratio_N = 2 * (targets.log() - outputs[0][:, 0].float().log())
        return (log_ratio_N.exp() - log_ratio_N - 1).mean()

    def score(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean QLIKE, negated."""
        return -self.loss(outputs, targets)


def qlike(forecast_N: Array, realised_N: Array) -> Array:
    """What each forecast volatility costs: 0 where it is right, and more for too low a one than for too high a one."""
    log_ratio_N = 2 * np.log(realised_N / forecast_N)
    return np.asarray(np.exp(log_ratio_N) - log_ratio_N - 1)


def metrics(outputs: Tensors, targets: NDArray[Any]) -> list[Measure]:
    """QLIKE, how much of it HAR's forecast costs more, and the mean error of log variance and of volatility.

    The samples follow each other day by day.
    """
    ours_N, usual_N = (outputs[name][:, 0].astype(np.float64) for name in ("volatility", "har"))
    realised_N = targets.astype(np.float64)
    cost_N = qlike(ours_N, realised_N)
    return [
        blocked("qlike", cost_N, larger_is_better=False),
        blocked("qlike_saved_beside_har", qlike(usual_N, realised_N) - cost_N, larger_is_better=True),
        blocked("log_variance_error", 2 * np.abs(np.log(ours_N / realised_N)), larger_is_better=False),
        blocked("mean_absolute_error", np.abs(ours_N - realised_N), larger_is_better=False),
    ]


def blocked(name: str, values_N: Array, *, larger_is_better: bool) -> Measure:
    """The mean of values in order of time."""
    return averaged(name, values_N, larger_is_better=larger_is_better, block=BLOCK_DAYS)


def naive(weight_T: Sequence[float], dataset: Dataset) -> float:
    """QLIKE of the last days' variances, weighted; the first weight is the latest day's."""
    weight = np.asarray(weight_T) / np.sum(weight_T)
    forecast_N = np.sqrt(_variances(dataset.test.inputs)[:, : len(weight)] @ weight * DAYS_A_YEAR)
    return float(qlike(forecast_N, dataset.test.targets.astype(np.float64)).mean())


def har(dataset: Dataset) -> float:
    """QLIKE of a regression of log variance on those of the last day, week and month."""
    forecast_N = np.exp(_spans(dataset.test.inputs) @ har_weights(dataset) / 2)
    return float(qlike(forecast_N, dataset.test.targets.astype(np.float64)).mean())


def har_weights(dataset: Dataset) -> Array:
    """The regression's constant and weights, from the training split: `HAR_CONSTANT` and `HAR`, once more."""
    known_MF, truth_M = _spans(dataset.train.inputs), 2 * np.log(dataset.train.targets.astype(np.float64))
    weight_F: Array = np.linalg.lstsq(known_MF, truth_M, rcond=None)[0]
    # The mean of a variable with normal logarithm lies above the exponential of the logarithm's mean.
    weight_F[0] += np.var(truth_M - known_MF @ weight_F) / 2
    return weight_F


def _variances(inputs: Tensors) -> Array:
    return np.maximum(inputs["row"][:, NUM_DAYS:].astype(np.float64) ** 2 / PARKINSON, MIN_VARIANCE)


def _spans(inputs: Tensors) -> Array:
    variance_NT = _variances(inputs)
    means = [np.log(variance_NT[:, :days].mean(axis=1)) for days in (1, WEEK, MONTH)]
    return np.stack([np.ones(len(variance_NT)), *means], axis=1)


MARKET_VOLATILITY = Recipe(
    name="market-volatility",
    model="market-volatility",
    task="forecasting",
    description=(
        "Forecasts how volatile the S&P 500 is over the next five trading days. A row holds the last 60: return_1 and "
        "range_1 are the latest day's logarithms of close to close and of highest to lowest, in per cent."
    ),
    data="S&P 500",
    load=load,
    # From a day to a quarter of a year; RiskMetrics' span is 16 days.
    network=partial(
        VolatilityNetwork,
        num_days=NUM_DAYS,
        spans=(1.0, 3.0, 8.0, 20.0, 50.0),
        width=16,
        dropout=0.1,
        variance_scale=PARKINSON,
        days_a_year=DAYS_A_YEAR,
        min_variance=MIN_VARIANCE,
        usual=HAR,
        usual_constant=HAR_CONSTANT,
    ),
    objective=Qlike(),
    inputs=(TensorSpec(name="row", datatype="FP32", shape=(len(COLUMNS),)),),
    outputs=tuple(TensorSpec(name=name, datatype="FP32", shape=(1,)) for name in ("volatility", "har")),
    batch=AxisRange(min=1, opt=8, max=64),
    preprocess=TablePreprocess(tensor="row", columns=COLUMNS),
    postprocess=RegressionPostprocess(tensor="volatility", unit="% a year"),
    metrics=metrics,
    # Every day passes through every column: drift is seen in the latest.
    unwatched=tuple(f"column.{column.name}" for column in COLUMNS if not column.name.endswith("_1")),
    slo=Slo(latency_threshold_ms=20, latency_objective=0.99, availability_objective=0.999),
    # Ten passes: days are few and much alike, and twice as many fit the past better and the validation split worse.
    config=TrainConfig(epochs=10, batch_size=64, optimizer="adamw", peak_learning_rate=3e-3, weight_decay=0.01),
    gates=(
        Gate(metric="qlike", at_most=0.40),
        Gate(metric="qlike_saved_beside_har", at_least=0.0),  # shown to be better, not only seen to be
    ),
    quick_config=TrainConfig(epochs=5, batch_size=64, optimizer="adamw", peak_learning_rate=3e-3, num_train=1_500),
    # Below the interval of what the network begins as, a mean of five levels.
    quick_gates=(Gate(metric="qlike", at_most=0.43),),
    baselines={
        "yesterday": partial(naive, (1.0,)),
        "last month": partial(naive, (1.0,) * MONTH),
        "RiskMetrics": partial(naive, [DECAY**age for age in range(NUM_DAYS)]),
        "HAR": har,
    },
)

RECIPES = (MARKET_VOLATILITY,)
