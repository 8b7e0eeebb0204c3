"""The HTTP form of the protocol: bodies to tensors and back, and what is refused of them."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contract.error import TensorError
from contract.tensor import DTYPES, Tensors, datatype_of, from_raw, to_raw
from gateway.error import InvalidRequest
from gateway.v2 import InferRequest, RequestedOutput, read_request, write_response

Array = np.ndarray[Any, Any]

SCORES = np.array([[0.25, 0.5], [1, np.nan]], np.float32)
IN_JSON = sorted(set(DTYPES) - {"FP16", "BF16", "BYTES"})


def tensor(name: str = "x", **changes: Any) -> dict[str, Any]:
    return {"name": name, "shape": [2], "datatype": "FP32", "data": [1, 2.5]} | changes


def encode(*tails: bytes, **fields: Any) -> tuple[bytes, str]:
    """A body and the length of its JSON."""
    text = json.dumps(fields).encode()
    return b"".join((text, *tails)), str(len(text))


def raw(name: str = "x", size: Any = 8, **changes: Any) -> dict[str, Any]:
    return {"name": name, "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": size}} | changes


def read_or_refuse(body: bytes, header_length: str | None) -> None:
    try:
        request = read_request(body, header_length)
    except (InvalidRequest, TensorError):
        return
    assert request.tensors


@st.composite
def arrays(draw: st.DrawFn, datatypes: list[str]) -> Array:
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    if datatype == "BYTES":
        elements = draw(st.lists(st.text(max_size=8).map(str.encode), min_size=(n := int(np.prod(shape))), max_size=n))
        array = np.empty(n, object)
        array[:] = elements
        return array.reshape(shape)
    if datatype == "BF16":
        return np.zeros(shape, DTYPES["BF16"])
    return draw(hnp.arrays(DTYPES[datatype], shape))


@given(st.dictionaries(st.text(max_size=5), arrays([*IN_JSON, "BYTES"]), min_size=1, max_size=3))
def test_tensors_come_through_json_the_same(tensors: dict[str, Array]) -> None:
    tensors = {name: np.nan_to_num(a) if a.dtype.kind == "f" else a for name, a in tensors.items()}
    request = InferRequest(tensors={})
    body, json_length = write_response("m", "1", request, tensors)
    assert json_length is None
    again = read_request(json.dumps({"inputs": json.loads(body)["outputs"]}).encode()).tensors
    assert list(again) == list(tensors)
    for name, array in tensors.items():
        assert datatype_of(again[name]) == datatype_of(array)
        np.testing.assert_array_equal(again[name], array)


@given(st.dictionaries(st.text(max_size=5), arrays(sorted(DTYPES)), min_size=1, max_size=3))
def test_tensors_come_through_the_binary_form_the_same(tensors: dict[str, Array]) -> None:
    body, json_length = write_response("m", "1", InferRequest(tensors={}, binary_default=True), tensors)
    assert json_length is not None
    text = json.dumps({"inputs": json.loads(body[:json_length])["outputs"]}).encode()
    again = read_request(memoryview(text + body[json_length:]), str(len(text)).encode()).tensors
    for name, array in tensors.items():
        assert (datatype_of(again[name]), again[name].shape) == (datatype_of(array), array.shape)
        assert to_raw(again[name]) == to_raw(array)


@given(st.binary(max_size=200), st.none() | st.text(max_size=5) | st.integers(-2, 250).map(str))
@example(b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\\ud800"]}]}', None)
@example(b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}],"id":"\xff"}', None)
def test_whatever_comes_is_read_or_refused(body: bytes, header_length: str | None) -> None:
    read_or_refuse(body, header_length)


KEYS = ["name", "shape", "datatype", "data", "parameters", "inputs", "outputs", "id", "binary_data_size", "other"]
LEAVES = st.sampled_from([None, True, 0, 1, -1, 2**64, 1.5, 1e300, "x", "FP32", "UINT8", "BYTES", "BF16", ""])
DOCUMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
)


@given(st.fixed_dictionaries({"inputs": st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, DOCUMENTS)))}))
@example({"inputs": [tensor(data=[{"a": 1}])]})
def test_whatever_document_comes_is_read_or_refused(document: Any) -> None:
    read_or_refuse(json.dumps(document).encode(), None)


def test_json_and_binary_inputs_are_mixed_and_follow_in_order() -> None:
    body, length = encode(
        *(b"\x01\x02", np.array([3, 4], "<f4").tobytes()),
        inputs=[raw("a", 2, datatype="UINT8"), tensor("b"), raw("c")],
        outputs=[{"name": "y", "parameters": {"binary_data": True, "note": 7}}, {"name": "z"}],
        id="a7",
        parameters={"binary_data_output": False, "priority": 3},
    )
    request = read_request(body, length)
    assert {name: array.tolist() for name, array in request.tensors.items()} == {
        "a": [1, 2],
        "b": [1.0, 2.5],
        "c": [3.0, 4.0],
    }
    assert request.outputs == (
        RequestedOutput(name="y", binary=True, parameters={"binary_data": True, "note": 7}),
        RequestedOutput(name="z"),
    )
    assert (request.id, request.parameters["priority"], request.binary_default) == ("a7", 3, False)


def test_an_inputs_own_parameters_are_kept() -> None:
    inputs = [
        raw("a") | {"parameters": {"binary_data_size": 8, "k": "v"}},
        tensor("b", parameters={"n": 1.5}),
        raw("c"),
    ]
    body, length = encode(b"\0" * 16, inputs=inputs)
    assert read_request(body, length).input_parameters == {"a": {"k": "v"}, "b": {"n": 1.5}}


def test_what_is_null_is_as_good_as_absent() -> None:
    body, _ = encode(inputs=[tensor(parameters=None)], outputs=None, id=None, parameters=None)
    request = read_request(body)
    assert (request.outputs, request.id, request.parameters) == ((), "", {})


def test_nan_passes_where_the_form_can_say_it() -> None:
    body, length = encode(np.array([np.nan, np.inf], "<f4").tobytes(), inputs=[raw()])
    np.testing.assert_array_equal(read_request(body, length).tensors["x"], [np.nan, np.inf])


@pytest.mark.parametrize(
    ("length", "said"),
    [
        *((text, "expected a number of bytes") for text in ("-1", "+1", "1.0", "", "x", " 1", "²", "1_0", "9" * 5000)),
        (b"-1", "expected a number of bytes"),
        ("0", "the body is not JSON"),
        ("999999", "but the body has"),
        ("9" * 18, "but the body has"),
        ("10", "the body is not JSON"),
    ],
)
def test_a_bad_header_length_is_named(length: str | bytes, said: str) -> None:
    body, _ = encode(b"\0" * 8, inputs=[raw()])
    with pytest.raises(InvalidRequest, match=said):
        read_request(body, length)


@pytest.mark.parametrize(
    ("entry", "tail", "said"),
    [
        (raw(size=7), b"\0" * 7, "expected 8 bytes for FP32"),
        (raw(size=9), b"\0" * 9, "expected 8 bytes for FP32"),
        (raw(size=8), b"\0" * 7, "expected 8 bytes behind the JSON, got 7"),
        (raw(size=2**62), b"\0" * 8, "bytes behind the JSON, got 8"),
        (raw(size=8), b"\0" * 9, "1 bytes are left"),
        (raw(size=True), b"\0", "expected a size in binary_data_size, got True"),
        (raw(size=8.0), b"\0" * 8, "expected a size in binary_data_size, got 8.0"),
        (raw(size=-8), b"\0" * 8, "expected a size in binary_data_size, got -8"),
        (raw(size="8"), b"\0" * 8, "expected a size in binary_data_size, got '8'"),
        (raw(data=[1, 2]), b"\0" * 8, "expected data or binary_data_size, got both"),
        (raw(data=None), b"\0" * 8, "expected data or binary_data_size, got both"),
        (raw(shape=[-2]), b"\0" * 8, "non-negative integer"),
        (raw(datatype="BYTES", shape=[1]), b"\xff\xff\xff\x7f0000", "claims more bytes"),
        (raw(parameters={"shared_memory_region": "r"}), b"", "no shared memory"),
        (tensor(), b"\0", "1 bytes are left"),
    ],
)
def test_binary_data_that_lies_is_named(entry: dict[str, Any], tail: bytes, said: str) -> None:
    body, length = encode(tail, inputs=[entry])
    with pytest.raises((InvalidRequest, TensorError), match=said):
        read_request(body, length)


def test_binary_sizes_without_the_header_are_named() -> None:
    body, _ = encode(inputs=[raw()])
    with pytest.raises(InvalidRequest, match="is Inference-Header-Content-Length the length of the JSON"):
        read_request(body)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"inputs": [tensor()], "extra": 1}, r"the request has unknown fields \['extra'\]"),
        ({"inputs": [tensor(extra=1)]}, r"input 'x' has unknown fields \['extra'\]"),
        ({"inputs": [tensor()], "outputs": [{"name": "y", "extra": 1}]}, r"output 'y' has unknown fields"),
        ({}, "expected a list of tensors in 'inputs', got none"),
        ({"inputs": {}}, "expected a list of objects in 'inputs', got dict"),
        ({"inputs": [tensor(), tensor()]}, "input 'x' is given twice"),
        ({"inputs": [tensor(str(i)) for i in range(257)]}, "at most 256 tensors in 'inputs', got 257"),
        ({"inputs": [tensor()], "outputs": [{"name": "y"}] * 10_000}, "at most 256 tensors in 'outputs', got 10000"),
        ({"inputs": [tensor()], "outputs": [{"name": "y"}] * 2}, "output 'y' is requested twice"),
        ({"inputs": [tensor()], "outputs": [{"name": 1}]}, "objects with a name in 'outputs'"),
        ({"inputs": [tensor()], "id": 3}, "expected a string in 'id', got int"),
        ({"inputs": [tensor()], "parameters": [1]}, "the request: expected booleans, numbers and strings"),
        ({"inputs": [tensor()], "parameters": {"a": None}}, "the request: expected booleans, numbers and strings"),
        ({"inputs": [tensor(parameters={"a": {}})]}, "input 'x': expected booleans, numbers and strings"),
        ({"inputs": [tensor()], "parameters": {"binary_data_output": 1}}, "expected true or false in binary_data_out"),
        ({"inputs": [tensor(data=[1, 1e39])]}, "outside the range of FP32"),
        ({"inputs": [tensor(data=[1, None])]}, "None is no FP32"),
        ({"inputs": [tensor(datatype="FP16")]}, "FP16 has no JSON form"),
        ({"inputs": [tensor(datatype=nested(900))]}, "name, shape, datatype and data"),
        ({"inputs": [tensor(shape=nested(900))]}, "non-negative integer"),
        ({"inputs": [tensor(data=nested(900))]}, "nested more than 32 deep"),
        ({"inputs": [tensor(shape=[1], data=[{"a": nested(900)}])]}, "is no FP32"),
        ({"inputs": [tensor(parameters={"shared_memory_region": "r"})]}, "no shared memory"),
    ],
)
def test_a_bad_document_is_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises((InvalidRequest, TensorError), match=said) as error:
        read_request(encode(**fields)[0])
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"binary_data": 1}, "expected true or false in binary_data, got 1"),
        ({"classification": -1}, "expected a number of classes in classification, got -1"),
        ({"classification": True}, "expected a number of classes in classification, got True"),
        ({"classification": 1.0}, "expected a number of classes in classification, got 1.0"),
        ({"shared_memory_region": "r"}, "output 'y': the gateway has no shared memory"),
    ],
)
def test_bad_parameters_of_an_output_are_named(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_request(encode(inputs=[tensor()], outputs=[{"name": "y", "parameters": parameters}])[0])


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}',
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [-Infinity]}]}',
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1e400]}]}',
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [' + b"9" * 5000 + b"]}]}",
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": ' + b"[" * 101 + b"]" * 101 + b"}]}",
        b'{"inputs": ' + b"[" * 250_000,
        b"[" * 250_000 + b"]" * 250_000,
        b'{"inputs":' * 250_000,
        b'{"inputs": "\xff\xfe"}',
        b"\xef\xbb\xbf{}",
        b"[]",
        b"null",
        b"",
    ],
)
def test_hostile_json_is_refused(body: bytes) -> None:
    with pytest.raises((InvalidRequest, TensorError)):
        read_request(body)


TWICE = [
    '{"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}], "id": "a", "id": "b"}',
    '{"inputs": [{"name": "x", "name": "x", "shape": [1], "datatype": "INT8", "data": [1]}]}',
    '{"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1], "parameters": {"a": 1, "a": 1}}]}',
    '{"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}], "parameters": {"a": 1, "\\u0061": 1}}',
    '{"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}], "outputs": [{"name":"y","name":"y"}]}',
    '{"inputs": [{"name": ":\\u003a", "name": ":\\u003a", "shape": [1], "datatype": "INT8", "data": [1]}]}',
    '{"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [{}], "data": [1]}]}',
]


@pytest.mark.parametrize("text", TWICE)
def test_a_key_given_twice_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="the same key twice"):
        read_request(text.encode())


@given(st.text(alphabet=':"\\ua{},n', max_size=12), st.text(alphabet=':"\\ua', max_size=8), st.booleans())
def test_strings_never_look_like_keys_given_twice(value: str, key: str, escaped: bool) -> None:
    fields = {"inputs": [tensor(value, shape=[1], datatype="BYTES", data=[value])], "id": value, "parameters": {key: 1}}
    assert read_request(json.dumps(fields, ensure_ascii=escaped).encode()).id == value


@pytest.mark.parametrize("name", ["y", "input:0", 'quoted "\\" :', "\\"])
def test_a_response_is_what_was_asked_for(name: str) -> None:
    asked = InferRequest(
        tensors={},
        outputs=(RequestedOutput(name="z", binary=True), RequestedOutput(name=name), RequestedOutput(name="w")),
        id="a7",
        binary_default=True,
    )
    tensors: Tensors = {name: SCORES, "z": np.array([[1, 2]], np.uint8), "w": np.array([], np.int64), "v": SCORES}
    body, length = write_response("m", "3", asked, tensors, parameters={"note": 1})
    assert length is not None
    document = json.loads(body[:length])
    assert document == {
        "model_name": "m",
        "model_version": "3",
        "id": "a7",
        "parameters": {"note": 1},
        "outputs": [
            {"name": "z", "datatype": "UINT8", "shape": [1, 2], "parameters": {"binary_data_size": 2}},
            {"name": name, "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
            {"name": "w", "datatype": "INT64", "shape": [0], "parameters": {"binary_data_size": 0}},
        ],
    }
    assert body[length:] == b"\x01\x02" + SCORES.tobytes()


def test_json_has_null_for_nan_and_wide_numbers_for_half_precision() -> None:
    tensors: Tensors = {
        "y": SCORES,
        "h": np.array([0.5, np.inf], np.float16),
        "b": np.array([True, False]),
        "big": np.array([1, 2], ">i4"),
        "s": np.array([["a", "é"]]),
        "strided": np.arange(4, dtype=np.int16)[::2],
    }
    body, length = write_response("m", "1", InferRequest(tensors={}), tensors)
    assert length is None
    outputs = json.loads(body)["outputs"]
    assert {output["name"]: (output["datatype"], output["shape"], output["data"]) for output in outputs} == {
        "y": ("FP32", [2, 2], [0.25, 0.5, 1.0, None]),
        "h": ("FP32", [2], [0.5, None]),
        "b": ("BOOL", [2], [True, False]),
        "big": ("INT32", [2], [1, 2]),
        "s": ("BYTES", [1, 2], ["a", "é"]),
        "strided": ("INT16", [2], [0, 2]),
    }


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (from_raw("y", "BF16", (1,), b"\x80\x3f"), "BF16, which has no JSON form; ask for it as binary data"),
        (np.array([b"\xff"], object), "holds bytes that are no text; ask for it as binary data"),
    ],
)
def test_what_json_cannot_say_is_named(output: Array, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        write_response("m", "1", InferRequest(tensors={}), {"y": output})
    assert write_response("m", "1", InferRequest(tensors={}, binary_default=True), {"y": output})[1]


def test_an_unknown_output_is_named() -> None:
    asked = InferRequest(tensors={}, outputs=(RequestedOutput(name="z"),))
    with pytest.raises(InvalidRequest, match=r"unknown outputs \['z'\]; outputs are \['y'\]"):
        write_response("m", "1", asked, {"y": SCORES})


def test_classes_are_given_in_either_form() -> None:
    for binary in (False, True):
        asked = InferRequest(tensors={}, outputs=(RequestedOutput(name="y", classification=1, binary=binary),))
        body, length = write_response("m", "1", asked, {"y": SCORES}, labels={"y": ("cat", "dog")})
        (output,) = json.loads(body[:length])["outputs"]
        assert (output["datatype"], output["shape"]) == ("BYTES", [2, 1])
        data = from_raw("y", "BYTES", (2,), body[length:]).tolist() if binary else output["data"]
        assert [str(text, "ascii") if binary else text for text in data] == ["0.500000:1:dog", "1.000000:0:cat"]
