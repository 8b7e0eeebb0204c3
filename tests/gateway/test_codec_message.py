"""The gRPC form of the protocol, and that it says the same as the HTTP form."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import service_pb2 as pb

from contract.error import TensorError
from contract.tensor import DTYPES, datatype_of, from_raw, to_raw
from gateway.error import InvalidRequest
from gateway.message import read_message, write_message
from gateway.v2 import InferRequest, RequestedOutput, read_request

Array = np.ndarray[Any, Any]
FIELD = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
}


@st.composite
def arrays(draw: st.DrawFn, datatypes: list[str]) -> Array:
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    if datatype == "BF16":
        return np.zeros(shape, DTYPES["BF16"])
    if datatype == "BYTES":
        array = np.empty((n := int(np.prod(shape))), object)
        array[:] = draw(st.lists(st.binary(max_size=6), min_size=n, max_size=n))
        return array.reshape(shape)
    return draw(hnp.arrays(DTYPES[datatype], shape))


def message(array: Array, *, typed: bool) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m", id="a7")
    tensor = request.inputs.add(name="x", datatype=datatype_of(array), shape=array.shape)
    if typed:
        getattr(tensor.contents, FIELD[tensor.datatype]).extend(array.ravel().tolist())
    else:
        request.raw_input_contents.append(to_raw(array))
    return request


@given(arrays(sorted(DTYPES)))
def test_raw_tensors_come_through_both_ways_the_same(array: Array) -> None:
    request = read_message(message(array, typed=False))
    response = write_message("m", "1", request, request.tensors)
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "a7")
    (output,), (raw,) = response.outputs, response.raw_output_contents
    assert (output.name, output.datatype, tuple(output.shape)) == ("x", datatype_of(array), array.shape)
    assert raw == to_raw(array)


@given(arrays(sorted(FIELD)))
def test_typed_tensors_are_read_as_raw_ones_are(array: Array) -> None:
    typed = read_message(message(array, typed=True)).tensors["x"]
    raw = read_message(message(array, typed=False)).tensors["x"]
    assert (typed.dtype, typed.shape) == (raw.dtype, raw.shape)
    np.testing.assert_array_equal(typed, raw)


@given(st.binary(max_size=100))
def test_whatever_message_comes_is_read_or_refused(data: bytes) -> None:
    try:
        request = pb.ModelInferRequest.FromString(data)
    except Exception:  # not ours: the transport says so
        return
    try:
        read_message(request)
    except (InvalidRequest, TensorError):
        return


def test_parameters_and_outputs_are_read() -> None:
    request = message(np.ones((1, 2), np.float32), typed=False)
    request.parameters["flag"].bool_param = False
    request.parameters["name"].string_param = ""
    request.parameters["rate"].double_param = 0.5
    request.parameters["small"].int64_param = -1
    request.parameters["large"].uint64_param = 2**64 - 1
    request.inputs[0].parameters["own"].int64_param = 7
    request.outputs.add(name="y").parameters["classification"].int64_param = 2
    read = read_message(request)
    assert read.parameters == {"flag": False, "name": "", "rate": 0.5, "small": -1, "large": 2**64 - 1}
    assert read.input_parameters == {"x": {"own": 7}}
    assert read.outputs == (RequestedOutput(name="y", classification=2, parameters={"classification": 2}),)


def test_classes_are_given_as_over_http() -> None:
    asked = InferRequest(tensors={}, outputs=(RequestedOutput(name="y", classification=1),))
    response = write_message("m", "1", asked, {"y": np.array([[1, 3]], np.int32)}, labels={"y": ("cat", "dog")})
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [1, 1])
    assert from_raw("y", "BYTES", (1,), response.raw_output_contents[0]).tolist() == [b"3:1:dog"]


SAME = {"name": "x", "datatype": "INT8", "shape": [2], "data": [1, 2]}
SHARED = {"shared_memory_region": "r"}
OUTPUT = pb.ModelInferRequest.InferRequestedOutputTensor(name="y")


def share(tensor: Any) -> None:
    tensor.parameters["shared_memory_region"].string_param = "r"


@pytest.mark.parametrize(
    ("change", "fields", "said"),
    [
        (lambda r: r.inputs[0].contents.int_contents.append(3), [SAME | {"data": [1, 2, 3]}], "expected 2 values"),
        (lambda r: r.inputs[0].contents.int_contents.__setitem__(0, 300), [SAME | {"data": [300, 2]}], "of INT8"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP16"), [SAME | {"datatype": "FP16"}], "as binary data"),
        (lambda r: setattr(r.inputs[0], "datatype", "BF16"), [SAME | {"datatype": "BF16"}], "as binary data"),
        (lambda r: setattr(r.inputs[0], "datatype", "INT"), [SAME | {"datatype": "INT"}], "unknown datatype 'INT'"),
        (lambda r: r.inputs[0].shape.append(-1), [SAME | {"shape": [2, -1]}], "non-negative integer"),
        (lambda r: r.inputs[0].shape.extend([1] * 40), [SAME | {"shape": [2, *[1] * 40]}], "at most 32 axes"),
        (lambda r: share(r.inputs[0]), [SAME | {"parameters": SHARED}], "no shared memory"),
        (lambda r: r.inputs.append(r.inputs[0]), [SAME, SAME], "given twice"),
        (lambda r: r.ClearField("inputs"), [], "got none"),
        (lambda r: r.outputs.extend([OUTPUT] * 2), {"outputs": [{"name": "y"}] * 2}, "requested twice"),
        (lambda r: share(r.outputs.add(name="y")), {"outputs": [{"name": "y", "parameters": SHARED}]}, "shared memory"),
        (lambda r: r.parameters["a"], {"parameters": {"a": None}}, "expected booleans, numbers and strings"),
    ],
)
def test_both_protocols_refuse_in_the_same_words(change: Any, fields: Any, said: str) -> None:
    request = message(np.array([1, 2], np.int8), typed=True)
    change(request)
    document = {"inputs": fields} if isinstance(fields, list) else {"inputs": [SAME], **fields}
    with pytest.raises((InvalidRequest, TensorError), match=said) as over_http:
        read_request(json.dumps(document).encode())
    with pytest.raises((InvalidRequest, TensorError)) as over_grpc:
        read_message(request)
    assert str(over_grpc.value) == str(over_http.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.raw_input_contents.append(b""), "expected raw contents for each of 1 inputs, got 2"),
        (lambda r: r.inputs[0].contents.fp32_contents.append(1), "expected typed or raw contents, got both"),
        (lambda r: r.raw_input_contents.__setitem__(0, b"1"), "expected 8 bytes for FP32"),
        (lambda r: r.outputs.extend([OUTPUT] * 257), "at most 256 tensors in 'outputs', got 257"),
    ],
)
def test_a_bad_message_is_named(change: Any, said: str) -> None:
    request = message(np.ones(2, np.float32), typed=False)
    change(request)
    with pytest.raises((InvalidRequest, TensorError), match=said):
        read_message(request)
