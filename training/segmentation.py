"""What a network that labels every pixel learns from and is judged by: Dice's coefficient.

Dice 1945, Ecology 26; as a loss, Milletari, Navab & Ahmadi 2016, arXiv 1606.04797, beside cross entropy, which has a
gradient where nothing overlaps yet. Otsu 1979, IEEE Transactions on Systems, Man, and Cybernetics 9, for the threshold
that anyone would try first.

Axes: N pictures, K labels, H height, W width. Label 0 is the background, and all that has another one is foreground.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from numpy.typing import NDArray
from torch import Tensor

from contract.schema import TensorSpec
from contract.tensor import Tensors
from training.evaluation import Measure, Measures, resampled


@dataclass(frozen=True, kw_only=True, slots=True)
class DiceAndCrossEntropy:
    """Logits `[N, K, H, W]` with labels `[N, H, W]`: cross entropy plus 1 - Dice; the score is Dice of the foreground.

    Dice is over the whole batch: a picture without any foreground has none of its own.
    """

    score_name: str = "Dice"

    def check(self, outputs: Sequence[TensorSpec], targets: NDArray[Any], *, whole: bool) -> None:
        """Targets are a label's index for each pixel, and there is foreground to learn from."""
        num_labels, *size = outputs[0].shape
        if targets.dtype.kind not in "iu" or list(targets.shape[1:]) != size:
            raise ValueError(f"expected a label's index for each of {size} pixels, got {targets.dtype} {targets.shape}")
        if targets.min() < 0 or targets.max() >= num_labels:
            raise ValueError(f"expected labels from 0 to {num_labels - 1}, got {targets.min()} to {targets.max()}")
        if whole and not targets.any():
            raise ValueError("expected some foreground, got none: a network can't learn what it never sees")

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean cross entropy in nats, plus 1 - Dice of the foreground's probability."""
        logits_NKHW = outputs[0].float()
        foreground_NHW = 1 - logits_NKHW.softmax(dim=1)[:, 0]
        dice = _dice(foreground_NHW, (targets > 0).float())
        return F.cross_entropy(logits_NKHW, targets.long()) + 1 - dice

    def score(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Dice of what is called foreground."""
        return _dice((outputs[0].argmax(dim=1) > 0).float(), (targets > 0).float())


def dice_measures(tensor: str) -> Measures:
    """Dice and intersection over union of the foreground over all pixels of all pictures; intervals over pictures."""

    def measures(outputs: Tensors, targets: NDArray[Any]) -> Sequence[Measure]:
        counts_N3 = overlap(outputs[tensor].argmax(axis=1) > 0, targets > 0)
        return [
            resampled("dice", counts_N3, dice, larger_is_better=True),
            resampled("intersection_over_union", counts_N3, _intersection_over_union, larger_is_better=True),
        ]

    return measures


def overlap(found_NHW: NDArray[np.bool_], truth_NHW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pixels of each picture that are in both, found, and true: `[N, 3]`."""
    planes = found_NHW & truth_NHW, found_NHW, truth_NHW
    return np.stack([plane.sum(axis=(1, 2)) for plane in planes], axis=1).astype(np.float64)


def dice(counts_N3: NDArray[Any]) -> float:
    """Twice what is in both, as a share of the two sizes; 1 where there is neither."""
    both, found, true = counts_N3.sum(axis=0)
    return float(2 * both / (found + true)) if found + true else 1.0


def otsu(pixels: NDArray[Any]) -> float:
    """The threshold that parts pixels, of any shape, into two groups as different as can be; above it is foreground."""
    value, count = np.unique(pixels, return_counts=True)
    below = np.cumsum(count)[:-1]
    above = pixels.size - below
    total = np.cumsum(value * count.astype(np.float64))
    if not len(below):
        return float(value[0])
    between = below * above * (total[:-1] / below - (total[-1] - total[:-1]) / above) ** 2
    return float(value[between.argmax()])


def _dice(found_NHW: Tensor, truth_NHW: Tensor) -> Tensor:
    """One pixel is added above and below, so that nothing found where nothing is counts as right."""
    return (2 * (found_NHW * truth_NHW).sum() + 1) / (found_NHW.sum() + truth_NHW.sum() + 1)


def _intersection_over_union(counts_N3: NDArray[Any]) -> float:
    both, found, true = counts_N3.sum(axis=0)
    return float(both / (found + true - both)) if found + true else 1.0
