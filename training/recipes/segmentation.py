"""A U-Net on nuclei under a fluorescence microscope: says which pixels are a nucleus.

Network: Ronneberger, Fischer & Brox 2015, arXiv 1505.04597.
"""

import numpy as np

from contract.schema import AxisRange, ImagePreprocess, MaskPostprocess, Slo, TensorSpec
from training.augmentation import Turn
from training.config import TrainConfig
from training.data import Dataset
from training.dataset.nucleus import LABELS, PIXEL_MEAN, PIXEL_STD, SIDE_PX, load
from training.gate import Gate
from training.network.pixel import PixelScale
from training.network.unet import UNet
from training.recipe import Recipe
from training.segmentation import DiceAndCrossEntropy, dice, dice_measures, otsu, overlap


def network() -> UNet:
    """64, 32, 16 and 8 pixels a side: a nucleus is 20 to 40 pixels long, so the deepest layer sees its neighbours."""
    return UNet(PixelScale([PIXEL_MEAN], [PIXEL_STD]), widths=(12, 24, 48, 64), num_labels=len(LABELS))


def own_threshold(dataset: Dataset) -> float:
    """Dice of Otsu's threshold, found anew in each picture."""
    pictures_NHW = dataset.test.inputs["image"][..., 0]
    found_NHW = np.stack([picture_HW > otsu(picture_HW) for picture_HW in pictures_NHW])
    return dice(overlap(found_NHW, dataset.test.targets > 0))


def one_threshold(dataset: Dataset) -> float:
    """Dice of Otsu's threshold of the training pictures."""
    found_NHW = dataset.test.inputs["image"][..., 0] > otsu(dataset.train.inputs["image"])
    return dice(overlap(found_NHW, dataset.test.targets > 0))


NUCLEI_UNET = Recipe(
    name="nuclei-unet",
    model="nuclei",
    task="image-segmentation",
    description="Says which pixels of a 64 x 64 fluorescence microscope picture show a cell's nucleus.",
    data="Nuclei, Data Science Bowl 2018",
    load=load,
    network=network,
    objective=DiceAndCrossEntropy(),
    augment=Turn(targets="mask"),  # a slide has no up or down
    inputs=(TensorSpec(name="image", datatype="UINT8", shape=(SIDE_PX, SIDE_PX, 1)),),
    outputs=(TensorSpec(name="logits", datatype="FP32", shape=(len(LABELS), SIDE_PX, SIDE_PX)),),
    batch=AxisRange(min=1, opt=4, max=16),
    # Padding keeps a nucleus's form; 24 is the slide's own background.
    preprocess=ImagePreprocess(tensor="image", mode="L", height=SIDE_PX, width=SIDE_PX, resize="pad", background=24),
    postprocess=MaskPostprocess(tensor="logits", labels=LABELS),
    metrics=dice_measures("logits"),
    slo=Slo(latency_threshold_ms=100, latency_objective=0.99, availability_objective=0.999),
    # Adam: the two losses' gradients differ in size by orders. Eight passes over tiles that overlap.
    config=TrainConfig(epochs=8, batch_size=16, optimizer="adamw", peak_learning_rate=2e-3, weight_decay=1e-2),
    gates=(Gate(metric="dice", at_least=0.90),),
    # Thirty-two steps: far better than calling everything a nucleus (0.33), not yet as good as a threshold.
    quick_config=TrainConfig(
        epochs=2, batch_size=16, optimizer="adamw", peak_learning_rate=2e-3, weight_decay=1e-2, num_train=256
    ),
    quick_gates=(Gate(metric="dice", at_least=0.70),),
    baselines={"Otsu's threshold of each tile": own_threshold, "Otsu's threshold of the training tiles": one_threshold},
)

RECIPES = (NUCLEI_UNET,)
