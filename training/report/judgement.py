"""Where a model is good and where it isn't: each test sample judged, and samples grouped in ways that one can act on.

Reliability: DeGroot & Fienberg 1983, "The comparison and evaluation of forecasters"; Guo et al. 2017, arXiv 1706.04599.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.observation import input_values
from contract.postprocess import interpret
from contract.schema import (
    ClassificationPostprocess,
    Metric,
    Postprocess,
    Preprocess,
    RegressionPostprocess,
    TablePreprocess,
)
from contract.tensor import Tensors
from training.data import Split
from training.evaluation import Measure, Measures
from training.interval import bootstrapped, mean, share

NUM_BINS = 10  # of confidence; each must hold enough samples to say something
NUM_QUANTILES = 4
MIN_SLICE = 20  # samples; an interval over fewer says nothing that a person could act on
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """N test samples: the loss `[N]` that each costs, where that can be said, and what some of them come to.

    `measure` makes a metric of those that a mask `[N]` chooses; `said` is the truth and the answer of one, in words.
    """

    loss: NDArray[np.float64] | None
    larger_is_better: bool
    measure: Callable[[NDArray[np.bool_]], Metric]
    said: Callable[[int], tuple[str, str]]

    def worst(self, count: int) -> list[int]:
        """Indices of the samples that cost most, the worst first."""
        return [] if self.loss is None else np.argsort(-self.loss, kind="stable")[:count].tolist()

    def is_weak(self, part: Metric, whole: Metric) -> bool:
        """Whether the whole of a part's interval is on the bad side of the whole's value."""
        return part.high < whole.value if self.larger_is_better else part.low > whole.value


@dataclass(frozen=True, kw_only=True, slots=True)
class Classes:
    """A classifier's `probabilities` `[N, K]` for samples of the labels `targets` `[N]`.

    `confusion` `[K, K]` counts them: true labels down, answers across.
    """

    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    targets: NDArray[np.int64]
    confusion: NDArray[np.int64]

    def recall(self, label: int) -> Metric | None:
        """Share of a label's samples that were recognised; None when there are none."""
        return _share(self.confusion[label, label], self.confusion[label].sum(), "recall")

    def precision(self, label: int) -> Metric | None:
        """Share of a label's answers that were right; None when it was never answered."""
        return _share(self.confusion[label, label], self.confusion[:, label].sum(), "precision")

    def lowest_recall(self) -> float:
        """The lowest end of the recalls' intervals: where a scale for all of them begins."""
        recalls = [self.recall(label) for label in range(len(self.labels))]
        return min(recall.low for recall in recalls if recall is not None)

    def mistakes(self, count: int) -> list[tuple[int, int, int]]:
        """The most frequent mistakes: true label, answer, and how often."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        pairs = (divmod(int(flat), len(self.labels)) for flat in order)
        return [(true, answer, int(wrong[true, answer])) for true, answer in pairs if wrong[true, answer]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfidenceBin:
    """Answers of about the same confidence: how sure they were on average, and how often they were right."""

    low: float
    high: float
    confidence: float
    accuracy: Metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Test samples that have one property in common."""

    feature: str
    where: str
    metric: Metric


def judge(
    postprocess: Postprocess, outputs: Tensors, targets: NDArray[Any], own: Measures | None = None
) -> Judgement | None:
    """Judge every sample; by the first of the recipe's `own` measures where it brings some.

    None for a kind of answer that nobody said how to judge, or a measure that isn't of one value a sample.
    """
    if own is not None:
        first = own(outputs, targets)[0]
        return _judged_by(first) if len(first.samples) == len(targets) else None
    match postprocess:
        case ClassificationPostprocess():
            return _labelled(classes(postprocess, outputs, targets))
        case RegressionPostprocess():
            return _numbers(postprocess, outputs, targets)
        case _:
            return None


def classes(postprocess: ClassificationPostprocess, outputs: Tensors, targets: NDArray[Any]) -> Classes:
    """What a classifier answered to samples whose labels' indices are `targets` `[N]`."""
    probabilities = interpret(postprocess, outputs)
    assert probabilities is not None
    num_labels = len(postprocess.labels)
    pair_N = targets * num_labels + probabilities.argmax(axis=1)
    confusion = np.bincount(pair_N, minlength=num_labels**2).reshape(num_labels, num_labels)
    return Classes(labels=postprocess.labels, probabilities=probabilities, targets=targets, confusion=confusion)


