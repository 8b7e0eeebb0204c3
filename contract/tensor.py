"""Tensors on the wire: numpy arrays to and from the V2 datatypes of the Open Inference Protocol, and their checks.

Raw form as in the protocol's binary extension: little-endian, row-major, BYTES elements each behind a 4-byte length.
Source: https://github.com/kserve/open-inference-protocol, "Tensor Data Types".
"""

import math
import struct
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.error import TensorError
from contract.schema import AxisRange, TensorSpec

Tensors = Mapping[str, NDArray[Any]]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("V2"),  # numpy has no bfloat16: its two bytes are carried as they are
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
}
MAX_DIMS = 32
MAX_AXIS = 2**31 - 1
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
_JSON_TYPES: Mapping[str, set[type]] = {"O": {str}, "b": {bool}, "f": {int, float}}  # by dtype kind; else int
_LENGTH = struct.Struct("<I")


def datatype_of(array: NDArray[Any]) -> str:
    """V2 datatype of an array; TensorError for dtypes that the protocol doesn't know."""
    kind = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
    if kind.kind in "SU":
        return "BYTES"
    try:
        return _DATATYPES[kind]
    except KeyError:
        raise TensorError(f"dtype {array.dtype} has no V2 datatype") from None


def num_elements(name: str, shape: Sequence[int]) -> int:
    """Product of the axes; TensorError when they are no shape that a tensor can have."""
    if len(shape) > MAX_DIMS:
        raise TensorError(f"tensor {name!r}: expected at most {MAX_DIMS} axes, got {len(shape)}")
    for axis in shape:
        if isinstance(axis, bool) or not isinstance(axis, int) or not 0 <= axis <= MAX_AXIS:
            raise TensorError(
                f"tensor {name!r}: every axis is a non-negative integer up to {MAX_AXIS}, got {list(shape)!r:.200}"
            )
    return math.prod(shape)


