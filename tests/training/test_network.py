import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.augmentation import FlipAndShift
from training.network.pixel import PixelScale
from training.network.residual import ResidualNetwork


def test_pixels_are_scaled_and_standardised_by_channel() -> None:
    scale = PixelScale([0.5, 0.25], [0.5, 0.125])
    image_NHWC = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)
    assert scale(image_NHWC).flatten().tolist() == [-1.0, 6.0]
    assert scale(torch.zeros(3, 5, 7, 2, dtype=torch.uint8)).shape == (3, 2, 5, 7)


@pytest.mark.parametrize("side", [1, 7, 28])
def test_the_network_takes_raw_pixels_of_any_size(side: int) -> None:
    network = ResidualNetwork(PixelScale([0.5], [0.5]), widths=(4, 8, 8), num_classes=3).eval()
    logits = network(torch.zeros(2, side, side, 1, dtype=torch.uint8))
    assert logits.shape == (2, 3)
    assert logits.dtype == torch.float32


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.integers(0, 3), st.floats(0, 1))
def test_augmented_images_are_flipped_and_moved_and_nothing_else(seed: int, shift: int, ratio: float) -> None:
    torch.manual_seed(seed)
    image_NHWC = torch.randint(0, 256, (5, 9, 6, 1), dtype=torch.uint8)
    before = image_NHWC.clone()
    (changed_NHWC,) = FlipAndShift(flip_ratio=ratio, max_shift_px=shift, background=7)((image_NHWC,))
    assert torch.equal(image_NHWC, before)
    assert (changed_NHWC.shape, changed_NHWC.dtype) == (before.shape, before.dtype)
    for image, now in zip(before, changed_NHWC, strict=True):
        assert any(torch.equal(now, moved) for moved in _all_moves(image, shift))


def _all_moves(image_HWC: torch.Tensor, shift: int) -> list[torch.Tensor]:
    height, width, _ = image_HWC.shape
    moves = []
    for base in (image_HWC, image_HWC.flip(1)):
        canvas = torch.full((height + 2 * shift, width + 2 * shift, 1), 7, dtype=torch.uint8)
        canvas[shift : shift + height, shift : shift + width] = base
        span = range(2 * shift + 1)
        moves += [canvas[y : y + height, x : x + width] for y in span for x in span]
    return moves


def test_impossible_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match="flip_ratio"):
        FlipAndShift(flip_ratio=1.1)
