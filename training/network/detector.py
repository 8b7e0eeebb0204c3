"""A one-stage detector of one kind of thing, without anchors: every thing is the peak of a heatmap.

Zhou, Wang & Krähenbühl 2019, "Objects as Points", arXiv 1904.07850: a peak that is the highest within 3 x 3 cells
stands for one thing, so nothing has to be suppressed afterwards, and the whole way to boxes is a graph of fixed shapes.
Backbone: He et al. 2015, arXiv 1512.03385; what is seen from far away is added to what is seen near by as in Lin et al.
2016, arXiv 1612.03144, figure 3. Axes: N pictures, H height, W width, C channels, Q boxes.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor, nn

from training.network.pixel import PixelScale
from training.network.residual import Block

STRIDE = 4  # pixels a side of the heatmap's cells
MIN_SCORE = 0.05  # a lower peak is no answer: box and score are 0
_PRIOR = 0.1  # what a cell's score begins at (Lin et al. 2017, arXiv 1708.02002, section 4.1)


class Detector(nn.Module):
    """Pictures to boxes and scores, best first.

    `widths`: the first at half of the picture's size, each further one a block that halves it again; the heatmap has
    the second's size, a quarter.
    """

    def __init__(self, scale: PixelScale, widths: Sequence[int], head_width: int, num_boxes: int) -> None:
        super().__init__()
        self.scale = scale
        self.num_boxes = num_boxes
        self.stem = nn.Sequential(
            nn.Conv2d(scale.mean.numel(), widths[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        self.blocks = nn.ModuleList(Block(w, wider, 2) for w, wider in pairwise(widths))
        self.lateral = nn.ModuleList(nn.Conv2d(w, head_width, 1) for w in widths[1:])
        self.smooth = nn.Sequential(
            nn.Conv2d(head_width, head_width, 3, padding=1, bias=False), nn.BatchNorm2d(head_width), nn.ReLU()
        )
        self.heat = _head(head_width, 1)
        self.box = _head(head_width, 4)
        _bias(self.heat, math.log(_PRIOR / (1 - _PRIOR)))

    def forward(self, image_NHWC: Tensor, learning: Tensor | None = None) -> tuple[Tensor, ...]:
        """`UINT8` pixels `[N, H, W, C]` to boxes `[N, Q, 4]`, shares of the picture, and scores `[N, Q, 1]`.

        With anything for `learning`, to what the loss is made of: heatmap logits `[N, 1, H / 4, W / 4]`, offsets and
        sizes `[N, 2, H / 4, W / 4]` in cells.
        """
        x_NCHW = self.stem(self.scale(image_NHWC))
        levels = []
        for block, lateral in zip(self.blocks, self.lateral, strict=True):
            x_NCHW = block(x_NCHW)
            levels.append(lateral(x_NCHW))
        x_NCHW = levels.pop()
        for level_NCHW in reversed(levels):
            x_NCHW = F.interpolate(x_NCHW, scale_factor=2.0, mode="nearest") + level_NCHW
        x_NCHW = self.smooth(x_NCHW)
        heat_N1HW, box_N4HW = self.heat(x_NCHW), self.box(x_NCHW)
        offset_N2HW, size_N2HW = box_N4HW.chunk(2, dim=1)
        if learning is not None:
            return heat_N1HW, offset_N2HW, size_N2HW
        return peaks(heat_N1HW, offset_N2HW, size_N2HW, self.num_boxes)


def peaks(heat_N1HW: Tensor, offset_N2HW: Tensor, size_N2HW: Tensor, num_boxes: int) -> tuple[Tensor, Tensor]:
    """The highest peaks' boxes `[N, Q, 4]`, clipped to the picture, and scores `[N, Q, 1]`; zeros for none."""
    height, width = heat_N1HW.shape[2:]
    score_N1HW = torch.sigmoid(heat_N1HW)
    # Logits, for in half precision neighbours that are nearly sure have the same score.
    highest_N1HW = F.max_pool2d(heat_N1HW, 3, stride=1, padding=1)
    is_peak_N1HW = (heat_N1HW == highest_N1HW) & (score_N1HW >= MIN_SCORE)
    peak_NC = torch.where(is_peak_N1HW, score_N1HW, torch.zeros_like(score_N1HW)).flatten(1)
    score_NQ, cell_NQ = peak_NC.topk(num_boxes, dim=1)
    column_NQ, row_NQ = cell_NQ % width, cell_NQ // width
    index_N2Q = cell_NQ[:, None].expand(-1, 2, -1)
    centre_N2Q = torch.stack((column_NQ, row_NQ), dim=1) + offset_N2HW.flatten(2).gather(2, index_N2Q)
    half_N2Q = size_N2HW.flatten(2).gather(2, index_N2Q).clamp(min=0) / 2
    cells_21 = torch.tensor([[float(width)], [float(height)]], device=heat_N1HW.device)
    boxes_N4Q = torch.cat(((centre_N2Q - half_N2Q) / cells_21, (centre_N2Q + half_N2Q) / cells_21), dim=1)
    there_N1Q = (score_NQ > 0)[:, None]
    return (boxes_N4Q.clamp(0, 1) * there_N1Q).transpose(1, 2), score_NQ[..., None]


def _head(width: int, num_maps: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, num_maps, 1),
    )


def _bias(head: nn.Sequential, value: float) -> None:
    last = head[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    nn.init.constant_(last.bias, value)
