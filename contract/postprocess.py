"""What a model's output tensors mean, as arrays: the one copy, used by evaluation, drift counters and gateway."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from contract.schema import (
    BoxesPostprocess,
    ClassificationPostprocess,
    EmbeddingPostprocess,
    GenerationPostprocess,
    MaskPostprocess,
    Postprocess,
    RegressionPostprocess,
    TensorPostprocess,
    TokenLabelsPostprocess,
)
from contract.tensor import Tensors

Array = NDArray[Any]


def softmax(logits: Array, axis: int = -1, dtype: DTypeLike = np.float64) -> Array:
    """Probabilities over an axis, computed in double precision unless `dtype` says otherwise.

    Where the scores of that axis aren't finite, they are NaN.
    """
    with np.errstate(invalid="ignore"):
        shifted = np.exp(logits.astype(dtype) - np.max(logits, axis=axis, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=axis, keepdims=True))


def interpret(spec: Postprocess, outputs: Tensors) -> Array | None:
    """What the outputs mean, still as an array.

    Classification: probabilities `[N, labels]`. Regression: values `[N]`. Embedding: vectors `[N, dimensions]`.
    Token labels: probabilities `[N, length, labels]`. Boxes: probabilities `[N, boxes, labels]`; the boxes themselves
    are as the model gave them. Mask: probabilities `[N, labels, height, width]` in single precision. Generation: the
    ids `[N, length]`. None for a model whose tensors are the answer.
    """
    match spec:
        case ClassificationPostprocess():
            scores = outputs[spec.tensor]
            return softmax(scores) if spec.activation == "softmax" else scores.astype(np.float64)
        case RegressionPostprocess():
            value = outputs[spec.tensor].astype(np.float64)
            return np.asarray(value.reshape(len(value), -1)[:, 0] * spec.scale + spec.offset)
        case EmbeddingPostprocess():
            vector = outputs[spec.tensor].astype(np.float64)
            if spec.normalize:
                vector /= np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)
            return vector
        case TensorPostprocess():
            return None
        case TokenLabelsPostprocess():
            return softmax(outputs[spec.tensor])
        case BoxesPostprocess():
            return outputs[spec.scores_tensor].astype(np.float64)
        case MaskPostprocess():
            return softmax(outputs[spec.tensor], axis=1, dtype=np.float32)
        case GenerationPostprocess():
            return outputs[spec.tensor]


def generated(spec: GenerationPostprocess, ids: Array) -> NDArray[np.bool_]:
    """Which of the ids `[N, length]` are the text: those before the first `end_id` that aren't padding."""
    ended = np.logical_or.accumulate(ids == spec.end_id, axis=-1)
    return np.asarray(~ended & (ids != spec.pad_id))
