"""AlexNet for small images: five convolutions, overlapping pools, and two wide layers that are dropped out.

Krizhevsky, Sutskever & Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks", section 3: ReLU,
local response normalisation after the first two convolutions, pools of 3 pixels every 2. For 28 pixels instead of 224
the first convolution is 5x5 and keeps the size, and widths are a quarter of the paper's and less. Axes: N samples,
H height, W width, C channels, K classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor, nn

from training.network.initialisation import initialise
from training.network.pixel import PixelScale


class ResponseNorm(nn.Module):
    """Divides each channel by a power of the squares in the `size` channels around it (section 3.3).

    The paper's `alpha` of 1e-4 is for pixels of 0 to 255. Ours have deviation 1, which is about 90 of those, so the
    same strength is 1e-4 * 90^2. The sum over neighbours is a 1x1 convolution with a band of ones: one fast operation
    in every runtime.
    """

    band: Tensor

    def __init__(self, channels: int, size: int = 5, k: float = 2.0, alpha: float = 0.81) -> None:
        super().__init__()
        self.k, self.alpha = k, alpha
        index = torch.arange(channels)
        near = (index[:, None] - index[None, :]).abs() <= size // 2
        self.register_buffer("band", near.to(torch.float32)[:, :, None, None])

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same shape; the exponent is the paper's 0.75."""
        scale_NCHW = self.k + self.alpha * F.conv2d(x_NCHW.square(), self.band)
        return x_NCHW * torch.rsqrt(scale_NCHW * scale_NCHW.sqrt())


class AlexNet(nn.Module):
    """Images of `side` pixels to class scores; `widths` are the channels of the five convolutions."""

    def __init__(
        self,
        scale: PixelScale,
        side: int,
        widths: Sequence[int],
        hidden: int,
        num_classes: int,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.scale = scale
        a, b, c, d, e = widths
        self.features = nn.Sequential(
            nn.Conv2d(scale.mean.numel(), a, 5, padding=2), nn.ReLU(), ResponseNorm(a), nn.MaxPool2d(3, 2),
            nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), ResponseNorm(b), nn.MaxPool2d(3, 2),
            nn.Conv2d(b, c, 3, padding=1), nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
            nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(e * _pooled(side) ** 2, hidden), nn.ReLU(),
            nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )  # fmt: skip
        # Not the paper's normal of 0.01: without normalisation it needs the paper's widths to carry a signal through.
        initialise(self, "kaiming")

    def forward(self, image_NHWC: Tensor) -> Tensor:
        """`UINT8` pixels `[N, H, W, C]` to logits `[N, K]`."""
        logits_NK: Tensor = self.head(self.features(self.scale(image_NHWC)))
        return logits_NK


def _pooled(side: int) -> int:
    """What three pools of 3 pixels every 2 leave of a side."""
    for _ in range(3):
        side = (side - 3) // 2 + 1
    return side
