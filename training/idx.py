"""The IDX format: what the MNIST family of data sets is kept in.

Two zero bytes, a byte for the element type, a byte for the number of axes, each axis as a big-endian 32-bit integer,
then the elements in row-major order, big-endian. Source: Y. LeCun's page on the MNIST database.
"""

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.error import DataInvalid

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(dtype).newbyteorder("="): code for code, dtype in _DTYPES.items()}


def decode(data: bytes, name: str) -> NDArray[Any]:
    """The array in an IDX file, native byte order; DataInvalid naming `name` when it is none or has another length."""
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _DTYPES:
        raise DataInvalid(f"{name}: expected an IDX file, got {len(data)} bytes that begin with {data[:4].hex()}")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise DataInvalid(f"{name}: expected an IDX header of {start} bytes, got {len(data)}")
    shape = struct.unpack_from(f">{data[3]}I", data, 4)
    dtype = np.dtype(_DTYPES[data[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise DataInvalid(f"{name}: expected {expected} bytes for {list(shape)}, got {len(data)}")
    array = np.frombuffer(data, dtype=dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=dtype.itemsize > 1)


def encode(array: NDArray[Any]) -> bytes:
    """The IDX file of an array; ValueError for a dtype that the format doesn't know."""
    code = _CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        raise ValueError(f"IDX holds {', '.join(map(str, _CODES))}; got {array.dtype}")
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(_DTYPES[code]).tobytes()
