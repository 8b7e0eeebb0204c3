"""Random changes to training samples that leave their target as it is.

Each is a frozen dataclass, so that its numbers belong to the run's identity, and draws from torch's global generator,
which the loop seeds for every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor

Inputs = Sequence[Tensor]


class Augment(Protocol):
    """Changes a batch of input tensors, in the contract's order."""

    def __call__(self, inputs: Inputs, /) -> Inputs:
        """Return the changed batch; the given one stays as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlipAndShift:
    """Mirror images left to right with a chance of `flip_ratio`, and move each by up to `max_shift_px` pixels.

    One shift for the whole batch: as random over an epoch as one an image, and a slice instead of a gather.
    """

    flip_ratio: float = 0.5
    max_shift_px: int = 1
    background: int = 0

    def __post_init__(self) -> None:
        """Refuse a chance outside 0..1 and a negative shift."""
        if not 0 <= self.flip_ratio <= 1 or self.max_shift_px < 0:
            raise ValueError(f"expected a flip_ratio from 0 to 1 and a max_shift_px of at least 0, got {self}")

    def __call__(self, inputs: Inputs, /) -> Inputs:
        """Augment the one input `[N, H, W, C]`."""
        (image_NHWC,) = inputs
        flipped_N = torch.rand(len(image_NHWC)) < self.flip_ratio
        image_NHWC = torch.where(flipped_N.to(image_NHWC.device)[:, None, None, None], image_NHWC.flip(2), image_NHWC)
        m = self.max_shift_px
        top, left = torch.randint(0, 2 * m + 1, (2,)).tolist()
        _, height, width, _ = image_NHWC.shape
        padded_NHWC = F.pad(image_NHWC, (0, 0, m, m, m, m), value=self.background)
        return (padded_NHWC[:, top : top + height, left : left + width].contiguous(),)
