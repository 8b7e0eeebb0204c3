"""From the bytes of an image file to the model's input: the one copy, used by training, gateway and tests."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from contract.error import ImageError
from contract.schema import ImagePreprocess

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

Image.MAX_IMAGE_PIXELS = None  # the contract's own limit is checked instead, where Pillow would only warn

_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_EXIF_ORIENTATION = 0x0112
_JPEG_SCAN = b"\xff\xda"
MAX_JPEG_SCANS = 100  # a progressive JPEG has about ten; each goes over all pixels again, whatever the file's size


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImage:
    """`pixels` is `UINT8` `[height, width, channels]`.

    `aspect` is width / height of the image as it came, upright, and `num_pixels` how many it had.
    """

    pixels: NDArray[np.uint8]
    aspect: float
    num_pixels: int


def num_pixels(data: bytes) -> int:
    """Pixels that the file's header claims; 0 for bytes that are no image. Nothing is decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # Pillow's parsers raise whatever they met; decoding says what is wrong
        return 0


def decode(data: bytes, spec: ImagePreprocess, max_pixels: int | None = None) -> DecodedImage:
    """Decode the first frame, turn it upright, resize it as the contract says.

    Raises ImageError for bytes that are no image of an allowed format, a truncated file, or more than `max_pixels`
    (the contract's, unless given) pixels; those are refused by their header, before any memory is taken for them.
    """
    limit = spec.max_pixels if max_pixels is None else max_pixels
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            size = image.width * image.height
            if size > limit:
                raise ImageError(f"expected an image of at most {limit} pixels, got {image.width} x {image.height}")
            if image.format == "JPEG" and data.count(_JPEG_SCAN) > MAX_JPEG_SCANS:
                raise ImageError(f"expected a JPEG of at most {MAX_JPEG_SCANS} scans, got more")
            image.draft(spec.mode, (2 * spec.width, 2 * spec.height))  # a JPEG decodes at a fraction of its size
            upright = _upright(image)
            resized = _resize(_flatten(upright, spec), spec)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"expected an image ({', '.join(FORMATS)}), got {len(data)} bytes that are none") from None
    except Exception as exc:  # Pillow's decoders raise whatever their parser met: OSError, SyntaxError, struct.error
        raise ImageError(f"the image is damaged or truncated: {exc!s:.120}") from exc
    pixels = np.asarray(resized, dtype=np.uint8).reshape(spec.height, spec.width, spec.channels)
    return DecodedImage(pixels=pixels, aspect=upright.width / upright.height, num_pixels=size)


def _upright(image: Image.Image) -> Image.Image:
    if image.getexif().get(_EXIF_ORIENTATION, 1) == 1:
        image.load()
        return image
    return ImageOps.exif_transpose(image)


def _flatten(image: Image.Image, spec: ImagePreprocess) -> Image.Image:
    """One layer of 8-bit pixels in the contract's mode; transparency shows `spec.background`."""
    if image.mode == spec.mode and "transparency" not in image.info:
        return image
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
            scale = spec.crop_ratio * min(image.width / spec.width, image.height / spec.height)
            width, height = spec.width * scale, spec.height * scale
            left, top = (image.width - width) / 2, (image.height - height) / 2
            return image.resize(size, resample, box=(left, top, left + width, top + height))
        case "stretch":
            return image if image.size == size else image.resize(size, resample)
