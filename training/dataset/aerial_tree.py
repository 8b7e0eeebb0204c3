"""951 trees seen from an aeroplane, each in a box: four plots of American forest, 0.1 m a pixel. MIT licence.

Plots of the National Ecological Observatory Network that the wheel `deepforest` carries, boxes as Pascal VOC XML:
Weinstein et al. 2021, "A benchmark dataset for canopy crown detection and delineation in co-registered airborne RGB,
LiDAR and hyperspectral imagery", PLOS Computational Biology 17(7). Dead trees count as trees.

The two large plots, both of Yellowstone, are cut in strips with 32 rows between them that nobody sees: what is measured
is how well the rest of the same two places is done. The two small plots, of Florida and California, are only learned
from. A tree that a crop's edge cuts belongs to the crop when half of its box lies inside.
"""

import hashlib
import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data import Dataset, Split
from training.error import DataInvalid
from training.package import Package

LABELS = ("tree",)
SIDE_PX = 160  # 16 m: a large tree is 10 m wide
MAX_BOXES = 20  # of a crop; the fullest has 17
PIXEL_MEAN, PIXEL_STD = (0.534, 0.585, 0.483), (0.228, 0.212, 0.161)  # of the training crops, pixels scaled to 0..1

TRAIN_STEP_PX = 40
MIN_INSIDE = 0.5  # of a box's area
SPLIT_SEED = 2021  # of the order alone

_FOLDER = "deepforest/data"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A picture, its boxes, and the rows of each split."""

    picture: str
    boxes: str
    train: tuple[int, int]
    validation: tuple[int, int] | None = None
    test: tuple[int, int] | None = None


_LARGE, _DENSE = "2019_YELL_2_528000_4978000_image_crop2", "2019_YELL_2_541000_4977000_image_crop"
PLOTS = (
    Plot(picture=f"{_LARGE}.png", boxes=f"{_LARGE}.xml", train=(0, 1600), validation=(1632, 1792), test=(1824, 2464)),
    Plot(picture=f"{_DENSE}.png", boxes=f"{_DENSE}.xml", train=(0, 480), validation=(512, 672), test=(704, 1024)),
    Plot(picture="OSBS_029.png", boxes="OSBS_029.xml", train=(0, 400)),
    Plot(picture="SOAP_061.png", boxes="SOAP_061.xml", train=(0, 400)),
)

PACKAGE = Package(
    manager="pypi",
    name="deepforest",
    version="2.1.0",
    members=tuple(f"{_FOLDER}/{name}" for plot in PLOTS for name in (plot.picture, plot.boxes)),
    sha256="cce5ba9810bc210dff9f310fe8c902a6cb4b6f43633e45d32ac38d74a1ce3832",
    licence="MIT",
)


def load(data_dir: Path | None) -> Dataset:
    """2,348 crops of 160 x 160 to learn from, which overlap, 21 to watch, 70 to judge.

    Targets are boxes `[M, MAX_BOXES, 4]`: left, top, right, bottom as shares of the crop, zeros for none. Raises
    DataNotFound or DataInvalid.
    """
    content = PACKAGE.read(data_dir)
    opened = [(plot, _picture(content, plot), _boxes(content, plot)) for plot in PLOTS]
    train = [crops(picture, boxes, plot.train, TRAIN_STEP_PX) for plot, picture, boxes in opened]
    held_out = [
        [crops(picture, boxes, rows, SIDE_PX) for plot, picture, boxes in opened if (rows := getattr(plot, name))]
        for name in ("validation", "test")
    ]
    identity = f"{PACKAGE.digest()} {PLOTS} {SIDE_PX} {MAX_BOXES} {TRAIN_STEP_PX} {MIN_INSIDE} {SPLIT_SEED}"
    return Dataset(
        name="DeepForest's plots",
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        train=_split(train),
        validation=_split(held_out[0]),
        test=_split(held_out[1]),
    )


def crops(
    picture_HWC: NDArray[np.uint8], boxes_B4: NDArray[np.float64], rows: tuple[int, int], step: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Every crop that lies within the rows, one each `step` pixels, and the boxes in it."""
    width = picture_HWC.shape[1]
    corners = [
        (left, top)
        for top in range(rows[0], rows[1] - SIDE_PX + 1, step)
        for left in range(0, width - SIDE_PX + 1, step)
    ]
    image_MHWC = np.stack([picture_HWC[top : top + SIDE_PX, left : left + SIDE_PX] for left, top in corners])
    return image_MHWC, np.stack([inside(boxes_B4, left, top) for left, top in corners])


def inside(boxes_B4: NDArray[np.float64], left: int, top: int) -> NDArray[np.float32]:
    """The boxes `[MAX_BOXES, 4]` that a crop shows, clipped to it, as shares of it; zeros behind the last."""
    moved_B4 = boxes_B4 - (left, top, left, top)
    clipped_B4 = moved_B4.clip(0, SIDE_PX)
    kept_B4 = clipped_B4[_area(clipped_B4) >= MIN_INSIDE * _area(moved_B4)]
    if len(kept_B4) > MAX_BOXES:
        raise DataInvalid(f"expected at most {MAX_BOXES} trees in a crop, got {len(kept_B4)}: raise MAX_BOXES")
    padded = np.zeros((MAX_BOXES, 4), np.float32)
    padded[: len(kept_B4)] = kept_B4 / SIDE_PX
    return padded


def _area(boxes_B4: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes_B4[:, 2] - boxes_B4[:, 0]) * (boxes_B4[:, 3] - boxes_B4[:, 1])


def _split(parts: Sequence[tuple[NDArray[np.uint8], NDArray[np.float32]]]) -> Split:
    """All parts' crops, mixed; whoever takes only the first has some of every plot."""
    order = np.random.default_rng(SPLIT_SEED).permutation(sum(len(boxes_MQ4) for _, boxes_MQ4 in parts))
    image_MHWC, boxes_MQ4 = (np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True))
    return Split(
        inputs={"image": image_MHWC},
        targets=boxes_MQ4,
        observed={"aspect": np.ones(len(image_MHWC))},  # every crop is square
        # `learning` is nothing but the sign to answer what the loss is made of.
        lesson={"image": image_MHWC, "learning": np.ones((len(image_MHWC), 1), np.float32)},
    )


def _picture(content: dict[str, bytes], plot: Plot) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content[f"{_FOLDER}/{plot.picture}"])).convert("RGB"))


def _boxes(content: dict[str, bytes], plot: Plot) -> NDArray[np.float64]:
    """Left, top, right and bottom in pixels, `[B, 4]`."""
    root = ElementTree.fromstring(content[f"{_FOLDER}/{plot.boxes}"])  # noqa: S314 - held against a digest
    edges = ("xmin", "ymin", "xmax", "ymax")
    return np.array([[float(box.findtext(edge, "nan")) for edge in edges] for box in root.iter("bndbox")])
