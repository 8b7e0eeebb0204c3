"""How good a model is on data that training never saw, each figure with its 95 % interval."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.postprocess import interpret
from contract.schema import ClassificationPostprocess, Evaluation, Metric, Postprocess
from contract.tensor import Tensors
from training.error import GateFailed
from training.interval import calibration_error, mean, share

_TINY = 1e-12  # a probability of 0 would make the log loss infinite: as sure as this is sure enough


def evaluate(dataset: str, split: str, postprocess: Postprocess, outputs: Tensors, targets: NDArray[Any]) -> Evaluation:
    """Measure what the outputs mean against the targets.

    Raises GateFailed for outputs that aren't finite. Recipe holds that the kind of postprocessing has metrics.
    """
    for name, output in outputs.items():
        if not np.isfinite(output).all():
            raise GateFailed(f"output {name!r} holds NaN or infinity on the {split} split; nothing was published")
    assert isinstance(postprocess, ClassificationPostprocess)
    probabilities = interpret(postprocess, outputs)
    assert probabilities is not None
    return Evaluation(
        dataset=dataset, split=split, metrics=tuple(classification(postprocess.labels, probabilities, targets))
    )


def classification(
    labels: Sequence[str], probabilities: NDArray[np.float64], targets: NDArray[np.int64]
) -> list[Metric]:
    """Accuracy, log loss in nats, calibration error, and the recall of every label that the targets hold.

    `probabilities` is `[N, labels]`, `targets` `[N]` the labels' indices.
    """
    correct = probabilities.argmax(axis=1) == targets
    of_target = np.maximum(probabilities[np.arange(len(targets)), targets], _TINY)
    metrics = [
        share("accuracy", int(correct.sum()), len(targets)),
        mean("log_loss", -np.log(of_target)),
        calibration_error("calibration_error", probabilities.max(axis=1), correct),
    ]
    for index, label in enumerate(labels):
        of_label = correct[targets == index]
        if of_label.size:
            metrics.append(share(f"recall.{label}", int(of_label.sum()), of_label.size))
    return metrics
