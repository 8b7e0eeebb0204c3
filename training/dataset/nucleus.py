"""125 cell nuclei under a fluorescence microscope: one picture of 512 x 512, every nucleus outlined. BSD-3-Clause.

The picture that the wheel `stardist` carries, of the Data Science Bowl of 2018: Caicedo et al. 2019, "Nucleus
segmentation across imaging experiments", Nature Methods 16:1247.

The picture is cut in three strips with 16 rows between them that nobody sees, so no tile shows a pixel of another
split, nor half a nucleus of it. One picture is one microscope and one stain: what is measured here is how well the rest
of the same slide would be labelled, and nothing about other slides.

The file holds 16 bits a pixel, but no value is above 235: it is an 8-bit picture, and the values are taken as they are.
"""

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data import Dataset, Split
from training.package import Package

LABELS = ("background", "nucleus")
SIDE_PX = 64
PIXEL_MEAN, PIXEL_STD = 0.108, 0.079  # of the training strip, pixels scaled to 0..1

# Rows of each split. Training tiles begin every 8 pixels, those to watch and to judge by lie side by side.
TRAIN_ROWS, VALIDATION_ROWS, TEST_ROWS = (0, 224), (240, 304), (320, 512)
TRAIN_STEP_PX = 8
SPLIT_SEED = 2018  # of the order alone

_PICTURE, _MASK = "stardist/data/images/img2d.tif", "stardist/data/images/mask2d.tif"

PACKAGE = Package(
    manager="pypi",
    name="stardist",
    version="0.9.2",
    members=(_PICTURE, _MASK),
    sha256="06131f0b0ccca65e8dfbd061c2c3044144701eadf47fbd0161edf913a67e5b02",
    licence="BSD-3-Clause",
)


def load(data_dir: Path | None) -> Dataset:
    """Tiles of 64 x 64: 1,197 to learn from, 8 to watch, 24 to judge; raises DataNotFound or DataInvalid."""
    content = PACKAGE.read(data_dir)
    picture_HW = _plane(content, _PICTURE).astype(np.uint8)
    label_HW = (_plane(content, _MASK) > 0).astype(np.uint8)
    identity = f"{PACKAGE.digest()} {SIDE_PX} {TRAIN_ROWS} {VALIDATION_ROWS} {TEST_ROWS} {TRAIN_STEP_PX} {SPLIT_SEED}"
    train = _tiles(picture_HW, label_HW, TRAIN_ROWS, TRAIN_STEP_PX)
    return Dataset(
        name="Nuclei of the Data Science Bowl",
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        train=train.take(np.random.default_rng(SPLIT_SEED).permutation(len(train))),
        validation=_tiles(picture_HW, label_HW, VALIDATION_ROWS, SIDE_PX),
        test=_tiles(picture_HW, label_HW, TEST_ROWS, SIDE_PX),
    )


def _plane(content: dict[str, bytes], path: str) -> NDArray[np.uint16]:
    from PIL import Image

    return np.array(Image.open(io.BytesIO(content[path])))


def _tiles(picture_HW: NDArray[np.uint8], label_HW: NDArray[np.uint8], rows: tuple[int, int], step: int) -> Split:
    """Every tile that lies within the rows, one each `step` pixels; targets are the labels `[M, SIDE_PX, SIDE_PX]`."""
    image_MHW, label_MHW = (
        np.lib.stride_tricks.sliding_window_view(plane_HW[slice(*rows)], (SIDE_PX, SIDE_PX))[::step, ::step]
        .reshape(-1, SIDE_PX, SIDE_PX)
        .copy()
        for plane_HW in (picture_HW, label_HW)
    )
    return Split(
        inputs={"image": image_MHW[..., None]},
        targets=label_MHW,
        observed={"aspect": np.ones(len(image_MHW))},  # every tile is square
    )