def from_raw(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> NDArray[Any]:
    """Array of that shape over `data`, without a copy where the datatype has a fixed size.

    Raises TensorError for an unknown datatype, a bad shape, or data whose length isn't what the two ask for.
    """
    dtype = _dtype(name, datatype)
    count = num_elements(name, shape)
    if datatype == "BYTES":
        return _split_bytes(name, shape, count, data)
    if len(data) != count * dtype.itemsize:
        raise TensorError(
            f"tensor {name!r}: expected {count * dtype.itemsize} bytes for {datatype} {list(shape)}, got {len(data)}"
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def to_raw(array: NDArray[Any]) -> bytes:
    """The array's raw form."""
    if array.dtype.kind not in "OSU":
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    parts: list[bytes] = []
    for element in array.ravel():
        encoded = element if isinstance(element, bytes) else str(element).encode()
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def from_values(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> NDArray[Any]:
    """Array of that shape from a list of JSON values, flat or nested.

    Raises TensorError for FP16 and BF16 (raw form only), for values that the datatype can't hold, and for a count
    that isn't the shape's.
    """
    dtype = _dtype(name, datatype)
    if datatype in ("FP16", "BF16"):
        raise TensorError(f"tensor {name!r}: {datatype} has no JSON form, send it as binary data")
    count = num_elements(name, shape)
    flat = _flatten(name, values, count)
    if len(flat) != count:
        raise TensorError(f"tensor {name!r}: expected {count} values for shape {list(shape)}, got {len(flat)}")
    allowed = _JSON_TYPES.get(dtype.kind, {int})
    if not set(map(type, flat)) <= allowed:
        wrong = next(value for value in flat if type(value) not in allowed)
        raise TensorError(f"tensor {name!r}: {wrong!r:.40} is no {datatype}")
    if datatype == "BYTES":
        array = np.empty(count, dtype=dtype)
        array[:] = [value.encode() for value in flat]
        return array.reshape(shape)
    try:
        with np.errstate(over="ignore"):  # infinity is refused below
            array = np.array(flat, dtype=dtype)
    except OverflowError:
        raise TensorError(f"tensor {name!r}: a value is outside the range of {datatype}") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise TensorError(f"tensor {name!r}: a value is outside the range of {datatype}")
    return array.reshape(shape)


def check(spec: TensorSpec, batch: AxisRange, array: NDArray[Any]) -> None:
    """Hold a batched array `[N, ...]` against its spec; raises TensorError with what was expected and what came."""
    came = datatype_of(array)
    if came != spec.datatype:
        raise TensorError(f"input {spec.name!r}: expected datatype {spec.datatype}, got {came}")
    if not _fits(spec, batch, array.shape):
        raise TensorError(f"input {spec.name!r}: expected shape {_describe(batch, spec)}, got {list(array.shape)}")
    if array.dtype.kind == "f" and not spec.allow_nan and not np.isfinite(array).all():
        raise TensorError(f"input {spec.name!r}: NaN or infinity isn't accepted")


def check_inputs(specs: Sequence[TensorSpec], batch: AxisRange, tensors: Tensors) -> int:
    """Hold a request's tensors against all inputs and return the number of samples.

    Raises TensorError for a missing or unknown input, a wrong tensor, or tensors that differ in their batch axis.
    """
    expected, got = {spec.name for spec in specs}, set(tensors)
    if expected != got:
        raise TensorError(f"expected the inputs {sorted(expected)}, got {sorted(got)!r:.200}")
    for spec in specs:
        check(spec, batch, tensors[spec.name])
    sizes = {tensors[spec.name].shape[0] for spec in specs}
    if len(sizes) > 1:
        raise TensorError(f"the inputs have different batch sizes: {sorted(sizes)}")
    return int(sizes.pop())


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    try:
        return DTYPES[datatype]
    except (KeyError, TypeError):
        raise TensorError(f"tensor {name!r}: unknown datatype {datatype!r:.40}") from None


def _fits(spec: TensorSpec, batch: AxisRange, shape: tuple[int, ...]) -> bool:
    # A batch may be smaller than batch.min, which is only what an engine is tuned from.
    if len(shape) != len(spec.shape) + 1 or not 1 <= shape[0] <= batch.max:
        return False
    if not spec.ranges:
        return shape[1:] == spec.shape
    return all(b.min <= axis <= b.max for axis, b in zip(shape[1:], spec.bounds(), strict=True))


def _describe(batch: AxisRange, spec: TensorSpec) -> str:
    axes = [f"1..{batch.max}"]
    axes += [str(b.min) if b.min == b.max else f"{b.min}..{b.max}" for b in spec.bounds()]
    return f"[{', '.join(axes)}]"


def _split_bytes(name: str, shape: Sequence[int], count: int, data: bytes | memoryview) -> NDArray[Any]:
    if count > len(data) // _LENGTH.size:
        raise TensorError(f"tensor {name!r}: {len(data)} bytes are too few for {count} BYTES elements")
    view = memoryview(data)
    elements = np.empty(count, dtype=object)
    offset = 0
    for i in range(count):
        start = offset + _LENGTH.size
        if start > len(view):
            raise TensorError(f"tensor {name!r}: expected {count} BYTES elements, the data ends after {i}")
        offset = start + _LENGTH.unpack_from(view, offset)[0]
        if offset > len(view):
            raise TensorError(f"tensor {name!r}: element {i} claims more bytes than the data holds")
        elements[i] = bytes(view[start:offset])
    if offset != len(view):
        raise TensorError(f"tensor {name!r}: {len(view) - offset} bytes are left after {count} BYTES elements")
    return elements.reshape(shape)


def _flatten(name: str, values: Sequence[Any], count: int) -> Sequence[Any]:
    """Row-major elements of a list that may be nested, all elements at one depth; no level is longer than `count`."""
    for _ in range(MAX_DIMS + 1):
        if len(values) > count:
            raise TensorError(f"tensor {name!r}: expected {count} values, got at least {len(values)}")
        kinds = set(map(type, values))
        if list not in kinds:
            return values
        if len(kinds) > 1:
            raise TensorError(f"tensor {name!r}: the data mixes lists and values at one depth")
        values = list(islice(chain.from_iterable(values), count + 1))
    raise TensorError(f"tensor {name!r}: the data is nested more than {MAX_DIMS} deep")
