"""The classification extension: the best classes of an output in place of its scores.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md; how a
class is written is Triton's `src/classification.cc`: C++'s `to_string` of the score, the index, the label if known.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.tensor import datatype_of
from gateway.error import InvalidRequest


def classify(array: NDArray[Any], k: int, labels: Sequence[str] = ()) -> NDArray[np.object_]:
    """The best `k` classes of each sample, `score:index[:label]`, best first; of equal scores the first class first.

    `[N, ...]` becomes `[N, k]`, and a vector, which has no batch axis, `[k]`; `k` is at most the number of classes.
    Raises InvalidRequest when the array has no numbers to rank.
    """
    if array.dtype.kind not in "fiu" or array.ndim == 0:
        raise InvalidRequest(
            f"expected an output of numbers to classify, got {datatype_of(array)} {list(array.shape)}; "
            "leave the parameter classification out"
        )
    num_samples = array.shape[0] if array.ndim > 1 else 1
    scores = array.reshape(num_samples, array.size // num_samples if num_samples else 0)
    # Falling order, and NaN last: the complement of an integer falls as the integer rises, and can't overflow.
    falling = np.negative(scores) if array.dtype.kind == "f" else np.invert(scores)
    best = np.argsort(falling, axis=1, kind="stable")[:, :k]
    form = "%f:%d" if array.dtype.kind == "f" else "%d:%d"
    texts = [
        (form % (score, index) + (f":{labels[index]}" if index < len(labels) else "")).encode()
        for row, indices in zip(np.take_along_axis(scores, best, axis=1).tolist(), best.tolist(), strict=True)
        for score, index in zip(row, indices, strict=True)
    ]
    classes = np.empty(len(texts), dtype=object)
    classes[:] = texts
    return classes.reshape(best.shape if array.ndim > 1 else best.shape[1:])
