"""Tensors on the wire: numpy arrays to and from the V2 datatypes of the Open Inference Protocol, and their checks.

Raw form as in the protocol's binary extension: little-endian, row-major, BYTES elements each behind a 4-byte length.
Source: https://github.com/kserve/open-inference-protocol, "Tensor Data Types".
"""

import math
import reprlib
import struct
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from contract.error import TensorError
from contract.schema import AxisRange, TensorSpec

Tensors = Mapping[str, NDArray[Any]]
T = TypeVar("T", bound=Tensors)

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
# What values may be, and how `struct` packs them: it checks ranges on the way and takes half of numpy's time.
_INTEGERS = {
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q"
}  # fmt: skip
_VALUES: Mapping[str, tuple[AbstractSet[type], str]] = {
    **{datatype: (frozenset({int}), code) for datatype, code in _INTEGERS.items()},
    "BOOL": (frozenset({bool}), "?"),
    "FP32": (frozenset({int, float}), "f"),
    "FP64": (frozenset({int, float}), "d"),
    "BYTES": (frozenset({str, bytes}), ""),
}
_LENGTH = struct.Struct("<I")
_SHORT = reprlib.Repr()  # what a client sent may be nested deeper than repr() can go
_SHORT.maxlevel, _SHORT.maxlist = 2, MAX_DIMS


def datatype_of(array: NDArray[Any]) -> str:
    """V2 datatype of an array; TensorError for dtypes that the protocol doesn't know."""
    dtype = array.dtype
    if dtype in _DATATYPES:
        return _DATATYPES[dtype]
    if dtype.kind in "SU":
        return "BYTES"
    try:
        return _DATATYPES[dtype.newbyteorder("<")]
    except KeyError:
        raise TensorError(f"dtype {dtype} has no V2 datatype") from None


