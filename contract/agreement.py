"""How far two forms of one model may differ: the network, its graph, a graph of lower precision, a compiled engine.

Numbers: the largest difference over all elements, never "absolute or relative" by element, for a tolerance that grows
with each value hides errors where they are largest. One scale for a whole tensor is needed all the same: between 8 and
16 neighbouring FP16 numbers lie 0.0078 apart, so no FP16 form of a model with such outputs is within 5e-3. The
difference is therefore in units of the tensor's largest magnitude, where that is above 1.

Meaning: INT8 moves every number, so it is judged by the task instead. With samples whose truth isn't known, as on a
serving node, the share of labels that change stands in: accuracy can't fall by more than that share.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from contract.postprocess import interpret
from contract.schema import ClassificationPostprocess, MaskPostprocess, Postprocess, TokenLabelsPostprocess
from contract.tensor import Tensors

Precision = Literal["FP32", "FP16", "INT8"]

TOLERANCE: Mapping[Precision, float] = {"FP32": 1e-4, "FP16": 5e-3}
METRIC_TOLERANCE = 0.01  # one point of a share
_EXACT = "biu?"  # kinds of dtype whose values are equal or not


def largest_error(expected: Tensors, got: Tensors) -> float:
    """Largest difference over all outputs, each in units of its largest expected magnitude where that is above 1.

    Raises ValueError, in words for a person, for other shapes, and for NaN or infinity on either side.
    """
    return max((_error(name, expected[name], got[name]) for name in expected), default=0.0)


def changed_ratio(postprocess: Postprocess, expected: Tensors, got: Tensors) -> float | None:
    """Share of samples, or of their tokens or pixels, whose most probable label changes.

    None for a model that doesn't give each of them one label.
    """
    if not isinstance(postprocess, ClassificationPostprocess | TokenLabelsPostprocess | MaskPostprocess):
        return None
    before, after = interpret(postprocess, expected), interpret(postprocess, got)
    assert before is not None
    assert after is not None
    labels = 1 if isinstance(postprocess, MaskPostprocess) else -1
    return float((before.argmax(axis=labels) != after.argmax(axis=labels)).mean())


def scaled(expected: NDArray[Any], got: NDArray[Any]) -> float:
    """Largest difference of two finite arrays of one shape, in units of the largest magnitude where that is above 1."""
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind in _EXACT:
        return float((expected != got).any())
    wide = expected.astype(np.float64)
    return float(np.abs(wide - got.astype(np.float64)).max() / max(1.0, np.abs(wide).max()))


def _error(name: str, expected: NDArray[Any], got: NDArray[Any]) -> float:
    if expected.shape != got.shape:
        raise ValueError(f"output {name!r}: expected shape {list(expected.shape)}, got {list(got.shape)}")
    for array in (expected, got):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"output {name!r} holds NaN or infinity")
    return scaled(expected, got)
