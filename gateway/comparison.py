"""How two answers to one request differ, tensor by tensor: what a shadow is judged by."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.tensor import DTYPES, Tensors, datatype_of

MAX_DIFFERENCES = 8  # tensors that are shown
MAX_VALUES = 16  # of each of them
MAX_TEXT = 64  # characters of each value

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """`differences` is ready for JSON, and empty when the answers agree.

    `max_error` is over all floating-point values; infinite where one side alone is NaN or infinite, None where there
    are no such values to compare.
    """

    differences: tuple[dict[str, Any], ...]
    max_error: float | None


def compare(primary: Tensors, shadow: Tensors, *, rtol: float, atol: float) -> Comparison:
    """Compare all tensors: floats agree within `atol + rtol * |primary|`, NaN with NaN, and others when equal."""
    differences: list[dict[str, Any]] = []
    errors: list[float] = []
    for name in sorted(primary.keys() | shadow.keys()):
        ours, theirs = primary.get(name), shadow.get(name)
        if ours is None or theirs is None:
            found: dict[str, Any] | None = {"what": f"only the {'primary' if theirs is None else 'shadow'} has it"}
        elif (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            found = {"what": f"expected {_form(ours)}, got {_form(theirs)}"}
        else:
            found = _compare_values(ours, theirs, rtol, atol, errors)
        if found is not None and len(differences) < MAX_DIFFERENCES:
            sides = {"primary": _excerpt(ours), "shadow": _excerpt(theirs)}
            differences.append({"tensor": name[:MAX_TEXT], **found, **sides})
    return Comparison(differences=tuple(differences), max_error=max(errors, default=None))


def same_first(primary: Array | None, shadow: Array | None) -> tuple[int, int] | None:
    """How many samples have the same highest of scores `[N, labels]`, and how many not; None if that can't be said."""
    if primary is None or shadow is None or primary.ndim != 2 or primary.shape != shadow.shape or not primary.size:
        return None
    num_same = int(np.count_nonzero(primary.argmax(-1) == shadow.argmax(-1)))
    return num_same, len(primary) - num_same


def _compare_values(ours: Array, theirs: Array, rtol: float, atol: float, errors: list[float]) -> dict[str, Any] | None:
    """What differs, or None; the largest error of floats is added to `errors`."""
    x, y = _floats(ours), _floats(theirs)
    if x is None or y is None:
        error = np.where(np.asarray(ours != theirs, bool), np.inf, 0.0)
        bound: Array = np.zeros(())
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            # Equal infinities are looked at first: their difference is NaN.
            error = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
            bound = atol + rtol * np.abs(x)
        error = np.where(np.isnan(error), np.inf, error)
        errors.append(float(error.max(initial=0.0)))
    wrong = (error > bound) | np.isinf(error)
    if not wrong.any():
        return None
    worst = np.unravel_index(int(np.argmax(np.where(wrong, error, 0.0))), error.shape)
    return {
        "what": f"{np.count_nonzero(wrong)} of {wrong.size} values differ",
        "worst": {
            "index": [int(axis) for axis in worst],
            "primary": _plain([(ours if x is None else x)[worst]])[0],
            "shadow": _plain([(theirs if y is None else y)[worst]])[0],
        },
    }


def _floats(array: Array) -> NDArray[np.float64] | None:
    if array.dtype == DTYPES["BF16"]:  # the upper half of an FP32
        array = (array.view("<u2").astype("<u4") << 16).view("<f4")
    return np.array(array, np.float64) if array.dtype.kind == "f" else None


def _form(array: Array) -> str:
    return f"{datatype_of(array)} {list(array.shape)}"


def _excerpt(array: Array | None) -> dict[str, Any] | None:
    if array is None:
        return None
    first = np.asarray(array.flat[:MAX_VALUES])
    values = _floats(first)
    return {
        "datatype": datatype_of(array),
        "shape": list(array.shape),
        "values": _plain(first if values is None else values),
    }


def _plain(values: Iterable[Any]) -> list[Any]:
    """Values as JSON has them: texts cut, and what is not finite as text."""
    plain: list[Any] = []
    for value in values:
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str):
            value = value[:MAX_TEXT]
        elif isinstance(value, float) and not np.isfinite(value):
            value = str(value)
        plain.append(value)
    return plain
