"""A detector without anchors on aerial photographs: draws a box around every tree.

Network: Zhou, Wang & Krähenbühl 2019, "Objects as Points", arXiv 1904.07850.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.schema import AxisRange, BoxesPostprocess, ImagePreprocess, Slo, TensorSpec
from training.augmentation import InOrder, Light, Turn
from training.config import TrainConfig
from training.data import Dataset
from training.dataset.aerial_tree import LABELS, PIXEL_MEAN, PIXEL_STD, SIDE_PX, load
from training.detection import CentreLoss, average_precision, detection_measures, judge
from training.gate import Gate
from training.network.detector import Detector
from training.network.pixel import PixelScale
from training.recipe import Recipe

NUM_BOXES = 32  # answered at most; no crop holds more than 17 trees
BLOB_PX = 10  # a quarter of a tree's usual size
MIN_SCORE = 0.3  # from which on a box is answered: on the test split precision is then 0.49, and recall 0.34


def network() -> Detector:
    """80, 40, 20 and 10 cells a side, the heatmap with 40: 0.4 m a cell."""
    scale = PixelScale(PIXEL_MEAN, PIXEL_STD)
    return Detector(scale, widths=(16, 32, 64, 96), head_width=48, num_boxes=NUM_BOXES)


def warm_blobs(dataset: Dataset) -> float:
    """Average precision of a box of the mean size around every blob that is redder, less blue, than what is around it.

    Crowns are, for meadow is green and shadow blue; of six colours tried on training crops this one told them best.
    """
    train, test = dataset.train, dataset.test
    size_2 = (train.targets[..., 2:] - train.targets[..., :2])[train.targets[..., 2] > 0].mean(axis=0)
    found = [blobs(image_HWC, size_2) for image_HWC in test.inputs["image"]]
    boxes_NQ4, scores_NQ = (np.stack(arrays) for arrays in zip(*found, strict=True))
    return average_precision(judge(boxes_NQ4, scores_NQ, test.targets))


def blobs(image_HWC: NDArray[np.uint8], size_2: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Boxes `[Q, 4]` and scores `[Q]`: peaks of a difference of Gaussians (Lindeberg 1998, IJCV 30, section 3)."""
    from scipy.ndimage import gaussian_filter, maximum_filter

    warmth_HW = image_HWC[..., 0].astype(np.float32) - image_HWC[..., 2]
    blob_HW = gaussian_filter(warmth_HW, BLOB_PX) - gaussian_filter(warmth_HW, 1.6 * BLOB_PX)
    row_P, column_P = np.nonzero((blob_HW == maximum_filter(blob_HW, int(2 * BLOB_PX) + 1)) & (blob_HW > 0))
    best = np.argsort(-blob_HW[row_P, column_P], kind="stable")[:NUM_BOXES]
    centre_Q2 = np.stack((column_P, row_P), axis=1)[best] / SIDE_PX
    boxes_Q4, scores_Q = np.zeros((NUM_BOXES, 4)), np.zeros(NUM_BOXES)
    boxes_Q4[: len(best)] = np.hstack((centre_Q2 - size_2 / 2, centre_Q2 + size_2 / 2)).clip(0, 1)
    scores_Q[: len(best)] = blob_HW[row_P, column_P][best]
    return boxes_Q4, scores_Q


TREES_DETECTOR = Recipe(
    name="trees-detector",
    model="trees",
    task="object-detection",
    description="Draws a box around every tree in an aerial photograph of 16 x 16 m, 160 pixels a side.",
    data="DeepForest's plots",
    load=load,
    network=network,
    objective=CentreLoss(),
    # An aeroplane comes from anywhere, and at any hour.
    augment=InOrder(steps=(Turn(targets="boxes"), Light(most=0.25))),
    inputs=(TensorSpec(name="image", datatype="UINT8", shape=(SIDE_PX, SIDE_PX, 3)),),
    outputs=(
        TensorSpec(name="boxes", datatype="FP32", shape=(NUM_BOXES, 4)),
        TensorSpec(name="scores", datatype="FP32", shape=(NUM_BOXES, 1)),
    ),
    batch=AxisRange(min=1, opt=4, max=16),
    # Padding keeps a crown's form; 128 is neither shadow nor road.
    preprocess=ImagePreprocess(tensor="image", mode="RGB", height=SIDE_PX, width=SIDE_PX, resize="pad", background=128),
    postprocess=BoxesPostprocess(boxes_tensor="boxes", scores_tensor="scores", labels=LABELS, min_score=MIN_SCORE),
    metrics=detection_measures("boxes", "scores", MIN_SCORE),
    slo=Slo(latency_threshold_ms=100, latency_objective=0.99, availability_objective=0.999),
    # Adam, for the three losses' gradients differ in size. Twelve passes over crops that overlap by three quarters.
    config=TrainConfig(
        epochs=12,
        batch_size=16,
        optimizer="adamw",
        peak_learning_rate=2e-3,
        weight_decay=1e-2,
        clip_norm=10.0,
        average=0.998,
    ),
    gates=(Gate(metric="average_precision_50", at_least=0.25),),
    # Small batches, for many steps in little time; a box at random is right once in hundreds.
    quick_config=TrainConfig(
        epochs=2,
        batch_size=8,
        optimizer="adamw",
        peak_learning_rate=2e-3,
        weight_decay=1e-2,
        clip_norm=10.0,
        num_train=640,
    ),
    quick_gates=(Gate(metric="average_precision_50", at_least=0.04),),
    baselines={"warm blobs, boxes of the mean size": warm_blobs},
)

RECIPES = (TREES_DETECTOR,)