def num_elements(name: str, shape: Sequence[int]) -> int:
    """Product of the axes; TensorError when they are no shape that a tensor can have."""
    if len(shape) > MAX_DIMS:
        raise TensorError(f"tensor {name!r}: expected at most {MAX_DIMS} axes, got {len(shape)}")
    for axis in shape:
        if type(axis) is not int or not 0 <= axis <= MAX_AXIS:
            said = _SHORT.repr(list(shape))
            raise TensorError(
                f"tensor {name!r}: every axis is a non-negative integer up to {MAX_AXIS}, got {said:.200}"
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
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        encoded = element if isinstance(element, bytes) else str(element).encode()
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def from_values(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> NDArray[Any]:
    """Array of that shape from a list of values (JSON's, or bytes for BYTES), flat or nested.

    Raises TensorError for FP16 and BF16 (raw form only), for values that the datatype can't hold, and for a count
    that isn't the shape's. NaN and infinity, which JSON can't say, pass: whether they may is the contract's to say.
    """
    dtype = _dtype(name, datatype)
    if datatype not in _VALUES:
        raise TensorError(f"tensor {name!r}: {datatype} has no JSON form, send it as binary data")
    count = num_elements(name, shape)
    flat, kinds = _flatten(name, values, count)
    if len(flat) != count:
        raise TensorError(f"tensor {name!r}: expected {count} values for shape {list(shape)}, got {len(flat)}")
    allowed, code = _VALUES[datatype]
    if not kinds <= allowed:
        wrong = next(value for value in flat if type(value) not in allowed)
        raise TensorError(f"tensor {name!r}: {_SHORT.repr(wrong):.40} is no {datatype}")
    if datatype == "BYTES":
        return _elements([v if type(v) is bytes else v.encode() for v in flat], shape)
    try:
        packed = struct.pack(f"<{count}{code}", *flat)
    except (OverflowError, struct.error):
        raise TensorError(f"tensor {name!r}: a value is outside the range of {datatype}") from None
    return np.frombuffer(packed, dtype=dtype).reshape(shape)


def check(spec: TensorSpec, batch: AxisRange | None, array: NDArray[Any]) -> None:
    """Hold an array against its spec: `[N, ...]`, or `[...]` where `batch` is None.

    Raises TensorError with what was expected and what came.
    """
    _check_shape(spec, batch, array)
    _check_values(spec, array)


def check_inputs(specs: Sequence[TensorSpec], batch: AxisRange | None, tensors: Tensors) -> int:
    """Hold a request's tensors against all inputs and return the number of samples; `batch` as in `check`.

    Raises TensorError for a missing or unknown input, a wrong tensor, or tensors that differ in their batch axis.
    """
    num_samples = check_shapes(specs, batch, tensors)
    check_values(specs, tensors)
    return num_samples


def check_shapes(specs: Sequence[TensorSpec], batch: AxisRange | None, tensors: Tensors) -> int:
    """The part of `check_inputs` that depends on names, datatypes and shapes alone."""
    expected = {spec.name for spec in specs}
    if tensors.keys() != expected:
        raise TensorError(f"expected the inputs {sorted(expected)}, got {sorted(tensors)!r:.200}")
    for spec in specs:
        _check_shape(spec, batch, tensors[spec.name])
    if batch is None:
        return 1
    sizes = {tensors[spec.name].shape[0] for spec in specs}
    if len(sizes) > 1:
        raise TensorError(f"the inputs have different batch sizes: {sorted(sizes)}")
    return int(sizes.pop())


def check_values(specs: Sequence[TensorSpec], tensors: Tensors) -> None:
    """The part of `check_inputs` that depends on the values: they are finite, or may be otherwise."""
    for spec in specs:
        _check_values(spec, tensors[spec.name])


def as_samples(batch: AxisRange | None, tensors: T) -> T | dict[str, NDArray[Any]]:
    """A request's or an answer's tensors as `[N, ...]`: without a batch axis they are one sample, and get one."""
    return tensors if batch is not None else {name: array[np.newaxis] for name, array in tensors.items()}


def as_sent(batch: AxisRange | None, samples: T) -> T | dict[str, NDArray[Any]]:
    """The way back of `as_samples`: what travels of tensors `[N, ...]`."""
    return samples if batch is not None else {name: array[0] for name, array in samples.items()}


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    try:
        return DTYPES[datatype]
    except (KeyError, TypeError):
        raise TensorError(f"tensor {name!r}: unknown datatype {datatype!r:.40}") from None


def _check_shape(spec: TensorSpec, batch: AxisRange | None, array: NDArray[Any]) -> None:
    came = datatype_of(array)
    if came != spec.datatype:
        raise TensorError(f"input {spec.name!r}: expected datatype {spec.datatype}, got {came}")
    if not _fits(spec, batch, array.shape):
        raise TensorError(f"input {spec.name!r}: expected shape {_describe(batch, spec)}, got {list(array.shape)}")


def _check_values(spec: TensorSpec, array: NDArray[Any]) -> None:
    if array.dtype.kind == "f" and not spec.allow_nan and not np.isfinite(array).all():
        raise TensorError(f"input {spec.name!r}: NaN or infinity isn't accepted")


def _fits(spec: TensorSpec, batch: AxisRange | None, shape: tuple[int, ...]) -> bool:
    wire_shape = spec.wire_shape
    if batch is not None:
        # A batch may be smaller than batch.min, which is only what an engine is tuned from.
        if not shape or not 1 <= shape[0] <= batch.max:
            return False
        shape = shape[1:]
    if not spec.ranges:
        return shape == wire_shape
    if len(shape) != len(wire_shape):
        return False
    ranges = iter(spec.ranges)
    for axis, expected in zip(shape, wire_shape, strict=True):
        if expected == -1:
            bounds = next(ranges)
            if not bounds.min <= axis <= bounds.max:
                return False
        elif axis != expected:
            return False
    return True


def _describe(batch: AxisRange | None, spec: TensorSpec) -> str:
    axes = [] if batch is None else [f"1..{batch.max}"]
    axes += [str(b.min) if b.min == b.max else f"{b.min}..{b.max}" for b in spec.bounds()] or ["1"]
    return f"[{', '.join(axes)}]"


def _split_bytes(name: str, shape: Sequence[int], count: int, data: bytes | memoryview) -> NDArray[Any]:
    size = len(data)
    if count > size // _LENGTH.size:
        raise TensorError(f"tensor {name!r}: {size} bytes are too few for {count} BYTES elements")
    data = bytes(data)  # slices of bytes are much cheaper than those of a view
    elements: list[bytes] = []
    offset = 0
    for i in range(count):
        start = offset + _LENGTH.size
        if start > size:
            raise TensorError(f"tensor {name!r}: expected {count} BYTES elements, the data ends after {i}")
        offset = start + _LENGTH.unpack_from(data, offset)[0]
        if offset > size:
            raise TensorError(f"tensor {name!r}: element {i} claims more bytes than the data holds")
        elements.append(data[start:offset])
    if offset != size:
        raise TensorError(f"tensor {name!r}: {size - offset} bytes are left after {count} BYTES elements")
    return _elements(elements, shape)


def _elements(elements: list[bytes], shape: Sequence[int]) -> NDArray[Any]:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def _flatten(name: str, values: Sequence[Any], count: int) -> tuple[Sequence[Any], AbstractSet[type]]:
    """Row-major elements of a list that may be nested, and their types.

    All elements are at one depth, and no level is longer than `count`.
    """
    for _ in range(MAX_DIMS + 1):
        if len(values) > count:
            raise TensorError(f"tensor {name!r}: expected {count} values, got at least {len(values)}")
        kinds = set(map(type, values))
        if list not in kinds:
            return values, kinds
        if len(kinds) > 1:
            raise TensorError(f"tensor {name!r}: the data mixes lists and values at one depth")
        values = list(islice(chain.from_iterable(values), count + 1))
    raise TensorError(f"tensor {name!r}: the data is nested more than {MAX_DIMS} deep")
