"""Photographs to ask with: parts of one real photograph, in different light, with a sensor's noise.

The photograph comes with matplotlib (`grace_hopper.jpg`, in the public domain).
"""

import io

import matplotlib.cbook
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 640, 480
QUALITY = 85

_NOISE = 3.0  # standard deviation in 8-bit steps: what enlarging the photograph smoothed away


def photographs(num: int, seed: int = 0) -> list[bytes]:
    """That many different JPEG files of 640 x 480."""
    rng = np.random.default_rng(seed)
    with Image.open(str(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))) as whole:
        whole.load()
    return [_photograph(whole, rng) for _ in range(num)]


def _photograph(whole: Image.Image, rng: np.random.Generator) -> bytes:
    width = rng.uniform(0.7, 1.0) * whole.width
    height = width * HEIGHT / WIDTH
    left, top = rng.uniform(0, whole.width - width), rng.uniform(0, whole.height - height)
    part = whole.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    pixels = np.asarray(part) * rng.uniform(0.6, 1.2) + rng.normal(0, _NOISE, (HEIGHT, WIDTH, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
