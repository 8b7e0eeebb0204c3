"""A small residual network on Fashion-MNIST: names the kind of a piece of clothing.

Network: He et al. 2015, arXiv 1512.03385.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.schema import AxisRange, ClassificationPostprocess, ImagePreprocess, Slo, TensorSpec
from training.augmentation import FlipAndShift
from training.config import TrainConfig
from training.data import Dataset
from training.dataset.fashion_mnist import LABELS, PIXEL_MEAN, PIXEL_STD, SIDE_PX, load
from training.gate import Gate
from training.network.pixel import PixelScale
from training.network.residual import ResidualNetwork
from training.objective import Classification
from training.recipe import Recipe

NUM_BASELINE = 10_000  # pictures that the baseline learns from: seconds, where all 55,000 take minutes


def network() -> ResidualNetwork:
    """Four widths: 28, 14, 7 and 4 pixels a side; 78,042 parameters."""
    return ResidualNetwork(PixelScale([PIXEL_MEAN], [PIXEL_STD]), widths=(16, 16, 32, 64), num_classes=len(LABELS))


def pixel_regression(dataset: Dataset) -> float:
    """Test accuracy of multinomial logistic regression on the pixels of the first 10,000 training pictures."""
    from sklearn.linear_model import LogisticRegression

    train, test = dataset.train.take(slice(NUM_BASELINE)), dataset.test
    model = LogisticRegression(C=0.1, tol=1e-3, max_iter=200)
    model.fit(_pixels(train.inputs["image"]), train.targets)
    return float(model.score(_pixels(test.inputs["image"]), test.targets))


def _pixels(image_NHWC: NDArray[Any]) -> NDArray[np.float32]:
    return image_NHWC.reshape(len(image_NHWC), -1).astype(np.float32) / np.float32(255)


FASHION_RESNET = Recipe(
    name="fashion-resnet",
    model="fashion-mnist",
    task="image-classification",
    description="Names the kind of a piece of clothing in a 28 x 28 grey picture on black.",
    data="Fashion-MNIST",
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
    baselines={"logistic regression on 10,000 pictures": pixel_regression},
)

RECIPES = (FASHION_RESNET,)
