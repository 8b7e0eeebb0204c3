"""Fashion-MNIST: 70,000 grey pictures of clothes, 28 x 28, ten kinds. MIT licence.

Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747.
"""

import hashlib
from pathlib import Path

import numpy as np

from training.data import Dataset, Split, split
from training.idx import decode
from training.source import DataFile, Source

LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
SIDE_PX = 28
PIXEL_MEAN, PIXEL_STD = 0.2860, 0.3530  # of the 60,000 pictures, pixels scaled to 0..1

NUM_VALIDATION = 5_000  # of the 60,000; leaves 55,000 to learn from
SPLIT_SEED = 1708  # not the run's: another seed still holds the same pictures out

_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"  # the authors' own; the digests make it safe

SOURCE = Source(
    folder="fashion-mnist",
    package="dataset-fashion-mnist",
    files=tuple(
        DataFile(name=name, sha256=sha256, url=f"{_ADDRESS}/{name}.gz")
        for name, sha256 in {
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        }.items()
    ),
)


def load(data_dir: Path | None) -> Dataset:
    """55,000 pictures to learn from, 5,000 to watch, 10,000 to judge; raises DataNotFound or DataInvalid."""
    content = SOURCE.read(data_dir)
    train, validation = split(_samples(content, "train"), NUM_VALIDATION, SPLIT_SEED)
    identity = f"{SOURCE.digest()} validation={NUM_VALIDATION} seed={SPLIT_SEED}"
    return Dataset(
        name="Fashion-MNIST",
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        train=train,
        validation=validation,
        test=_samples(content, "t10k"),
    )


def _samples(content: dict[str, bytes], part: str) -> Split:
    image_NHW = decode(content[f"{part}-images-idx3-ubyte"], f"{part}-images-idx3-ubyte")
    label_N = decode(content[f"{part}-labels-idx1-ubyte"], f"{part}-labels-idx1-ubyte")
    return Split(
        inputs={"image": image_NHW[..., None]},
        targets=label_N.astype(np.int64),
        observed={"aspect": np.ones(len(label_N))},  # every picture is square
    )
