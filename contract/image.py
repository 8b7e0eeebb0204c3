"""From the bytes of an image file to the model's input: the one copy, used by training, gateway and tests."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from contract.error import ImageError, InputError
from contract.image_memory import EXIF_ORIENTATION, MAX_SIDE, STRIP_PIXELS, is_flat, most_bytes, tamed
from contract.place import ImagePlace, Region
from contract.schema import ImagePreprocess

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

Image.MAX_IMAGE_PIXELS = None  # the contract's own limit is checked instead, where Pillow would only warn

_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# By orientation: whose width is the upright image's height, whose right or bottom is its left, and whose is its top.
_TURNED, _TO_LEFT, _TO_TOP = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
_JPEGS = ("JPEG", "MPO")  # an MPO begins with a JPEG, and may have more behind it
_JPEG_SCAN = b"\xff\xda"
MAX_JPEG_SCANS = 100  # a progressive JPEG has about ten; each goes over all pixels again, whatever the file's size

Take = Callable[[int], AbstractContextManager[None]]


def boundless(_: int) -> AbstractContextManager[None]:
    """Take memory without asking for it."""
    return nullcontext()


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImage:
    """`pixels` is `UINT8` `[height, width, channels]`.

    `place` says where in the image as it came, upright, the pixels lie. `aspect` is its width / height, as decoded.
    """

    pixels: NDArray[np.uint8]
    aspect: float
    place: ImagePlace

    @property
    def num_pixels(self) -> int:
        """How many pixels the image had as it came."""
        return self.place.width * self.place.height


def num_pixels(data: bytes) -> int:
    """Pixels that the file's header claims; 0 for bytes that are no image. Nothing is decoded."""
    data, size = tamed(data)
    if size is not None:
        return size[0] * size[1]
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # Pillow's parsers raise whatever they met; decoding says what is wrong
        return 0


def decode(data: bytes, spec: ImagePreprocess, max_pixels: int | None = None, take: Take = boundless) -> DecodedImage:
    """Decode the first frame, turn it upright, resize it as the contract says.

    Raises ImageError for bytes that are no image of an allowed format, a truncated file, or more than `max_pixels`
    (the contract's, unless given) pixels; those are refused by their header, before any memory is taken for them.
    Then it is taken within `take`, a context for so many bytes, whose InputError and TimeoutError are passed on.
    """
    limit = spec.max_pixels if max_pixels is None else max_pixels
    data, known_size = tamed(data)
    if known_size is not None:
        _check_size(known_size, limit)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            size = image.size
            _check_size(size, limit)
            if image.format in _JPEGS and data.count(_JPEG_SCAN) > MAX_JPEG_SCANS:
                raise ImageError(f"expected a JPEG of at most {MAX_JPEG_SCANS} scans, got more")
            # A JPEG decodes at a fraction of its size.
            draft = image.draft(spec.mode, (2 * spec.width, 2 * spec.height))
            with take(most_bytes(image, data, size, spec)):
                orientation = image.getexif().get(EXIF_ORIENTATION, 1)
                upright = _upright(image, orientation)
                upright_size = upright.size
                resized = _resize(_flatten(upright, spec), spec)
    except (InputError, TimeoutError):
        raise
    except UnidentifiedImageError:
        raise ImageError(f"expected an image ({', '.join(FORMATS)}), got {len(data)} bytes that are none") from None
    except Exception as exc:  # Pillow's decoders raise whatever their parser met: OSError, SyntaxError, struct.error
        raise ImageError(f"the image is damaged or truncated: {exc!s:.120}") from exc
    pixels = np.asarray(resized, dtype=np.uint8).reshape(spec.height, spec.width, spec.channels)
    place = _place(size, orientation, 1.0 if draft is None else size[0] / draft[1][2], upright_size, spec)
    return DecodedImage(pixels=pixels, aspect=upright_size[0] / upright_size[1], place=place)


