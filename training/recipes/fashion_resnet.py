"""A small residual network on Fashion-MNIST: 70,000 grey pictures of clothes, 28 x 28, ten kinds.

Network: He et al. 2015, arXiv 1512.03385. Data: Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747.
"""

import hashlib
from pathlib import Path

import numpy as np

from contract.schema import AxisRange, ClassificationPostprocess, ImagePreprocess, Slo, TensorSpec
from training.augmentation import FlipAndShift
from training.config import TrainConfig
from training.data import Dataset, Split, split
from training.gate import Gate
from training.idx import decode
from training.network import PixelScale, ResidualNetwork
from training.objective import Classification
from training.recipe import Recipe
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


def network() -> ResidualNetwork:
    """Four widths: 28, 14, 7 and 4 pixels a side; 78,042 parameters."""
    return ResidualNetwork(PixelScale([PIXEL_MEAN], [PIXEL_STD]), widths=(16, 16, 32, 64), num_classes=len(LABELS))


def _samples(content: dict[str, bytes], part: str) -> Split:
    image_NHW = decode(content[f"{part}-images-idx3-ubyte"], f"{part}-images-idx3-ubyte")
    label_N = decode(content[f"{part}-labels-idx1-ubyte"], f"{part}-labels-idx1-ubyte")
    return Split(
        inputs={"image": image_NHW[..., None]},
        targets=label_N.astype(np.int64),
        observed={"aspect": np.ones(len(label_N))},  # every picture is square
    )


RECIPE = Recipe(
    name="fashion-resnet",
    model="fashion-mnist",
    task="image-classification",
    description="Names the kind of a piece of clothing in a 28 x 28 grey picture on black.",
    load=load,
    network=network,
    objective=Classification(),
    augment=FlipAndShift(flip_ratio=0.5, max_shift_px=1),
    inputs=(TensorSpec(name="image", datatype="UINT8", shape=(SIDE_PX, SIDE_PX, 1)),),
    outputs=(TensorSpec(name="logits", datatype="FP32", shape=(len(LABELS),)),),
    # 16: what a gateway gathers under usual load; 64: where throughput stops growing on small devices.
    batch=AxisRange(min=1, opt=16, max=64),
    # The data set's own making: the longer side to 28 pixels, the rest black (Xiao et al., section 2).
    preprocess=ImagePreprocess(tensor="image", mode="L", height=SIDE_PX, width=SIDE_PX, resize="pad", background=0),
    postprocess=ClassificationPostprocess(tensor="logits", labels=LABELS, top_k=3),
    slo=Slo(latency_threshold_ms=50, latency_objective=0.99, availability_objective=0.999),
    # Twelve passes: where the curve flattens, and about two minutes on two cores.
    config=TrainConfig(epochs=12, batch_size=128, peak_learning_rate=0.1),
    gates=(Gate(metric="accuracy", at_least=0.90), Gate(metric="calibration_error", at_most=0.05)),
    # 4,096 pictures three times: seconds, and far better than chance.
    quick_config=TrainConfig(epochs=3, batch_size=64, peak_learning_rate=0.05, num_train=4_096),
    quick_gates=(Gate(metric="accuracy", at_least=0.60),),
)
