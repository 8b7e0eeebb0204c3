"""From the pixels that the gateway sends to what a network computes with."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PixelScale(nn.Module):
    """`UINT8` pixels `[N, H, W, C]` to `FP32` `[N, C, H, W]`, each channel with mean 0 and deviation 1.

    Part of the network, so that a served model can't be fed with other arithmetic than it was trained with.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean_C: Sequence[float], std_C: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean_C, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std_C, dtype=torch.float32))

    def forward(self, image_NHWC: Tensor) -> Tensor:
        """Scale to 0..1, standardise, and put the channels where convolutions want them."""
        scaled_NHWC = (image_NHWC.to(torch.float32) / 255 - self.mean) / self.std
        return scaled_NHWC.permute(0, 3, 1, 2)
