"""How good a model is on data that training never saw, each figure with its 95 % interval.

A metric is kept as what every sample adds to it until the last moment: so the same code that measures one model
compares two, sample by sample. A kind of answer is measured by the function that `_MEASURES` holds for it, a recipe's
own kind by the function that the recipe brings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.postprocess import interpret
from contract.schema import ClassificationPostprocess, Evaluation, Metric, Postprocess, RegressionPostprocess
from contract.tensor import Tensors
from training.error import GateFailed
from training.interval import Statistic, binned_gap, bootstrapped, calibration_error, mean, share

_TINY = 1e-12  # a probability of 0 would make the log loss infinite: as sure as this is sure enough


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A metric, and what it was made of: `samples` `[N, ...]`, of which `statistic` makes the metric's value.

    Samples of bool are hits and misses. Where neighbours are alike, as days that follow each other, `block` says how
    many of them belong together: samples that repeat each other prove less than as many independent ones.
    """

    metric: Metric
    samples: NDArray[Any]
    statistic: Statistic
    larger_is_better: bool = True
    block: int = 1


Measures = Callable[[Tensors, NDArray[Any]], Sequence[Measure]]
"""What a recipe measures: of output tensors by name and targets, both `[N, ...]`. The first metric decides."""


def counted(name: str, hits: NDArray[np.bool_]) -> Measure:
    """A share of `[N]` hits; more are better."""
    return Measure(metric=share(name, int(hits.sum()), len(hits)), samples=hits, statistic=_mean)


def averaged(name: str, values: NDArray[np.float64], *, larger_is_better: bool, block: int = 1) -> Measure:
    """A mean of `[N]` values."""
    if block > 1:
        return resampled(name, values, _mean, larger_is_better=larger_is_better, block=block)
    return Measure(metric=mean(name, values), samples=values, statistic=_mean, larger_is_better=larger_is_better)


def resampled(
    name: str, samples: NDArray[np.float64], statistic: Statistic, *, larger_is_better: bool, block: int = 1
) -> Measure:
    """Any statistic of `[N, ...]` samples."""
    metric = bootstrapped(name, samples, statistic, block=block)
    return Measure(metric=metric, samples=samples, statistic=statistic, larger_is_better=larger_is_better, block=block)


def is_measured(postprocess: Postprocess) -> bool:
    """Whether there are metrics for this kind of answer."""
    return type(postprocess) in _MEASURES


def evaluate(
    dataset: str,
    split: str,
    postprocess: Postprocess,
    outputs: Tensors,
    targets: NDArray[Any],
    own: Measures | None = None,
) -> Evaluation:
    """Measure as `measure` does, for the contract."""
    measures = measure(postprocess, outputs, targets, own)
    return Evaluation(dataset=dataset, split=split, metrics=tuple(m.metric for m in measures))


def measure(
    postprocess: Postprocess, outputs: Tensors, targets: NDArray[Any], own: Measures | None = None
) -> Sequence[Measure]:
    """Measure what N outputs mean against N targets, by `own` where a recipe brings it.

    Raises GateFailed for outputs that aren't finite. Recipe holds that there are metrics.
    """
    for name, output in outputs.items():
        if not np.isfinite(output).all():
            raise GateFailed(f"output {name!r} holds NaN or infinity for some samples; nothing was published")
    return own(outputs, targets) if own else _MEASURES[type(postprocess)](postprocess, outputs, targets)


def classification(
    postprocess: ClassificationPostprocess, outputs: Tensors, targets: NDArray[np.int64]
) -> list[Measure]:
    """Accuracy, log loss in nats, calibration error, and the recall of every label that the targets hold.

    `targets` are the labels' indices `[N]`.
    """
    probabilities = interpret(postprocess, outputs)
    assert probabilities is not None
    correct = probabilities.argmax(axis=1) == targets
    of_target = np.maximum(probabilities[np.arange(len(targets)), targets], _TINY)
    confidence = probabilities.max(axis=1)
    measures = [
        counted("accuracy", correct),
        averaged("log_loss", -np.log(of_target), larger_is_better=False),
        Measure(
            metric=calibration_error("calibration_error", confidence, correct),
            samples=np.stack((confidence, correct), axis=1),
            statistic=binned_gap,
            larger_is_better=False,
        ),
    ]
    present = [(label, targets == index) for index, label in enumerate(postprocess.labels)]
    return measures + [counted(f"recall.{label}", correct[chosen]) for label, chosen in present if chosen.any()]


def regression(postprocess: RegressionPostprocess, outputs: Tensors, targets: NDArray[Any]) -> list[Measure]:
    """Mean absolute error and root mean square error in the answer's unit, and the share of variance explained.

    `targets` are the true values, `[N]` or `[N, 1]`.
    """
    value = interpret(postprocess, outputs)
    assert value is not None
    truth = np.asarray(targets, dtype=np.float64).reshape(len(targets), -1)[:, 0]
    error = value - truth
    return [
        averaged("mean_absolute_error", np.abs(error), larger_is_better=False),
        resampled("root_mean_square_error", error, _root_mean_square, larger_is_better=False),
        resampled("r2", np.stack((truth, error), axis=1), _explained, larger_is_better=True),
    ]


_MEASURES: dict[type[Postprocess], Callable[[Any, Tensors, NDArray[Any]], Sequence[Measure]]] = {
    ClassificationPostprocess: classification,
    RegressionPostprocess: regression,
}


def _mean(samples: NDArray[Any]) -> float:
    return float(samples.mean())


def _root_mean_square(error: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(error**2)))


def _explained(samples: NDArray[np.float64]) -> float:
    """Share of the truth's variance that is gone from the errors; 0 where the truth doesn't vary."""
    truth, error = samples.T
    variance = float(truth.var())
    return 1.0 - float(np.mean(error**2)) / variance if variance else 0.0
