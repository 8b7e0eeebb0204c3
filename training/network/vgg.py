"""A VGG for small images: pairs of 3x3 convolutions, a pool after each pair, and two linear layers.

Simonyan & Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv 1409.1556. What
the paper had to do without or didn't compare is a switch: normalisation after each convolution (batch: Ioffe & Szegedy
2015, arXiv 1502.03167; layer: Ba et al. 2016, arXiv 1607.06450), dropout and the first weights. Axes: N samples,
H height, W width, C channels, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn

from training.network.initialisation import Scheme, initialise
from training.network.pixel import PixelScale

Normalisation = Literal["batch", "layer", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Switches:
    """What of the network can be one way or another; `dropout` is the chance before each of the last two layers."""

    normalisation: Normalisation = "batch"
    dropout: float = 0.25
    initialisation: Scheme = "kaiming"

    def __post_init__(self) -> None:
        """Refuse what there is no layer for."""
        if self.normalisation not in get_args(Normalisation):
            names = ", ".join(get_args(Normalisation))
            raise ValueError(f"normalisation: expected one of {names}, got {self.normalisation!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected from 0 to below 1, got {self.dropout}")


class Vgg(nn.Module):
    """Images of `side` pixels to class scores; each of `widths` is a pair of convolutions and a pool that halves."""

    def __init__(
        self,
        scale: PixelScale,
        side: int,
        widths: Sequence[int],
        hidden: int,
        num_classes: int,
        switches: Switches = Switches(),
    ) -> None:
        super().__init__()
        self.scale = scale
        channels = (scale.mean.numel(), *widths)
        self.features = nn.Sequential(
            *(layer for pair in pairwise(channels) for layer in _stage(*pair, switches.normalisation)), nn.Flatten()
        )
        self.head = nn.Sequential(
            nn.Dropout(switches.dropout),
            nn.Linear(widths[-1] * (side >> len(widths)) ** 2, hidden),
            nn.ReLU(),
            nn.Dropout(switches.dropout),
            nn.Linear(hidden, num_classes),
        )
        initialise(self, switches.initialisation)

    def forward(self, image_NHWC: Tensor) -> Tensor:
        """`UINT8` pixels `[N, H, W, C]` to logits `[N, K]`."""
        logits_NK: Tensor = self.head(self.features(self.scale(image_NHWC)))
        return logits_NK


def _stage(in_channels: int, out_channels: int, normalisation: Normalisation) -> Iterator[nn.Module]:
    for channels in (in_channels, out_channels):
        yield nn.Conv2d(channels, out_channels, 3, padding=1, bias=normalisation == "none")
        match normalisation:
            case "batch":
                yield nn.BatchNorm2d(out_channels)
            case "layer":
                yield nn.GroupNorm(1, out_channels)  # one group: over all channels and pixels of a sample
        yield nn.ReLU()
    yield nn.MaxPool2d(2)
