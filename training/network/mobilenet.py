"""MobileNetV2 for small images: cheap blocks that widen, look at each channel apart, and narrow without a ReLU.

Sandler, Howard, Zhu, Zhmoginov & Chen 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv 1801.04381
(the block: table 1 and figure 4; the layout: table 2, of which 28 pixels leave three of the five halvings). Axes:
N samples, H height, W width, C channels, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from training.network.pixel import PixelScale


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A row of table 2: `repeats` blocks that widen `expansion` times and answer `width`; the first has the stride."""

    expansion: int
    width: int
    repeats: int
    stride: int


class InvertedResidual(nn.Module):
    """1x1 wider, 3x3 in each channel apart, 1x1 narrow again; with a way around where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.body = nn.Sequential(
            *(_convolution(in_channels, wide, 1) if expansion > 1 else ()),
            *_convolution(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """`[N, in_channels, H, W]` to `[N, out_channels, ceil(H / stride), ceil(W / stride)]`."""
        y_NCHW: Tensor = self.body(x_NCHW)
        return x_NCHW + y_NCHW if self.is_residual else y_NCHW


class MobileNet(nn.Module):
    """Images to class scores; the stem halves them to `stem` channels, `head` are the channels before the mean."""

    def __init__(
        self, scale: PixelScale, stem: int, stages: Sequence[Stage], head: int, num_classes: int, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.scale = scale
        self.features = nn.Sequential(
            *_convolution(scale.mean.numel(), stem, 3, 2),
            *_blocks(stem, stages),
            *_convolution(stages[-1].width, head, 1),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, num_classes))

    def forward(self, image_NHWC: Tensor) -> Tensor:
        """`UINT8` pixels `[N, H, W, C]` to logits `[N, K]`."""
        features_NCHW = self.features(self.scale(image_NHWC))
        logits_NK: Tensor = self.head(features_NCHW.mean(dim=(2, 3)))
        return logits_NK


def _blocks(in_channels: int, stages: Sequence[Stage]) -> Iterator[nn.Module]:
    for stage in stages:
        for index in range(stage.repeats):
            yield InvertedResidual(in_channels, stage.width, 1 if index else stage.stride, stage.expansion)
            in_channels = stage.width


def _convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),
    )
