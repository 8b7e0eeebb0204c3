"""Tensors as Triton's gRPC messages carry them, copied as seldom as can be.

What is large isn't copied into a request: protobuf lets a field of bytes follow the message's serialized rest, so that
it can be sent from where it lies; or it is put where Triton reads it itself, and only named in the request.

Sources: https://protobuf.dev/programming-guides/encoding/ and Triton's shared-memory extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from contract import TensorError
from contract.tensor import Tensors, datatype_of, from_raw, to_raw
from gateway.error import UpstreamFailed
from gateway.region import Slice, aligned

Columns = Mapping[str, Sequence[NDArray[Any]]]  # by name, the arrays that are one tensor when joined by their rows

_RAW_CONTENTS_TAG = bytes([pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2])
_MIN_PART_BYTES = 16 * 1024  # smaller ones cost less to join than to send one by one


def columns_of(parts: Sequence[Tensors]) -> Columns:
    """Several requests' tensors by name."""
    if len(parts) == 1:
        return {name: (array,) for name, array in parts[0].items()}
    return {name: [part[name] for part in parts] for name in parts[0]}


def join(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One tensor of its arrays."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def write_inputs(request: Any, columns: Columns) -> None:
    """Write tensors into a `ModelInferRequest`."""
    for name, arrays in columns.items():
        array = join(arrays)
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        request.raw_input_contents.append(to_raw(array))


def append_inputs(request: Any, columns: Columns) -> list[bytes | memoryview]:
    """Describe tensors in a `ModelInferRequest`; returns what follows its serialized form, in parts, none empty."""
    tail: list[bytes | memoryview] = []
    for name, arrays in columns.items():
        request.inputs.add(name=name, datatype=datatype_of(arrays[0]), shape=_joined_shape(arrays))
        raws = _raws(arrays)
        tail += (_RAW_CONTENTS_TAG + _varint(sum(map(len, raws))), *(raw for raw in raws if raw))
    return tail


def place_inputs(request: Any, columns: Columns, place: Slice) -> None:
    """Put tensors into shared memory, one behind the other, and name them in a `ModelInferRequest`."""
    start = 0
    for name, arrays in columns.items():
        dtype, shape = arrays[0].dtype.newbyteorder("<"), _joined_shape(arrays)
        size = sum([array.nbytes for array in arrays])
        into = place.memory[start : start + size].view(dtype).reshape(shape)
        if len(arrays) == 1:
            into[...] = arrays[0]
        else:
            np.concatenate(arrays, out=into)
        tensor = request.inputs.add(name=name, datatype=datatype_of(into), shape=shape)
        tensor.parameters["shared_memory_region"].string_param = place.region
        tensor.parameters["shared_memory_offset"].int64_param = place.offset + start
        tensor.parameters["shared_memory_byte_size"].int64_param = size
        start += aligned(size)


def placed_bytes(columns: Columns) -> int | None:
    """What `place_inputs` takes; None for tensors that have no fixed size."""
    if any(arrays[0].dtype.kind in "OSU" for arrays in columns.values()):
        return None
    return sum(aligned(sum([array.nbytes for array in arrays])) for arrays in columns.values())


def read_outputs(response: Any) -> dict[str, NDArray[Any]]:
    """Read the tensors of a `ModelInferResponse`; UpstreamFailed when they contradict themselves."""
    if len(response.outputs) != len(response.raw_output_contents):
        raise UpstreamFailed("the inference server's answer holds no raw tensors")
    try:
        return {
            output.name: from_raw(output.name, output.datatype, tuple(output.shape), raw)
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }
    except TensorError as exc:
        raise UpstreamFailed(f"the inference server's answer can't be read: {exc}") from exc


def write_parameters(into: Any, parameters: Mapping[str, Any]) -> None:
    """Write request parameters (booleans, integers, floats, strings) into a protobuf map of them."""
    for name, value in parameters.items():
        match value:
            case bool():
                into[name].bool_param = value
            case int() if value >= 2**63:
                into[name].uint64_param = value
            case int():
                into[name].int64_param = value
            case float():
                into[name].double_param = value
            case _:
                into[name].string_param = value


def _joined_shape(arrays: Sequence[NDArray[Any]]) -> tuple[int, ...]:
    if len(arrays) == 1:
        return arrays[0].shape
    return sum([len(array) for array in arrays]), *arrays[0].shape[1:]


def _raws(arrays: Sequence[NDArray[Any]]) -> list[bytes] | list[memoryview]:
    """The raw forms that together are the tensor's."""
    if arrays[0].dtype.kind in "OSU":
        return [to_raw(array) for array in arrays]
    if min(array.nbytes for array in arrays) < _MIN_PART_BYTES:
        arrays = [join(arrays)]
    return list(map(_view, arrays))


def _view(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
