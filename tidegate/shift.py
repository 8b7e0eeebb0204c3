"""Ways to shift a data set on purpose, so that a drift alert can be seen to come and its delay be measured.

Amounts are in units that need no knowledge of the data: standard deviations of the whole array for numbers, and shares
of the full range for images, whose values stay in theirs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.error import CommandError

Array = NDArray[Any]
Shift = Callable[[Array, np.random.Generator], Array]

_MAX_BYTE = 255.0


def parse_shift(text: str) -> Shift:
    """The shift that `kind:amount` names; raises CommandError for one there isn't."""
    kind, _, amount = text.partition(":")
    try:
        size = float(amount)
    except ValueError:
        size = float("nan")
    if kind not in _KINDS or not np.isfinite(size):
        known = ", ".join(f"{name}:{example}" for name, (_, example) in _KINDS.items())
        raise CommandError(f"expected a shift like {known}, got {text!r}")
    function = _KINDS[kind][0]
    return lambda array, random: function(array, size, random)


def _noise(array: Array, size: float, random: np.random.Generator) -> Array:
    """Normal noise: of so many standard deviations of the data, or of such a share of an image's range."""
    unit = _MAX_BYTE if array.dtype == np.uint8 else float(np.nanstd(_numbers(array)))
    return _like(array, _numbers(array) + random.normal(scale=size * unit, size=array.shape))


def _location(array: Array, size: float, _: np.random.Generator) -> Array:
    """Everything moved up by so many standard deviations."""
    numbers = _numbers(array)
    return _like(array, numbers + size * float(np.nanstd(numbers)))


def _scale(array: Array, size: float, _: np.random.Generator) -> Array:
    """Distances from the mean multiplied."""
    numbers = _numbers(array)
    mean = float(np.nanmean(numbers))
    return _like(array, mean + size * (numbers - mean))


def _rotate(array: Array, size: float, _: np.random.Generator) -> Array:
    """Images `[N, H, W, C]` turned by so many degrees, black where nothing was."""
    from PIL import Image

    return _each_image(array, lambda image: image.rotate(size, Image.Resampling.BILINEAR))


def _blur(array: Array, size: float, _: np.random.Generator) -> Array:
    """Images `[N, H, W, C]` blurred by a Gaussian of so many pixels."""
    from PIL import ImageFilter

    return _each_image(array, lambda image: image.filter(ImageFilter.GaussianBlur(size)))


_KINDS: Mapping[str, tuple[Callable[[Array, float, np.random.Generator], Array], str]] = {
    "noise": (_noise, "0.1"),
    "location": (_location, "0.5"),
    "scale": (_scale, "1.5"),
    "rotate": (_rotate, "30"),
    "blur": (_blur, "1.5"),
}


def _each_image(array: Array, change: Callable[[Any], Any]) -> Array:
    from PIL import Image

    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise CommandError(f"expected images UINT8 [N, height, width, 1 or 3], got {array.dtype} {list(array.shape)}")
    plain = array[..., 0] if array.shape[-1] == 1 else array
    return np.stack([np.asarray(change(Image.fromarray(each))) for each in plain]).reshape(array.shape)


def _numbers(array: Array) -> NDArray[np.float64]:
    if array.dtype.kind not in "biuf":
        raise CommandError(f"expected numbers to shift, got {array.dtype}")
    return array.astype(np.float64)


def _like(array: Array, numbers: NDArray[np.float64]) -> Array:
    """Numbers in the array's datatype: integers are rounded, and stay in their range."""
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        return np.clip(np.rint(numbers), limits.min, limits.max).astype(array.dtype)
    return numbers.astype(array.dtype)
