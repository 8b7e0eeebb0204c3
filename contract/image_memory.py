"""How much memory it takes to decode an image, read from its beginning before any of it is taken.

Sources: https://www.w3.org/Graphics/GIF/spec-gif89a.txt; ITU-T T.81, annex B; what Pillow and its libraries were seen
to take (tests/contract/test_image_memory.py).
"""

import struct
from typing import Any

from PIL import Image, PngImagePlugin

from contract.schema import ImagePreprocess

MAX_SIDE = 65_535  # what JPEG and GIF can have at most; rows of other formats are no longer either

# Pillow reads all of a PNG's texts before anything is known of its pixels, and would unpack 64 MiB of them.
PngImagePlugin.MAX_TEXT_MEMORY = 1024 * 1024

# What Pillow takes for a pixel: four bytes for any that has colours or isn't of eight bits, and as much again for each
# step that makes a new image of it.
PIXEL_BYTES, GREY_BYTES = 4, 1
_WEBP_BYTES = 12  # the library decodes into memory of its own, and the frames of an animation are put together
_COEFFICIENT_BYTES = 2
STRIP_PIXELS, _STRIP_BYTES = 1024 * 1024, 32  # of a part that is flattened: how many, and what it takes for each

EXIF_ORIENTATION = 0x0112
_PNG_EXIF = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
_GIF = (b"GIF87a", b"GIF89a")
_GIF_EXTENSION, _GIF_CONTROL, _GIF_IMAGE, _GIF_END = 0x21, 0xF9, 0x2C, 0x3B
_GIF_DISPOSAL = 0b00011100
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_JPEG_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))  # markers without a length
_JPEG_SCAN = 0xDA
_MOST_MARKERS, _MOST_CHANNELS = 10_000, 4
_TIFF_BITS, _TIFF_CHANNELS, _TIFF_ROWS, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 258, 277, 278, 322, 323


def tamed(data: bytes) -> tuple[bytes, tuple[int, int] | None]:
    """A file that takes no memory when it is opened, and its size where that has to be known before.

    A GIF's first frame may ask to be wiped away after it was shown: for that, Pillow makes an image of its size at
    once.
    """
    if data[:6] not in _GIF:
        return data, None
    controls: list[int] = []
    try:
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        at = 13 + ((6 << (flags & 7)) if flags & 0x80 else 0)
        while data[at] != _GIF_END:
            if data[at] == _GIF_IMAGE:
                left, top, frame_width, frame_height = struct.unpack_from("<4H", data, at + 1)
                width, height = max(width, left + frame_width), max(height, top + frame_height)
                break
            if data[at] == _GIF_EXTENSION:
                if data[at + 1] == _GIF_CONTROL:
                    controls.append(at + 3)
                at += 2
                while data[at]:
                    at += data[at] + 1
            at += 1
    except (IndexError, struct.error):  # it ends too early, which decoding will say
        return data, None
    calm = bytearray(data)
    for control in controls:
        calm[control] &= ~_GIF_DISPOSAL
    return bytes(calm), (width, height)


def most_bytes(image: Image.Image, data: bytes, size: tuple[int, int], spec: ImagePreprocess) -> int:
    """The most memory that it takes to make an image of the contract's of one of which only the header was read.

    `size` is the whole image's; `image` is what is decoded of it, which for a JPEG may be a fraction.
    """
    num_pixels = image.width * image.height
    bytes_per_pixel, num_bytes = GREY_BYTES if image.mode in ("1", "L", "P") else PIXEL_BYTES, 0
    if _may_be_turned(image, data):
        bytes_per_pixel *= 2
    match image.format:
        case "WEBP":
            bytes_per_pixel += _WEBP_BYTES
        case "BMP":
            bytes_per_pixel += GREY_BYTES  # one that is compressed is unpacked apart
        case "JPEG" | "MPO":
            num_bytes = _coefficient_bytes(data) * size[0] * size[1]
        case "TIFF":
            num_bytes = _tiff_bytes(image)
    if not is_flat(image, spec):
        bytes_per_pixel += GREY_BYTES if spec.mode == "L" else PIXEL_BYTES
        num_bytes += _STRIP_BYTES * min(num_pixels, STRIP_PIXELS)
    return num_bytes + num_pixels * bytes_per_pixel


def is_flat(image: Image.Image, spec: ImagePreprocess) -> bool:
    """Whether an image has the contract's colours, and is opaque."""
    return image.mode == spec.mode and "transparency" not in image.info


def _may_be_turned(image: Image.Image, data: bytes) -> bool:
    if image.format == "PNG":  # it may say so at its end, for which Pillow decodes it
        return any(keyword in data for keyword in _PNG_EXIF)
    return bool(image.getexif().get(EXIF_ORIENTATION, 1) != 1)


def _coefficient_bytes(data: bytes) -> int:
    """What a JPEG's coefficients take for each pixel until the last scan was read; 0 where the first scan has all."""
    at, num_channels, progressive = 2, _MOST_CHANNELS, False
    for _ in range(_MOST_MARKERS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 10 > len(data):
            break
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _JPEG_FRAMES:
            num_channels, progressive = data[at + 9], marker in _JPEG_PROGRESSIVE
        if marker == _JPEG_SCAN:
            if not progressive and data[at + 4] >= num_channels:
                return 0
            break
        at += 2 if marker in _JPEG_BARE else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return _COEFFICIENT_BYTES * num_channels


def _tiff_bytes(image: Any) -> int:
    """What a TIFF's strip or tile takes, which is unpacked as a whole, however large it is beside the image."""
    tags = image.tag_v2
    bits = max(tags.get(_TIFF_BITS, (1,))) * tags.get(_TIFF_CHANNELS, 1)
    if _TIFF_TILE_WIDTH in tags:
        num_pixels = tags[_TIFF_TILE_WIDTH] * tags[_TIFF_TILE_HEIGHT]
    else:
        num_pixels = image.width * min(tags.get(_TIFF_ROWS, image.height), image.height)
    return int(num_pixels * bits // 8)
