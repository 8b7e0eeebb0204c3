"""From the model's output tensors to the answer a client reads: the one copy, used by evaluation and gateway."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.schema import (
    ClassificationPostprocess,
    EmbeddingPostprocess,
    Postprocess,
    RegressionPostprocess,
    TensorPostprocess,
)
from contract.tensor import Tensors

Array = NDArray[np.float64]


def softmax(logits: NDArray[Any]) -> Array:
    """Probabilities over the last axis, computed in double precision; a row that isn't finite becomes NaN."""
    with np.errstate(invalid="ignore"):
        shifted = np.exp(logits.astype(np.float64) - np.max(logits, axis=-1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def interpret(spec: Postprocess, outputs: Tensors) -> Array | None:
    """What the outputs mean, still as an array.

    Classification: probabilities `[N, labels]`. Regression: values `[N]`. Embedding: vectors `[N, dimensions]`.
    None for a model whose tensors are the answer.
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


def answers(spec: Postprocess, outputs: Tensors, meaning: Array | None) -> list[dict[str, Any]]:
    """One JSON object a sample. `meaning` is what `interpret` made of the same outputs."""
    match spec:
        case ClassificationPostprocess():
            assert meaning is not None
            return [_classes(spec, row) for row in meaning]
        case RegressionPostprocess():
            assert meaning is not None
            return [{"value": _number(value), "unit": spec.unit} for value in meaning.tolist()]
        case EmbeddingPostprocess():
            assert meaning is not None
            return [{"embedding": [_number(value) for value in row]} for row in meaning.tolist()]
        case TensorPostprocess():
            names = sorted(outputs)
            return [
                {"outputs": {name: outputs[name][i].tolist() for name in names}} for i in range(len(outputs[names[0]]))
            ]


def _classes(spec: ClassificationPostprocess, probabilities: Array) -> dict[str, Any]:
    if not np.isfinite(probabilities).all():  # the model answered NaN: no label is right
        return {"label": None, "confidence": None, "top": []}
    order = np.argsort(-probabilities, kind="stable")[: spec.top_k]
    top = [
        {"label": spec.labels[i], "confidence": _number(p)}
        for i, p in zip(order.tolist(), probabilities[order].tolist(), strict=True)
    ]
    return {**top[0], "top": top}


def _number(value: float) -> float | None:
    """JSON has no NaN: a model that answers one is shown as null, and counted where features are."""
    return value if np.isfinite(value) else None
