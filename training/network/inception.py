"""Inception-v3 for small images: modules that look at several scales at once, with convolutions taken apart.

Szegedy, Vanhoucke, Ioffe, Shlens & Wojna 2015, "Rethinking the Inception Architecture for Computer Vision", arXiv
1512.00567. One module of each kind, with figures of the paper: 5x5 as two 3x3 (figure 5), nxn as 1xn and nx1 (figure
6), a wide bank for the coarsest grid (figure 7), and pooling beside strided convolutions where the grid shrinks (figure
10). The paper's auxiliary classifier (section 4) is left out: it gained 0.4 points at the end of a long training.
Axes: N samples, H height, W width, C channels, K classes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from training.network.pixel import PixelScale

Kernel = int | tuple[int, int]


class Convolution(nn.Sequential):
    """Convolution, batch normalisation, ReLU; keeps the grid at stride 1 and halves it at 2, rounding up."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Kernel, stride: int = 1) -> None:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        super().__init__(
            nn.Conv2d(
                in_channels, out_channels, (height, width), stride, padding=(height // 2, width // 2), bias=False
            ),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


class Branches(nn.Module):
    """Several ways from one input, side by side along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """`[N, C, H, W]` to the channels of all branches, in their order."""
        return torch.cat([branch(x_NCHW) for branch in self.branches], dim=1)


def chain(in_channels: int, out_channels: int, *kernels: Kernel, stride: int = 1) -> nn.Sequential:
    """Convolutions one after the other, each with `out_channels`; the last one takes the stride."""
    return nn.Sequential(*_chained(in_channels, out_channels, kernels, stride))


def _chained(in_channels: int, out_channels: int, kernels: tuple[Kernel, ...], stride: int) -> Iterator[nn.Module]:
    for index, kernel in enumerate(kernels):
        last = index == len(kernels) - 1
        yield Convolution(out_channels if index else in_channels, out_channels, kernel, stride if last else 1)


def stacked(in_channels: int, width: int) -> Branches:
    """Figure 5: 1x1, 3x3, 5x5 as two of 3x3, and a pool. Answers 4 `width` channels."""
    return Branches(
        chain(in_channels, width, 1),
        chain(in_channels, width, 1, 3),
        chain(in_channels, width, 1, 3, 3),
        nn.Sequential(nn.AvgPool2d(3, 1, padding=1), Convolution(in_channels, width, 1)),
    )


def factorised(in_channels: int, width: int, n: int) -> Branches:
    """Figure 6: nxn as 1xn and nx1, once and twice. Answers 4 `width` channels."""
    return Branches(
        chain(in_channels, width, 1),
        chain(in_channels, width, 1, (1, n), (n, 1)),
        chain(in_channels, width, 1, (n, 1), (1, n), (n, 1), (1, n)),
        nn.Sequential(nn.AvgPool2d(3, 1, padding=1), Convolution(in_channels, width, 1)),
    )


def expanded(in_channels: int, width: int) -> Branches:
    """Figure 7: 1x3 and 3x1 side by side instead of one after the other. Answers 6 `width` channels."""
    return Branches(
        chain(in_channels, width, 1),
        nn.Sequential(chain(in_channels, width, 1), _crossed(width)),
        nn.Sequential(chain(in_channels, width, 1, 3), _crossed(width)),
        nn.Sequential(nn.AvgPool2d(3, 1, padding=1), Convolution(in_channels, width, 1)),
    )


def reduction(in_channels: int, width: int) -> Branches:
    """Figure 10: halves the grid by convolutions and by a pool. Answers 2 `width` + `in_channels` channels."""
    return Branches(
        chain(in_channels, width, 3, stride=2),
        chain(in_channels, width, 1, 3, 3, stride=2),
        nn.MaxPool2d(3, 2, padding=1),
    )


def _crossed(width: int) -> Branches:
    return Branches(Convolution(width, width, (1, 3)), Convolution(width, width, (3, 1)))


class Inception(nn.Module):
    """Images to class scores, on grids of a half, a quarter and an eighth of their size; `n` as in figure 6."""

    def __init__(self, scale: PixelScale, width: int, num_classes: int, n: int = 5, dropout: float = 0.2) -> None:
        super().__init__()
        self.scale = scale
        self.features = nn.Sequential(
            Convolution(scale.mean.numel(), width, 3, stride=2),
            Convolution(width, 2 * width, 3),
            stacked(2 * width, width),
            reduction(4 * width, width),
            factorised(6 * width, 2 * width, n),
            reduction(8 * width, 2 * width),
            expanded(12 * width, 3 * width),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(18 * width, num_classes))

    def forward(self, image_NHWC: Tensor) -> Tensor:
        """`UINT8` pixels `[N, H, W, C]` to logits `[N, K]`."""
        features_NCHW = self.features(self.scale(image_NHWC))
        logits_NK: Tensor = self.head(features_NCHW.mean(dim=(2, 3)))
        return logits_NK
