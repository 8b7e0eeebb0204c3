"""Four well-known convolutional networks on Fashion-MNIST, beside the residual one: the same data, contract and labels.

AlexNet 2012, VGG 2014, Inception-v3 2015 and MobileNetV2 2018; each network's module names its paper.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from training.config import TrainConfig
from training.dataset.fashion_mnist import LABELS, PIXEL_MEAN, PIXEL_STD, SIDE_PX
from training.gate import Gate
from training.network.alexnet import AlexNet
from training.network.inception import Inception
from training.network.mobilenet import MobileNet, Stage
from training.network.pixel import PixelScale
from training.network.vgg import Vgg
from training.objective import Classification
from training.recipe import Recipe
from training.recipes.fashion_resnet import FASHION_RESNET


def alexnet() -> AlexNet:
    """Five convolutions on 28, 13 and 6 pixels a side."""
    return AlexNet(_scale(), side=SIDE_PX, widths=(16, 32, 64, 64, 32), hidden=256, num_classes=len(LABELS))


def vgg() -> Vgg:
    """Three pairs on 28, 14 and 7 pixels a side."""
    return Vgg(_scale(), side=SIDE_PX, widths=(16, 32, 64), hidden=128, num_classes=len(LABELS))


def inception() -> Inception:
    """Modules on 14, 7 and 4 pixels a side."""
    return Inception(_scale(), width=16, num_classes=len(LABELS))


def mobilenet() -> MobileNet:
    """Five blocks on 14, 7 and 4 pixels a side."""
    stages = (
        Stage(expansion=1, width=16, repeats=1, stride=1),
        Stage(expansion=6, width=32, repeats=2, stride=2),
        Stage(expansion=6, width=64, repeats=2, stride=2),
    )
    return MobileNet(_scale(), stem=16, stages=stages, head=128, num_classes=len(LABELS))


def _scale() -> PixelScale:
    return PixelScale([PIXEL_MEAN], [PIXEL_STD])


def _gates(accuracy: float, calibration_error: float = 0.05) -> tuple[Gate, ...]:
    return Gate(metric="accuracy", at_least=accuracy), Gate(metric="calibration_error", at_most=calibration_error)


def _recipe(name: str, network: Callable[[], nn.Module], how: str, config: TrainConfig, **changes: Any) -> Recipe:
    """The residual network's recipe with another network: the same data, contract, quick form and baseline."""
    return replace(
        FASHION_RESNET,
        name=name,
        model=name,
        description=f"{FASHION_RESNET.description} {how}",
        network=network,
        config=config,
        **changes,
    )


# Without batch normalisation, so at a third of the usual rate.
FASHION_ALEXNET = _recipe(
    "fashion-alexnet",
    alexnet,
    "By AlexNet.",
    TrainConfig(epochs=8, peak_learning_rate=0.03),
    gates=_gates(accuracy=0.88),
    quick_config=TrainConfig(epochs=6, batch_size=64, peak_learning_rate=0.02, num_train=4_096),
)

FASHION_VGG = _recipe("fashion-vgg", vgg, "By a VGG.", TrainConfig(epochs=8), gates=_gates(accuracy=0.91))

# Smoothed labels make a network less sure than it is right: its confidences are off by about the smoothing.
FASHION_INCEPTION = _recipe(
    "fashion-inception",
    inception,
    "By Inception-v3.",
    TrainConfig(epochs=6),
    objective=Classification(label_smoothing=0.1),
    gates=_gates(accuracy=0.90, calibration_error=0.10),
)

FASHION_MOBILENET = _recipe(
    "fashion-mobilenet", mobilenet, "By MobileNetV2.", TrainConfig(epochs=8), gates=_gates(accuracy=0.89)
)

RECIPES = (FASHION_ALEXNET, FASHION_VGG, FASHION_INCEPTION, FASHION_MOBILENET)