def reliability(found: Classes) -> list[ConfidenceBin]:
    """Bins of equal width over the confidence of the answers, those that hold none left out."""
    confidence_N = found.probabilities.max(axis=1)
    correct_N = found.probabilities.argmax(axis=1) == found.targets
    bin_N = np.minimum((confidence_N * NUM_BINS).astype(np.intp), NUM_BINS - 1)
    return [
        ConfidenceBin(
            low=k / NUM_BINS,
            high=(k + 1) / NUM_BINS,
            confidence=float(confidence_N[bin_N == k].mean()),
            accuracy=share("accuracy", int(correct_N[bin_N == k].sum()), int((bin_N == k).sum())),
        )
        for k in np.unique(bin_N).tolist()
    ]


def slices(judgement: Judgement, preprocess: Preprocess, test: Split) -> list[Slice]:
    """The samples by each observed feature: by its quantiles, or by its categories. Parts too small are left out."""
    return [
        Slice(feature=feature, where=where, metric=judgement.measure(chosen))
        for feature, values in input_values(preprocess, test.inputs, test.observed).items()
        for where, chosen in _parts(values, _categories(preprocess, feature))
        if MIN_SLICE <= chosen.sum() < len(values)
    ]


def _labelled(found: Classes) -> Judgement:
    labels, targets, probabilities = found.labels, found.targets, found.probabilities
    answers = probabilities.argmax(axis=1)
    correct = answers == targets
    return Judgement(
        loss=-np.log(np.maximum(probabilities[np.arange(len(targets)), targets], _TINY)),
        larger_is_better=True,
        measure=lambda chosen: share("accuracy", int(correct[chosen].sum()), int(chosen.sum())),
        said=lambda i: (labels[targets[i]], f"{labels[answers[i]]} ({probabilities[i, answers[i]]:.0%})"),
    )


def _numbers(postprocess: RegressionPostprocess, outputs: Tensors, targets: NDArray[Any]) -> Judgement:
    values = interpret(postprocess, outputs)
    assert values is not None
    truth, unit = targets.reshape(-1), postprocess.unit
    error = np.abs(values - truth)
    return Judgement(
        loss=error,
        larger_is_better=False,
        measure=lambda chosen: mean("mean_absolute_error", error[chosen]),
        said=lambda i: (f"{truth[i]:.4g} {unit}".strip(), f"{values[i]:.4g} {unit}".strip()),
    )


def _judged_by(first: Measure) -> Judgement:
    """By what each sample adds to a metric; which samples cost most is known where that is one number a sample."""
    samples, name = first.samples, first.metric.name
    is_share = samples.dtype == np.bool_ and first.block == 1
    loss = (-1.0 if first.larger_is_better else 1.0) * samples.astype(np.float64) if samples.ndim == 1 else None

    def measure(chosen: NDArray[np.bool_]) -> Metric:
        if is_share:
            return share(name, int(samples[chosen].sum()), int(chosen.sum()))
        return bootstrapped(name, samples[chosen], first.statistic, block=first.block)

    return Judgement(
        loss=loss,
        larger_is_better=first.larger_is_better,
        measure=measure,
        said=lambda i: (f"{name.replace('_', ' ')}: {samples[i]:.4g}", ""),
    )


def _parts(values: NDArray[Any], categories: tuple[str, ...]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if categories:
        for index, name in enumerate((*categories, "other")):
            yield name, values == index
        return
    present = values[~np.isnan(values)]
    if present.size < len(values):
        yield "missing", np.isnan(values)
    if not present.size:
        return
    edges = np.unique(np.quantile(present, np.linspace(0, 1, NUM_QUANTILES + 1)))
    for low, high in pairwise(edges.tolist()):
        last = high == edges[-1]
        yield f"{low:.3g} to {high:.3g}", (values >= low) & ((values <= high) if last else (values < high))


def _categories(preprocess: Preprocess, feature: str) -> tuple[str, ...]:
    if not isinstance(preprocess, TablePreprocess):
        return ()
    return next((c.categories for c in preprocess.columns if f"column.{c.name}" == feature), ())


def _share(num_hits: Any, num_samples: Any, name: str) -> Metric | None:
    return share(name, int(num_hits), int(num_samples)) if num_samples else None
