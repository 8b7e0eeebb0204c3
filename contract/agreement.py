"""How far two forms of one model may differ: the network, its graph, a graph of lower precision, a compiled engine.

Numbers: the largest difference over all elements, never "absolute or relative" by element, for a tolerance that grows
with each value hides errors where they are largest. One scale for a whole tensor is needed all the same: between 8 and
16 neighbouring FP16 numbers lie 0.0078 apart, so no FP16 form of a model with such outputs is within 5e-3. The
difference is therefore in units of the tensor's largest magnitude, where that is above 1.

Meaning: INT8 moves every number, so it is judged by the task instead. So is what a graph decides by itself, at every
precision: a token's id or a list of the highest peaks is right or another one, and by the smallest rounding of a near
tie another one, with all that follows from it. With samples whose truth isn't known, as on a serving node, the share
of labels and decisions that change stands in: accuracy can't fall by more than that share.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from contract.postprocess import interpret
from contract.schema import (
    BoxesPostprocess,
    ClassificationPostprocess,
    MaskPostprocess,
    Postprocess,
    TokenLabelsPostprocess,
)
from contract.tensor import Tensors

Precision = Literal["FP32", "FP16", "INT8"]

TOLERANCE: Mapping[Precision, float] = {"FP32": 1e-4, "FP16": 5e-3}
METRIC_TOLERANCE = 0.01  # one point of a share
CHANGED_TOLERANCE: Mapping[Precision, float] = {"FP32": 0.05, "FP16": 0.05, "INT8": METRIC_TOLERANCE}
_EXACT = "biu?"  # kinds of dtype whose values are equal or not
_SAME_BOX = 0.02  # of the picture's side: how far a box may move and still be the same


def largest_error(expected: Tensors, got: Tensors, postprocess: Postprocess | None = None) -> float:
    """Largest difference over all outputs, each in units of its largest expected magnitude where that is above 1.

    With `postprocess`, outputs that hold decisions are held to their shape only. Raises ValueError, in words for a
    person, for other shapes, and for NaN or infinity on either side.
    """
    errors = {name: _error(name, expected[name], got[name]) for name in expected}
    decided = () if postprocess is None else _decided(postprocess, expected)
    return max((error for name, error in errors.items() if name not in decided), default=0.0)


def changed_ratio(postprocess: Postprocess, expected: Tensors, got: Tensors) -> float | None:
    """Share of samples, or of their tokens or pixels, whose most probable label changes; of boxes, those that do.

    For a model without labels the share of its integers that change, and None where it has none of them either.
    """
    if isinstance(postprocess, BoxesPostprocess):
        return _moved_ratio(_boxes(postprocess, expected), _boxes(postprocess, got))
    if not isinstance(postprocess, ClassificationPostprocess | TokenLabelsPostprocess | MaskPostprocess):
        changed = [(expected[name] != got[name]).ravel() for name in _decided(postprocess, expected)]
        return float(np.concatenate(changed).mean()) if changed else None
    before, after = interpret(postprocess, expected), interpret(postprocess, got)
    assert before is not None
    assert after is not None
    labels = 1 if isinstance(postprocess, MaskPostprocess) else -1
    return float((before.argmax(axis=labels) != after.argmax(axis=labels)).mean())


def in_order_of(expected: Tensors, got: Tensors, postprocess: Postprocess) -> Tensors:
    """What was got with each sample's boxes in the order of the expected ones that they are nearest to.

    Boxes come best first, so two of nearly the same score may change places without any difference between two forms
    of a model. For postprocessing without boxes, what was got.
    """
    if not isinstance(postprocess, BoxesPostprocess):
        return got
    names = postprocess.boxes_tensor, postprocess.scores_tensor
    if any(expected[name].shape != got[name].shape for name in names):
        return got
    before, after = (np.concatenate([side[name] for name in names], axis=2) for side in (expected, got))
    order = np.zeros(before.shape[:2], np.intp)
    for sample, (wanted, found) in enumerate(zip(before, after, strict=True)):
        far = np.abs(wanted[:, None] - found[None]).max(axis=2)
        for place in range(len(wanted)):
            order[sample, place] = nearest = far[place].argmin()
            far[:, nearest] = np.inf
    return {**got, **{name: np.take_along_axis(got[name], order[..., None], axis=1) for name in names}}


def scaled(expected: NDArray[Any], got: NDArray[Any]) -> float:
    """Largest difference of two finite arrays of one shape, in units of the largest magnitude where that is above 1."""
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind in _EXACT:
        return float((expected != got).any())
    wide = expected.astype(np.float64)
    return float(np.abs(wide - got.astype(np.float64)).max() / max(1.0, np.abs(wide).max()))


def _decided(postprocess: Postprocess, outputs: Tensors) -> Collection[str]:
    """Outputs in which the graph says what it decided: integers, and boxes in the order of their scores."""
    if isinstance(postprocess, BoxesPostprocess):
        return postprocess.boxes_tensor, postprocess.scores_tensor
    return [name for name, array in outputs.items() if array.dtype.kind in _EXACT]


def _boxes(postprocess: BoxesPostprocess, outputs: Tensors) -> list[NDArray[Any]]:
    """Each sample's boxes that would be answered, `[boxes, 5]`: corners, and a label that no other is near to."""
    scores = np.asarray(outputs[postprocess.scores_tensor])
    labels = scores.argmax(axis=2)[..., None].astype(np.float64)
    boxes = np.concatenate((outputs[postprocess.boxes_tensor], labels), axis=2)
    shown = scores.max(axis=2) >= postprocess.min_score
    return [sample[mask] for sample, mask in zip(boxes, shown, strict=True)]


def _moved_ratio(before: Sequence[NDArray[Any]], after: Sequence[NDArray[Any]]) -> float:
    """Share of both sides' boxes that have no counterpart on the other."""
    lonely = total = 0
    for one, other in zip(before, after, strict=True):
        alike = (np.abs(one[:, None] - other[None]) <= _SAME_BOX).all(axis=2)
        lonely += int((~alike.any(axis=1)).sum() + (~alike.any(axis=0)).sum())
        total += len(one) + len(other)
    return lonely / total if total else 0.0


def _error(name: str, expected: NDArray[Any], got: NDArray[Any]) -> float:
    if expected.shape != got.shape:
        raise ValueError(f"output {name!r}: expected shape {list(expected.shape)}, got {list(got.shape)}")
    for array in (expected, got):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"output {name!r} holds NaN or infinity")
    return scaled(expected, got)
