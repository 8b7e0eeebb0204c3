"""A small residual network for small images. Its input is the contract's: raw `UINT8`, channels last.

He, Zhang, Ren & Sun 2015, "Deep Residual Learning for Image Recognition", arXiv 1512.03385 (the basic block, figure 2
and section 3.3; a 1x1 convolution where the shape changes, option B). Batch normalisation: Ioffe & Szegedy 2015,
arXiv 1502.03167. Axes: N samples, H height, W width, C channels, K classes.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from training.network.pixel import PixelScale


class Block(nn.Module):
    """Two 3x3 convolutions and a way around them; with `stride` 2 height and width are halved, rounding up."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """`[N, in_channels, H, W]` to `[N, out_channels, ceil(H / stride), ceil(W / stride)]`."""
        return torch.relu(self.body(x_NCHW) + self.shortcut(x_NCHW))


class ResidualNetwork(nn.Module):
    """Images to class scores; each of `widths` but the first is a block that halves height and width."""

    def __init__(self, scale: PixelScale, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.scale = scale
        channels = scale.mean.numel()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(Block(w, wider, 2) for w, wider in pairwise(widths)))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, image_NHWC: Tensor) -> Tensor:
        """`UINT8` pixels `[N, H, W, C]` to logits `[N, K]`."""
        features_NCHW = self.blocks(self.stem(self.scale(image_NHWC)))
        logits_NK: Tensor = self.head(features_NCHW.mean(dim=(2, 3)))
        return logits_NK