def _check_size(size: tuple[int, int], limit: int) -> None:
    if size[0] * size[1] > limit:
        raise ImageError(f"expected an image of at most {limit} pixels, got {size[0]} x {size[1]}")
    if max(size) > MAX_SIDE:
        raise ImageError(f"expected an image of at most {MAX_SIDE} pixels a side, got {size[0]} x {size[1]}")


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        image.load()
        return image
    return ImageOps.exif_transpose(image)


def _flatten(image: Image.Image, spec: ImagePreprocess) -> Image.Image:
    """One layer of 8-bit pixels in the contract's mode; transparency shows `spec.background`."""
    if is_flat(image, spec):
        return image
    rows = max(STRIP_PIXELS // image.width, 1)
    if rows >= image.height:
        return _flatten_strip(image, spec)
    flat = Image.new(spec.mode, image.size)  # what is made on the way is no larger than a strip
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        flat.paste(_flatten_strip(strip, spec), (0, top))
    return flat


def _flatten_strip(image: Image.Image, spec: ImagePreprocess) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits a pixel
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert(spec.mode)
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        background = Image.new("RGBA", layered.size, (spec.background,) * 3 + (255,))
        return Image.alpha_composite(background, layered).convert(spec.mode)
    return image.convert(spec.mode)


def _to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Integers are taken as 16 bits deep, floats as 0 to 1: what PNG and TIFF files of these modes hold."""
    scaled = values / 257.0 if values.dtype.kind in "iu" else values * 255.0
    return np.nan_to_num(scaled).clip(0, 255).round().astype(np.uint8)


def _resize(image: Image.Image, spec: ImagePreprocess) -> Image.Image:
    size, resample = (spec.width, spec.height), _RESAMPLE[spec.resample]
    match spec.resize:
        case "pad":
            background = spec.background if spec.mode == "L" else (spec.background,) * 3
            return ImageOps.pad(image, size, resample, color=background)
        case "crop":  # scaling and cutting in one step: the part of the source that ends up in the result
            return image.resize(size, resample, box=_region(image.size, spec))
        case "stretch":
            return image if image.size == size else image.resize(size, resample)


def _place(
    size: tuple[int, int], orientation: int, scale: float, decoded: tuple[int, int], spec: ImagePreprocess
) -> ImagePlace:
    """Where the result lies in an image of that size, of which one pixel was decoded for each `scale`.

    `decoded` is what came of it, upright. A fraction of a pixel at the stored image's right and bottom edge is decoded
    as a whole one, so what was decoded reaches beyond the image there.
    """
    width, height = reversed(size) if orientation in _TURNED else size
    left, top, right, bottom = (edge * scale for edge in _region(decoded, spec))
    x = decoded[0] * scale - width if orientation in _TO_LEFT else 0.0
    y = decoded[1] * scale - height if orientation in _TO_TOP else 0.0
    return ImagePlace(width=width, height=height, region=(left - x, top - y, right - x, bottom - y))


def _region(size: tuple[int, int], spec: ImagePreprocess) -> Region:
    """The part of an image of that size that the result shows; beyond its edges where the result is padded."""
    width, height = size
    match spec.resize:
        case "stretch":
            return 0.0, 0.0, width, height
        case "crop":
            scale = spec.crop_ratio * min(width / spec.width, height / spec.height)
            # Rounding may make it larger than the image, which Pillow refuses.
            shown_width, shown_height = min(spec.width * scale, width), min(spec.height * scale, height)
            left, top = (width - shown_width) / 2, (height - shown_height) / 2
            return left, top, left + shown_width, top + shown_height
        case "pad":  # as ImageOps.pad does it, which rounds the scaled size and the margins to whole pixels
            inner_width, inner_height = spec.width, spec.height
            if width / height > spec.width / spec.height:
                inner_height = max(round(height / width * spec.width), 1)
            else:
                inner_width = max(round(width / height * spec.height), 1)
            x, y = round((spec.width - inner_width) / 2), round((spec.height - inner_height) / 2)
            step_x, step_y = width / inner_width, height / inner_height
            return -x * step_x, -y * step_y, (spec.width - x) * step_x, (spec.height - y) * step_y
