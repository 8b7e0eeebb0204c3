"""Where a pixel of the model's input lies in the picture that was sent, held against what decoding really did."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from contract.image import decode
from contract.picture import box_answer
from contract.place import ImagePlace
from contract.schema import BoxesPostprocess, ImagePreprocess

RESIZES = st.sampled_from(["stretch", "crop", "pad"])
MARK = 255
UNDONE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def ramps(width: int, height: int) -> Image.Image:
    """Red says how far right a pixel is, green how far down; blue marks the picture against its margins."""
    x, y = np.arange(width) / max(width - 1, 1) * 255, np.arange(height) / max(height - 1, 1) * 255
    pixels = np.stack([*np.broadcast_arrays(x[None, :], y[:, None]), np.full((height, width), MARK)], axis=-1)
    return Image.fromarray(pixels.round().astype(np.uint8))


def encoded(image: Image.Image, orientation: int, kind: str, **options: Any) -> bytes:
    """The file of an image that is to be turned as EXIF says, so that it then is `image`."""
    turned = image if orientation == 1 else image.transpose(UNDONE[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    turned.save(file, kind, exif=exif, **options)
    return file.getvalue()


def mapped_back(place: ImagePlace, spec: ImagePreprocess) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The x of each column's middle and the y of each row's, in the picture that was sent."""
    left, top, right, bottom = place.region
    columns, rows = (np.arange(spec.width) + 0.5) / spec.width, (np.arange(spec.height) + 0.5) / spec.height
    return left + columns * (right - left), top + rows * (bottom - top)


def worst_error(data: bytes, spec: ImagePreprocess, width: int, height: int) -> float:
    """The farthest that what a pixel shows lies from where it is said to lie, in pixels of the picture."""
    decoded = decode(data, spec)
    assert (decoded.place.width, decoded.place.height) == (width, height)
    x, y = mapped_back(decoded.place, spec)
    shown = decoded.pixels.astype(np.float64)
    # Near an edge, resampling has less to go by.
    reach_x = 1.5 * max(1.0, (x[-1] - x[0]) / max(spec.width - 1, 1))
    reach_y = 1.5 * max(1.0, (y[-1] - y[0]) / max(spec.height - 1, 1))
    inside = ((y > reach_y) & (y < height - reach_y))[:, None] & ((x > reach_x) & (x < width - reach_x))[None, :]
    assert (shown[..., 2][inside] >= MARK - 8).all()
    error_x = np.abs(shown[..., 0] / 255 * (width - 1) + 0.5 - x[None, :])[inside]
    error_y = np.abs(shown[..., 1] / 255 * (height - 1) + 0.5 - y[:, None])[inside]
    return float(max(error_x.max(initial=0), error_y.max(initial=0)))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 255),
    st.integers(1, 255),
    st.integers(1, 48),
    st.integers(1, 48),
    RESIZES,
    st.floats(0.3, 1),
    st.integers(1, 8),
)
def test_a_pixel_of_the_input_is_mapped_back_to_where_it_came_from(
    width: int, height: int, spec_width: int, spec_height: int, resize: Any, crop_ratio: float, orientation: int
) -> None:
    scale = min(spec_width / width, spec_height / height)
    assume(resize != "pad" or min(width, height) * scale > 0.5)  # rounded to nothing, it isn't seen at all
    spec = ImagePreprocess(
        tensor="i", mode="RGB", width=spec_width, height=spec_height, resize=resize, crop_ratio=crop_ratio
    )
    data = encoded(ramps(width, height), orientation, "PNG", compress_level=0)
    assert worst_error(data, spec, width, height) < 1


@settings(max_examples=60, deadline=None)
@given(st.integers(130, 255), st.integers(130, 255), RESIZES, st.integers(1, 8))
def test_a_jpeg_that_is_decoded_at_a_fraction_of_its_size_is_mapped_back_too(
    width: int, height: int, resize: Any, orientation: int
) -> None:
    spec = ImagePreprocess(tensor="i", mode="RGB", width=8, height=8, resize=resize)
    data = encoded(ramps(width, height), orientation, "JPEG", quality=100, subsampling=0)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (16, 16))
        assert max(image.size) < 40  # or this would test nothing
    assert worst_error(data, spec, width, height) < 2  # a step of the ramp, and what JPEG does to it


@given(
    st.integers(1, 9000),
    st.integers(1, 9000),
    st.floats(-3000, 3000),
    st.floats(-3000, 3000),
    st.floats(1, 9000),
    st.floats(1, 9000),
    st.tuples(*[st.floats(0, 1, width=32)] * 4),
)
def test_boxes_stay_on_the_picture(
    width: int, height: int, left: float, top: float, across: float, down: float, box: tuple[float, ...]
) -> None:
    spec = BoxesPostprocess(boxes_tensor="b", scores_tensor="s", labels=("cat",))
    place = ImagePlace(width=width, height=height, region=(left, top, left + across, top + down))
    found = box_answer(spec, np.array([box], np.float32), np.ones((1, 1)), place)["boxes"]
    for x1, y1, x2, y2 in (one["box"] for one in found):
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        expected = np.array([left + box[0] * across, top + box[1] * down]).clip(0, [width, height])
        assert [x1, y1] == pytest.approx(expected.tolist(), abs=0.02)


def test_the_sides_of_a_very_thin_picture_are_finite() -> None:
    file = io.BytesIO()
    Image.new("L", (1, 65_500), 9).save(file, "PNG")
    for resize in ("stretch", "crop", "pad"):
        spec = ImagePreprocess(tensor="i", mode="L", width=6, height=4, resize=resize)
        assert np.isfinite(decode(file.getvalue(), spec).place.region).all()
