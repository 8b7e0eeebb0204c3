"""What a detector of one kind of thing learns from and is judged by.

Loss: the focal loss on the heatmap of centres and the L1 loss on places and sizes of CenterNet (Zhou, Wang & Krähenbühl
2019, "Objects as Points", arXiv 1904.07850, section 3); the hills on the heatmap are as wide as the box allows in each
direction (Liu et al. 2019, arXiv 1909.00700, section 3.2).
Metric: average precision at an intersection over union of a half, over all recalls (Everingham et al. 2015, "The Pascal
Visual Object Classes Challenge: A Retrospective", section 4): found boxes, best score first, each take the true box
that they overlap most, if nobody took it before.

A box is left, top, right and bottom as shares of the picture; one without area is none, and fills up where a picture
has fewer than others. Axes: N pictures, Q boxes, H and W cells of the heatmap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from numpy.typing import NDArray
from torch import Tensor

from contract.schema import TensorSpec
from contract.tensor import Tensors
from training.evaluation import Measure, Measures, resampled

Array = NDArray[np.float64]

MIN_OVERLAP = 0.5  # intersection over union of a found box with the true one
_HILL = 0.54 / 6  # standard deviation of a hill, as a share of the box's side (Liu et al.)


@dataclass(frozen=True, kw_only=True, slots=True)
class CentreLoss:
    """Judges heatmap logits `[N, 1, H, W]`, offsets `[N, 2, H, W]` and sizes `[N, 2, H, W]` by boxes `[N, Q, 4]`.

    Offsets, from a cell's corner to the centre, and sizes are in cells. The score is the mean intersection over union
    of the box at each true centre.
    """

    size_weight: float = 0.1
    offset_weight: float = 1.0
    score_name: str = "overlap at centres"

    def check(self, outputs: Sequence[TensorSpec], targets: NDArray[Any], *, whole: bool) -> None:
        """Targets are boxes within the picture, and there are some."""
        if targets.dtype.kind != "f" or targets.ndim != 3 or targets.shape[2] != 4:
            raise ValueError(f"expected boxes [M, Q, 4] as floats, got {targets.dtype} {list(targets.shape)}")
        if not ((targets >= 0) & (targets <= 1)).all() or (targets[..., 2:] < targets[..., :2]).any():
            raise ValueError("expected boxes as left <= right and top <= bottom, shares of the picture from 0 to 1")
        if not (targets[..., 2:] > targets[..., :2]).all(axis=-1).any():
            raise ValueError("expected some boxes, got none with an area: a network can't learn what it never sees")

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Focal loss of the heatmap, and the weighted L1 losses at the true centres, over the number of boxes."""
        heat_N1HW, offset_N2HW, size_N2HW = (output.float() for output in outputs)
        truth = _Truth.of(targets, heat_N1HW)
        focal = focal_loss(heat_N1HW[:, 0], truth.hills)
        offset = (_at(offset_N2HW, truth.cells) - truth.offsets).abs().sum(dim=-1)
        size = (_at(size_N2HW, truth.cells) - truth.sizes).abs().sum(dim=-1)
        boxes = (self.offset_weight * offset + self.size_weight * size) * truth.there
        return (focal + boxes.sum()) / truth.there.sum().clamp(min=1)

    def score(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean intersection over union, 0 where a batch has no boxes."""
        heat_N1HW, offset_N2HW, size_N2HW = (output.float() for output in outputs)
        truth = _Truth.of(targets, heat_N1HW)
        shift_NQ2 = _at(offset_N2HW, truth.cells) - truth.offsets
        size_NQ2 = _at(size_N2HW, truth.cells).clamp(min=0)
        half_NQ2, true_NQ2 = size_NQ2 / 2, truth.sizes / 2
        shared_NQ2 = torch.minimum(shift_NQ2 + half_NQ2, true_NQ2) - torch.maximum(shift_NQ2 - half_NQ2, -true_NQ2)
        shared_NQ = shared_NQ2.clamp(min=0).prod(dim=-1)
        either_NQ = size_NQ2.prod(dim=-1) + truth.sizes.prod(dim=-1) - shared_NQ
        overlap_NQ = shared_NQ / either_NQ.clamp(min=1e-6)
        return (overlap_NQ * truth.there).sum() / truth.there.sum().clamp(min=1)


def has_area(boxes_NQ4: Tensor) -> Tensor:
    """Which boxes are any `[N, Q]`."""
    return (boxes_NQ4[..., 2:] > boxes_NQ4[..., :2]).all(dim=-1)


def focal_loss(logits: Tensor, hills: Tensor) -> Tensor:
    """Equation 1 of Objects as Points, summed: alpha 2, beta 4; `hills` is 1 at a centre and falls to 0 around it."""
    is_centre = hills == 1
    surprise = F.logsigmoid(logits) * torch.sigmoid(-logits) ** 2
    alarm = F.logsigmoid(-logits) * torch.sigmoid(logits) ** 2 * (1 - hills) ** 4
    return -torch.where(is_centre, surprise, alarm).sum()


def detection_measures(boxes: str, scores: str, min_score: float) -> Measures:
    """Average precision, and precision and recall of what is answered from `min_score` on; intervals over pictures."""

    def measures(outputs: Tensors, targets: NDArray[Any]) -> Sequence[Measure]:
        judged = judge(outputs[boxes], outputs[scores][..., 0], targets)
        answered = judged.copy()
        answered[:, 1:] *= judged[:, 1:, :1] >= min_score
        return [
            resampled("average_precision_50", judged, average_precision, larger_is_better=True),
            resampled("precision", answered, _precision, larger_is_better=True),
            resampled("recall", answered, _recall, larger_is_better=True),
        ]

    return measures


def judge(boxes_NQ4: NDArray[Any], scores_NQ: NDArray[Any], truth_NR4: NDArray[Any]) -> Array:
    """What each picture adds to the metrics, `[N, 1 + Q, 2]`: the number of true boxes, then score and hit of each box.

    A found box without a score, or without area, is none.
    """
    judged = np.zeros((len(boxes_NQ4), 1 + boxes_NQ4.shape[1], 2))
    for row, boxes_Q4, scores_Q, truth_R4 in zip(judged, boxes_NQ4, scores_NQ, truth_NR4, strict=True):
        found, true = scores_Q * _has_area(boxes_Q4), truth_R4[_has_area(truth_R4)]
        row[0, 0] = len(true)
        row[1:, 0] = found
        row[1:, 1] = hits(boxes_Q4, found, true) & (found > 0)
    return judged


def hits(boxes_Q4: NDArray[Any], scores_Q: NDArray[Any], truth_R4: NDArray[Any]) -> NDArray[np.bool_]:
    """Which found boxes of one picture `[Q]` are right."""
    right, taken = np.zeros(len(boxes_Q4), bool), np.zeros(len(truth_R4), bool)
    if not len(truth_R4):
        return right
    overlap_QR = overlaps(boxes_Q4, truth_R4)
    for found in np.argsort(-scores_Q, kind="stable"):
        true = overlap_QR[found].argmax()
        right[found] = overlap_QR[found, true] >= MIN_OVERLAP and not taken[true]
        taken[true] |= right[found]
    return right


def overlaps(boxes_Q4: NDArray[Any], others_R4: NDArray[Any]) -> Array:
    """Intersection over union `[Q, R]` of each box with each other; 0 for boxes without area."""
    a, b = boxes_Q4[:, None].astype(np.float64), others_R4[None].astype(np.float64)
    shared = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(axis=-1)
    either = _area(a) + _area(b) - shared
    return np.asarray(np.divide(shared, either, out=np.zeros_like(shared), where=either > 0))


def average_precision(judged: Array) -> float:
    """Area under the precision that at least so much recall can be had with; 0 where there is nothing to find."""
    num_true, found = judged[:, 0, 0].sum(), judged[:, 1:].reshape(-1, 2)
    found = found[found[:, 0] > 0]
    if not num_true or not len(found):
        return 0.0
    hit = found[np.argsort(-found[:, 0], kind="stable"), 1]
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best_from_here * hit).sum() / num_true)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Truth:
    """Boxes on the heatmap's cells.

    Hills `[N, H, W]`; of each box `[N, Q]` the index of the cell that its centre lies in, where in that cell, the size,
    and whether it is one.
    """

    hills: Tensor
    cells: Tensor
    offsets: Tensor
    sizes: Tensor
    there: Tensor

    @classmethod
    def of(cls, boxes_NQ4: Tensor, heat_N1HW: Tensor) -> "_Truth":
        height, width = heat_N1HW.shape[2:]
        cells_2 = torch.tensor([width, height], dtype=torch.float32, device=heat_N1HW.device)
        low_NQ2, high_NQ2 = boxes_NQ4[..., :2] * cells_2, boxes_NQ4[..., 2:] * cells_2
        size_NQ2, centre_NQ2 = high_NQ2 - low_NQ2, (low_NQ2 + high_NQ2) / 2
        there_NQ = has_area(boxes_NQ4)
        corner_NQ2 = torch.minimum(centre_NQ2.floor(), cells_2 - 1)
        hill_NQW, hill_NQH = (
            torch.exp(
                -((torch.arange(int(cells_2[axis]), device=cells_2.device) - corner_NQ2[..., axis, None]) ** 2)
                / (2 * (size_NQ2[..., axis, None] * _HILL).clamp(min=0.1) ** 2)
            )
            for axis in (0, 1)
        )
        hills_NQHW = hill_NQH[..., :, None] * hill_NQW[..., None, :] * there_NQ[..., None, None]
        return cls(
            hills=hills_NQHW.amax(dim=1),
            cells=(corner_NQ2[..., 1] * width + corner_NQ2[..., 0]).long(),
            offsets=centre_NQ2 - corner_NQ2,
            sizes=size_NQ2,
            there=there_NQ,
        )


def _at(map_NCHW: Tensor, cell_NQ: Tensor) -> Tensor:
    """The map's values `[N, Q, C]` in the given cells."""
    index_NCQ = cell_NQ[:, None].expand(-1, map_NCHW.shape[1], -1)
    return map_NCHW.flatten(2).gather(2, index_NCQ).transpose(1, 2)


def _area(boxes: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1))


def _has_area(boxes: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(_area(boxes) > 0)


def _precision(judged: Array) -> float:
    num_found = np.count_nonzero(judged[:, 1:, 0])
    return float(judged[:, 1:, 1].sum() / num_found) if num_found else 0.0


def _recall(judged: Array) -> float:
    num_true = judged[:, 0, 0].sum()
    return float(judged[:, 1:, 1].sum() / num_true) if num_true else 0.0
