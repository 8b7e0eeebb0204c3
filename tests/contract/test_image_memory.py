"""How much memory decoding takes, and that it is asked for before it is taken."""

import io
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from contract import image as module
from contract.error import ImageError
from contract.image import decode
from contract.image_memory import tamed
from contract.schema import ImagePreprocess

SIDE = 3500
SLACK_MIB = 8  # of 12 million pixels: less than one byte for each

_MEASURE = """
import contextlib, sys
from pathlib import Path
from contract.error import ImageError
from contract.image import decode
from contract.schema import ImagePreprocess
asked = []
def take(num_bytes):
    asked.append(num_bytes)
    return contextlib.nullcontext()
def most_kib():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
data = Path(sys.argv[1]).read_bytes()
spec = ImagePreprocess(tensor="x", mode=sys.argv[2], height=64, width=64)
decode(Path(sys.argv[3]).read_bytes(), spec)  # whatever is loaded when it is first needed
Path("/proc/self/clear_refs").write_text("5")
before = most_kib()
try:
    decode(data, spec, None, take)
except ImageError as exc:
    print(exc, file=sys.stderr)
print((most_kib() - before) / 1024, asked[0] / 1024**2 if asked else 0)
"""


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def measure(folder: Path, large: bytes, small: bytes, mode: str) -> tuple[float, float]:
    """MiB that a process of its own took, and had asked for."""
    for name, data in (("large", large), ("small", small)):
        (folder / name).write_bytes(data)
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURE, folder / "large", mode, folder / "small"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    took_mib, asked_mib = map(float, ran.stdout.split())
    return took_mib, asked_mib


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("colours", "kind", "options"),
    [
        ("RGB", "PNG", {}),
        ("RGB", "PNG", {"exif": turned()}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {"transparency": 1}),
        ("I;16", "PNG", {}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("CMYK", "JPEG", {}),
        ("CMYK", "JPEG", {"progressive": True, "subsampling": 0}),
        ("P", "GIF", {"transparency": 0}),
        ("P", "GIF", {"disposal": 2}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "WEBP", {}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("F", "TIFF", {"compression": "tiff_lzw"}),
        ("I", "TIFF", {}),
        ("RGB", "TIFF", {"compression": "tiff_adobe_deflate", "strip_size": 1 << 30}),
        ("RGB", "BMP", {}),
    ],
)
def test_it_takes_no_more_than_was_asked_for(
    tmp_path: Path, colours: str, kind: str, options: dict[str, Any], mode: str
) -> None:
    large, small = (encoded(Image.new(colours, (side, side), 1), kind, **options) for side in (SIDE, 80))
    took_mib, asked_mib = measure(tmp_path, large, small, mode)
    assert asked_mib > 0
    assert took_mib <= asked_mib + SLACK_MIB


def gif_to_be_wiped_away(side: int) -> bytes:
    """One pixel on a screen of that size, which is to be cleared when it was shown."""
    size = struct.pack("<HH", side, side)
    control = b"\x21\xf9\x04\x08\x00\x00\x00\x00"
    return (
        b"GIF89a"
        + size
        + b"\x80\x00\x00"
        + bytes(6)
        + control
        + b"\x2c"
        + bytes(4)
        + size
        + b"\x00\x02\x02\x44\x01\x00;"
    )


def png_of_text(num_chunks: int) -> bytes:
    """A small picture with texts that unpack to a megabyte each."""
    info = PngInfo()
    for i in range(num_chunks):
        info.add_itxt(f"t{i}", "\U0001f600" + "a" * 1_000_000, zip=True)
    return encoded(Image.new("RGB", (8, 8)), "PNG", pnginfo=info)


def jpeg_of_separate_scans(side: int) -> bytes:
    """A JPEG that isn't progressive, whose first scan has one of its channels."""
    data = bytearray(encoded(Image.new("YCbCr", (side, side)), "JPEG", subsampling=0))
    at = data.index(b"\xff\xda")
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    entropy = bytes(data[at + 2 + length : -2])
    scans = b"".join(b"\xff\xda\x00\x08\x01" + bytes([i, 0x00]) + b"\x00\x3f\x00" + entropy for i in (1, 2, 3))
    return bytes(data[:at]) + scans + b"\xff\xd9"


def tiff_of_one_tile(side: int) -> bytes:
    """A grey image of 100 by 100, in one compressed tile of that size."""
    tile = zlib.compress(bytes(side * side))
    fields = {256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(tile)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    directory = struct.pack("<H", len(fields)) + entries + bytes(4)
    return b"II*\x00" + struct.pack("<I", 8 + len(tile)) + tile + directory


@pytest.mark.parametrize(
    ("crafted", "small"),
    [
        (gif_to_be_wiped_away(7_000), encoded(Image.new("P", (8, 8)), "GIF")),
        (gif_to_be_wiped_away(65_535), encoded(Image.new("P", (8, 8)), "GIF")),
        (png_of_text(40), png_of_text(1)),
        (jpeg_of_separate_scans(3_000), encoded(Image.new("RGB", (80, 80)), "JPEG")),
        (tiff_of_one_tile(8192), tiff_of_one_tile(128)),
    ],
)
def test_no_file_takes_memory_that_was_not_asked_for(tmp_path: Path, crafted: bytes, small: bytes) -> None:
    assert len(crafted) < 1_000_000
    took_mib, asked_mib = measure(tmp_path, crafted, small, "RGB")
    assert took_mib <= asked_mib + SLACK_MIB + 16  # in which a PNG's texts are read, and refused


def test_a_side_has_a_limit_whatever_the_number_of_pixels() -> None:
    spec = ImagePreprocess(tensor="x", mode="RGB", height=8, width=8)
    assert decode(encoded(Image.new("L", (65_535, 1)), "PNG"), spec).num_pixels == 65_535
    for size in ((65_536, 1), (1, 65_536)):
        with pytest.raises(ImageError, match="at most 65535 pixels a side"):
            decode(encoded(Image.new("L", size), "PNG"), spec)


def test_the_size_of_a_gif_is_read_as_pillow_reads_it() -> None:
    picture = encoded(
        Image.effect_noise((90, 70), 50).convert("P"), "GIF", save_all=True, append_images=[Image.new("P", (90, 70))]
    )
    assert tamed(picture) == (picture, (90, 70))
    wiped = encoded(Image.new("P", (30, 20), 3), "GIF", disposal=2, comment=b"c" * 600)
    assert tamed(wiped)[0] != wiped
    spec = ImagePreprocess(tensor="x", mode="L", height=20, width=30)
    np.testing.assert_array_equal(
        decode(wiped, spec).pixels, decode(encoded(Image.new("P", (30, 20), 3), "GIF"), spec).pixels
    )


@given(data=st.binary(max_size=200), head=st.sampled_from([b"GIF89a", b"\xff\xd8\xff", gif_to_be_wiped_away(9)]))
def test_any_bytes_have_a_size_or_none(data: bytes, head: bytes) -> None:
    calm, size = tamed(head + data)
    assert len(calm) == len(head + data)
    assert (size is None) or head.startswith(b"GIF")
    with suppress(ImageError):
        decode(head + data, ImagePreprocess(tensor="x", mode="L", height=2, width=2))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_is_flattened_in_parts_as_in_one(mode: Literal["L", "RGB"], monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 4), np.uint8)
    pictures = [
        encoded(Image.fromarray(pixels), "PNG"),
        encoded(Image.fromarray(pixels[..., :3]).quantize(), "PNG", transparency=3),
        encoded(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG"),
        encoded(Image.fromarray(pixels[..., :3]).convert("CMYK"), "TIFF"),
        encoded(Image.fromarray(pixels[..., 0] / np.float32(256)), "TIFF"),
    ]
    spec = ImagePreprocess(tensor="x", mode=mode, height=50, width=40, background=200)
    whole = [decode(picture, spec).pixels for picture in pictures]
    monkeypatch.setattr(module, "STRIP_PIXELS", 40 * 7)
    for picture, expected in zip(pictures, whole, strict=True):
        np.testing.assert_array_equal(decode(picture, spec).pixels, expected)
