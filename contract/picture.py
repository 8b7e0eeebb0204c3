"""From boxes and masks on the model's input picture to boxes and masks on the picture that a client sent."""

import base64
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract.place import ImagePlace
from contract.postprocess import Array
from contract.schema import BoxesPostprocess, MaskPostprocess

MAX_MASK_PIXELS = 2048 * 2048  # a larger picture gets its mask in the model's resolution

_PIXEL_DIGITS = 2  # of a box's edges: a hundredth of a pixel
_PNG_LEVEL = 1  # labels lie in large areas: what a higher level saves isn't worth its time


def box_answer(spec: BoxesPostprocess, boxes_Q4: Array, scores_QK: Array, place: ImagePlace) -> dict[str, Any]:
    """The boxes of one picture, most probable first: clipped to it, and none that isn't finite or has no area."""
    label_Q, score_Q = scores_QK.argmax(axis=-1), scores_QK.max(axis=-1)
    left, top, right, bottom = place.region
    scale, offset = (right - left, bottom - top) * 2, (left, top) * 2
    pixels_Q4 = np.clip(boxes_Q4 * np.array(scale) + offset, 0, (place.width, place.height) * 2).round(_PIXEL_DIGITS)
    has_area = (pixels_Q4[:, 2:] > pixels_Q4[:, :2]).all(axis=-1) & np.isfinite(boxes_Q4).all(axis=-1)
    kept = np.flatnonzero(has_area & np.isfinite(score_Q) & (score_Q >= spec.min_score))
    order = kept[np.argsort(-score_Q[kept], kind="stable")].tolist()
    return {
        "boxes": [
            {"label": spec.labels[label_Q[i]], "confidence": float(score_Q[i]), "box": pixels_Q4[i].tolist()}
            for i in order
        ]
    }


def mask_answer(spec: MaskPostprocess, probabilities_KHW: Array, place: ImagePlace) -> dict[str, Any]:
    """The label of every pixel of one picture, the nearest neighbour of the model's; what it didn't see is background.

    A pixel whose scores aren't finite is background, and then there is no confidence.
    """
    label_HW = probabilities_KHW.argmax(axis=0).astype(np.uint8)
    confidence = float(probabilities_KHW.max(axis=0).mean(dtype=np.float64))
    mask_hw = _on_picture(label_HW, place)
    count = np.bincount(mask_hw.ravel(), minlength=len(spec.labels))
    found = [i for i in np.argsort(-count, kind="stable").tolist() if count[i]]
    return {
        "labels": [{"label": spec.labels[i], "ratio": float(count[i] / mask_hw.size)} for i in found],
        "confidence": confidence if math.isfinite(confidence) else None,
        "size": [mask_hw.shape[1], mask_hw.shape[0]],
        "mask": base64.b64encode(_png(mask_hw)).decode(),
    }


def _on_picture(label_HW: NDArray[np.uint8], place: ImagePlace) -> NDArray[np.uint8]:
    """The whole picture's mask, in its own pixels or, where these are too many, in pixels as large as the model's."""
    left, top, right, bottom = place.region
    width, height = place.width, place.height
    if width * height > MAX_MASK_PIXELS:
        columns, rows = width * label_HW.shape[1] / (right - left), height * label_HW.shape[0] / (bottom - top)
        shrink = min(1.0, math.sqrt(MAX_MASK_PIXELS / (columns * rows)))  # a thin strip of it may be all the model saw
        height = min(max(1, round(rows * shrink)), MAX_MASK_PIXELS)
        width = min(max(1, round(columns * shrink)), MAX_MASK_PIXELS // height)
    column_w, seen_w = _nearest(width, place.width, left, right, label_HW.shape[1])
    row_h, seen_h = _nearest(height, place.height, top, bottom, label_HW.shape[0])
    mask_hw = label_HW[np.ix_(row_h, column_w)]
    mask_hw[~seen_h, :] = 0
    mask_hw[:, ~seen_w] = 0
    return mask_hw


def _nearest(
    num: int, length: int, start: float, end: float, num_seen: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Which of the pixels `[num_seen]` from `start` to `end` lies under each of `num` over the length, and if any."""
    centre = (np.arange(num) + 0.5) * (length / num)
    index = np.floor((centre - start) * (num_seen / (end - start))).astype(np.intp)
    return index.clip(0, num_seen - 1), (index >= 0) & (index < num_seen)


def _png(mask_hw: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask_hw).save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()
