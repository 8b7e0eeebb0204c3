"""A small U-Net: a label for every pixel, from what lies near and what lies far.

Ronneberger, Fischer & Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation", arXiv 1505.04597,
figure 1; padded convolutions with batch normalisation instead of the paper's unpadded ones, so that the answer is as
large as the picture. Axes: N pictures, H height, W width, C channels, K labels.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from training.network.pixel import PixelScale


class UNet(nn.Module):
    """Pictures to a label's scores for each pixel; each of `widths` but the first halves height and width."""

    def __init__(self, scale: PixelScale, widths: Sequence[int], num_labels: int) -> None:
        super().__init__()
        self.scale = scale
        self.first = _convolutions(scale.mean.numel(), widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _convolutions(w, wider)) for w, wider in pairwise(widths)
        )
        rising = list(pairwise(reversed(widths)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(w, narrower, 2, stride=2) for w, narrower in rising)
        self.joined = nn.ModuleList(_convolutions(2 * narrower, narrower) for _, narrower in rising)
        self.head = nn.Conv2d(widths[0], num_labels, 1)

    def forward(self, image_NHWC: Tensor) -> Tensor:
        """`UINT8` pixels `[N, H, W, C]` to logits `[N, K, H, W]`; each halving needs H and W even."""
        x_NCHW = self.first(self.scale(image_NHWC))
        passed = []
        for down in self.down:
            passed.append(x_NCHW)
            x_NCHW = down(x_NCHW)
        for up, joined, skip_NCHW in zip(self.up, self.joined, reversed(passed), strict=True):
            x_NCHW = joined(torch.cat((skip_NCHW, up(x_NCHW)), dim=1))
        logits_NKHW: Tensor = self.head(x_NCHW)
        return logits_NKHW


def _convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
