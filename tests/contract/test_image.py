import contextlib
import io
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from contract.error import ImageError, InputError
from contract.image import decode
from contract.schema import ImagePreprocess

GREY = ImagePreprocess(tensor="image", mode="L", height=4, width=6)
RGB = ImagePreprocess(tensor="image", mode="RGB", height=4, width=6)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_an_image_of_the_right_size_is_taken_as_it_is() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    result = decode(encoded(Image.fromarray(pixels)), GREY)
    np.testing.assert_array_equal(result.pixels[:, :, 0], pixels)
    assert result.aspect == 1.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("spec", [GREY, RGB])
def test_every_allowed_format_is_read(kind: str, spec: ImagePreprocess) -> None:
    result = decode(encoded(Image.new("RGB", (60, 40), (90, 90, 90)), kind), spec)
    assert result.pixels.shape == (4, 6, spec.channels)
    np.testing.assert_allclose(result.pixels.astype(int), 90, atol=2)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.full((4, 6), 257 * 100, np.uint16)), 100),
        (Image.new("1", (6, 4), 1), 255),
        (Image.new("RGBA", (6, 4), (200, 200, 200, 0)), 0),
        (Image.new("LA", (6, 4), (200, 255)), 200),
        (Image.new("RGB", (6, 4), (80, 80, 80)).quantize(), 80),
    ],
)
def test_every_pixel_mode_becomes_eight_bits(image: Image.Image, expected: int) -> None:
    for spec in (GREY, RGB):
        np.testing.assert_allclose(decode(encoded(image), spec).pixels.astype(int), expected, atol=3)


def test_cmyk_and_palette_with_transparency() -> None:
    cmyk = Image.new("RGB", (6, 4), (120, 120, 120)).convert("CMYK")
    np.testing.assert_allclose(decode(encoded(cmyk, "JPEG"), RGB).pixels.astype(int), 120, atol=3)
    palette = Image.new("P", (6, 4), 0)
    palette.putpalette([250, 250, 250])
    np.testing.assert_array_equal(decode(encoded(palette, transparency=0), RGB).pixels, 0)


def test_exif_turns_the_image_upright() -> None:
    pixels = np.zeros((6, 4), np.uint8)
    pixels[0] = 255  # the first row of what is stored is the right-hand column of what was seen
    exif = Image.Exif()
    exif[0x0112] = 6
    result = decode(encoded(Image.fromarray(pixels), exif=exif), GREY)
    assert result.aspect == 1.5
    assert (result.pixels[:, -1, 0] == 255).all()
    assert (result.pixels[:, 0, 0] == 0).all()


def test_crop_keeps_the_middle_and_pad_keeps_everything() -> None:
    pixels = np.zeros((4, 12), np.uint8)
    pixels[:, :3], pixels[:, -3:] = 255, 255
    image = encoded(Image.fromarray(pixels))
    middle = decode(image, GREY.model_copy(update={"resize": "crop", "resample": "nearest"}))
    assert middle.pixels.max() == 0
    padded = decode(image, GREY.model_copy(update={"resize": "pad", "background": 7, "resample": "nearest"}))
    assert (padded.pixels[0] == 7).all()
    assert padded.pixels[1:3].max() == 255


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"%PDF-1.4\n", b"SIMPLE  =                    T" + b" " * 2850, b"%!PS-Adobe-3.0 EPSF-3.0\n"],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="expected an image"):
        decode(data, GREY)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_truncated_image_is_refused(kind: str) -> None:
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)), kind)
    with pytest.raises(ImageError, match=r"damaged or truncated|expected an image"):
        decode(data[: len(data) // 2], RGB)


def test_an_image_with_too_many_pixels_is_refused_by_its_header() -> None:
    data = bytearray(encoded(Image.new("L", (6, 4))))
    data[16:24] = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    with pytest.raises(ImageError, match="at most 50000000 pixels, got 20000 x 10000"):
        decode(bytes(data), GREY)


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    data = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    decode(data, GREY)
    scan = data[data.rindex(b"\xff\xda") : -2]
    many = data[:-2] + scan * 200 + data[-2:]
    several = encoded(Image.new("L", (64, 64)), "MPO", save_all=True, append_images=[Image.new("L", (64, 64))])
    mark = several.index(b"\xff\xe2")  # what makes a JPEG one of several pictures in a file
    index = several[mark : mark + 2 + int.from_bytes(several[mark + 2 : mark + 4], "big")]
    for picture in (many, many[:2] + index + many[2:]):
        with pytest.raises(ImageError, match="at most 100 scans"):
            decode(picture, GREY)


def test_a_crop_of_a_whole_side_is_never_larger_than_the_image() -> None:
    spec = GREY.model_copy(update={"resize": "crop", "width": 1, "height": 23})
    assert 47 / 23 * 23 > 47  # or this would test nothing
    assert (decode(encoded(Image.new("L", (3, 47), 9)), spec).pixels == 9).all()


def test_a_very_thin_image_is_read() -> None:
    for resize in ("stretch", "crop", "pad"):
        spec = GREY.model_copy(update={"resize": resize})
        assert decode(encoded(Image.new("L", (1, 65_500), 9)), spec).pixels.shape == (4, 6, 1)


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\x00"])
)
def test_any_bytes_give_an_image_or_an_input_error(data: bytes, magic: bytes) -> None:
    with contextlib.suppress(InputError):
        decode(magic + data, GREY)
