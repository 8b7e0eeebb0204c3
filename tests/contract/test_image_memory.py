"""How much memory decoding takes, and that it is asked for before it is taken."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from contract import image as module
from contract.image import decode
from contract.schema import ImagePreprocess

SIDE = 2500
SLACK_MIB = 12

_MEASURE = """
import contextlib, sys
from pathlib import Path
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
decode(data, spec, None, take)
print((most_kib() - before) / 1024, asked[0] / 1024**2)
"""


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


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
        ("P", "GIF", {"transparency": 0}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("F", "TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_it_takes_no_more_than_was_asked_for(
    tmp_path: Path, colours: str, kind: str, options: dict[str, Any], mode: str
) -> None:
    for name, side in (("large", SIDE), ("small", 80)):
        (tmp_path / name).write_bytes(encoded(Image.new(colours, (side, side), 1), kind, **options))
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURE, tmp_path / "large", mode, tmp_path / "small"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    took_mib, asked_mib = map(float, ran.stdout.split())
    assert took_mib <= asked_mib + SLACK_MIB


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
    monkeypatch.setattr(module, "_STRIP_PIXELS", 40 * 7)
    for picture, expected in zip(pictures, whole, strict=True):
        np.testing.assert_array_equal(decode(picture, spec).pixels, expected)
