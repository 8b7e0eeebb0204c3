"""Random changes to training samples that leave true what their targets say.

Each is a frozen dataclass, so that its numbers belong to the run's identity, and draws from torch's global generator,
which the loop seeds for every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor

Inputs = Sequence[Tensor]


class InputAugment(Protocol):
    """Changes a batch of input tensors, in the contract's order, and nothing of what is true of them."""

    def __call__(self, inputs: Inputs, /) -> Inputs:
        """Return the changed batch; the given one stays as it is."""


@runtime_checkable
class JointAugment(Protocol):
    """Changes a batch of input tensors together with its targets, which say where in the input something is."""

    def together(self, inputs: Inputs, targets: Any, /) -> tuple[Inputs, Any]:
        """Return the changed batch and its targets; the given ones stay as they are."""


Augment = InputAugment | JointAugment


def augmented(augment: Augment | None, inputs: Inputs, targets: Any) -> tuple[Inputs, Any]:
    """The batch and its targets, changed where there is something that changes them."""
    if augment is None:
        return inputs, targets
    if isinstance(augment, JointAugment):
        return augment.together(inputs, targets)
    return augment(inputs), targets


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Turn square images by quarters and mirror them, and what the targets say of places with them.

    For what has no up or down, as under a microscope or from the air. The targets are a mask `[N, H, W]`, or boxes
    `[N, Q, 4]`: left, top, right and bottom as shares of the image. One of the eight ways for the whole batch.
    """

    targets: Literal["mask", "boxes"]

    def together(self, inputs: Inputs, targets: Tensor, /) -> tuple[Inputs, Tensor]:
        """Turn the first input `[N, H, W, C]` and the targets; other inputs stay as they are."""
        image_NHWC, *others = inputs
        quarters, mirrored = divmod(int(torch.randint(0, 8, ())), 2)
        turned_NHWC = _turned(image_NHWC, quarters, mirrored=bool(mirrored))
        if self.targets == "mask":
            return (turned_NHWC, *others), _turned(targets, quarters, mirrored=bool(mirrored))
        left, top, right, bottom = targets.unbind(dim=-1)
        if mirrored:
            left, right = 1 - right, 1 - left
        for _ in range(quarters):
            left, top, right, bottom = top, 1 - right, bottom, 1 - left
        return (turned_NHWC, *others), torch.stack((left, top, right, bottom), dim=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Light:
    """Let each image be taken in another light: each of its channels is multiplied by `1 - most` to `1 + most`."""

    most: float

    def __post_init__(self) -> None:
        """Refuse what would be more than black."""
        if not 0 <= self.most <= 1:
            raise ValueError(f"expected a share from 0 to 1, got {self.most}")

    def __call__(self, inputs: Inputs, /) -> Inputs:
        """Augment the first input, `UINT8` `[N, H, W, C]`; other inputs stay as they are."""
        image_NHWC, *others = inputs
        num, _, _, channels = image_NHWC.shape
        gain_N11C = (1 + self.most * (2 * torch.rand(num, 1, 1, channels) - 1)).to(image_NHWC.device)
        return ((image_NHWC * gain_N11C).round().clamp(0, 255).to(image_NHWC.dtype), *others)


@dataclass(frozen=True, kw_only=True, slots=True)
class InOrder:
    """Several, one after the other."""

    steps: tuple[Augment, ...]

    def together(self, inputs: Inputs, targets: Any, /) -> tuple[Inputs, Any]:
        """Let each change what the one before it made."""
        for step in self.steps:
            inputs, targets = augmented(step, inputs, targets)
        return inputs, targets


@dataclass(frozen=True, kw_only=True, slots=True)
class ShiftAndHiss:
    """Move each sound by up to `max_shift` samples, zeros coming in, and add noise of up to `max_hiss` of its power.

    Both are drawn for each sound, the noise's share evenly from 0.
    """

    max_shift: int
    max_hiss: float

    def __post_init__(self) -> None:
        """Refuse a negative shift or noise."""
        if self.max_shift < 0 or self.max_hiss < 0:
            raise ValueError(f"expected a max_shift and a max_hiss of at least 0, got {self}")

    def __call__(self, inputs: Inputs, /) -> Inputs:
        """Augment the one input `[N, T]`."""
        (sound_NT,) = inputs
        num, length = sound_NT.shape
        start_N = torch.randint(0, 2 * self.max_shift + 1, (num, 1)).to(sound_NT.device)
        at_NT = start_N + torch.arange(length, device=sound_NT.device)
        moved_NT = F.pad(sound_NT, (self.max_shift, self.max_shift)).gather(1, at_NT)
        power_N1 = moved_NT.square().mean(dim=1, keepdim=True) * (torch.rand(num, 1) * self.max_hiss).to(moved_NT)
        return (moved_NT + power_N1.sqrt() * torch.randn(num, length).to(moved_NT),)


def _turned(plane_NHW: Tensor, quarters: int, *, mirrored: bool) -> Tensor:
    """`[N, H, W, ...]` mirrored left to right, then turned against the clock."""
    plane_NHW = plane_NHW.flip(2) if mirrored else plane_NHW
    return torch.rot90(plane_NHW, quarters, (1, 2)).contiguous()
